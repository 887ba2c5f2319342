"""Every command that the documents show is taken to what would read it.

That is the jobs' parsers and the configuration, `make`, pip's grammar of requirements, Ray's own command line. A
command of another kind fails until it has a reader here.
"""

import ast
import importlib
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
from cluster_commands import read_docker, read_kubectl, read_ray, read_script, read_sed
from command_line import parsed
from packaging.requirements import InvalidRequirement, Requirement

from mralign.cli import commands, evaluate
from mralign.comparison import run_tables
from mralign.config import load

ROOT = Path(__file__).parents[1]
PRESETS = ROOT / "mralign" / "presets"
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
# docs/real-inputs.md tells of commands that were wrong once, docs/comparison.md of other tools.
PAGES = [path for path in sorted((ROOT / "docs").glob("*.md")) if path.stem not in ("real-inputs", "comparison")]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "cluster/README.md", "cluster/Dockerfile")),
    *PAGES,
    *sorted((ROOT / "cluster").rglob("*.yaml")),
    ROOT / "cluster" / "mralign.sbatch",
    *sorted(PRESETS.rglob("*.yaml")),
    *sorted((ROOT / "jobs").glob("*.py")),
]
HEADS = ("make", "mralign", "python", "pip", "ray", "docker", "kubectl", "export", "sed", "sbatch", "squeue", "scancel")
FENCE = re.compile(r"^[ ]*```(\w*)\n(.*?)^[ ]*```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


def joined(text):
    """The lines of a block, those that a backslash or a deeper indentation continues put together."""
    return re.sub(r"\\\n\s*", " ", text).splitlines()


def is_command(line):
    return line.split(" ")[0] in HEADS and (line == "make" or len(line.split()) > 1)


def commands_of(text):
    """The commands in a document: of fenced blocks, of inline code, and of indented or commented lines."""
    found = []
    for language, block in FENCE.findall(text):
        if language:  # what was printed, trees of files, code
            continue
        found += [line.strip() for line in joined(block) if line.strip()]
    plain = FENCE.sub("", text)
    inline = [" ".join(code.split()) for code in INLINE.findall(plain)]
    found += [code for code in inline if is_command(code)]
    for line in joined(plain):
        told = re.match(r"(?:    |#   )\s*(.*)", line)
        pieces = told[1].split(" && ") if told else []
        found += [piece.strip() for piece in pieces if is_command(piece.strip())]
    return found


def text_of(document):
    """What a document says to its reader; of a program its docstring, of the files in cluster/ their comments."""
    text = document.read_text()
    if document.is_relative_to(ROOT / "cluster") and document.suffix != ".md":
        return "".join(line for line in text.splitlines(keepends=True) if line.lstrip().startswith("#"))
    return ast.get_docstring(ast.parse(text), clean=False) if document.suffix == ".py" else text


CASES = [(path.relative_to(ROOT).as_posix(), line) for path in DOCUMENTS for line in commands_of(text_of(path))]


def readings(command):
    """The words of a command; what stands in square brackets is given, and of alternatives each in its turn."""
    words = [re.sub(r"\[:\w+\]", "", word) for word in shlex.split(command, comments=True)]
    words = words[: words.index("|")] if "| jq" in command else words  # what jq is told is its own affair
    given, skipping = [], False
    for word in words:
        opens = word.startswith("[") and not word.startswith("[{")
        closes = word.endswith("]") and ("[" not in word or opens)
        bare = word[opens : len(word) - closes]
        skipping = skipping or bare == "|"
        if not skipping and bare not in ("...", "section.field=value"):
            given.append(bare)
        skipping = skipping and not closes
    most = max((word.count("|") for word in given if "=[" not in word), default=0) + 1
    for turn in range(most):
        yield [alternative(word, turn) for word in given]


def alternative(word, turn):
    choices = word.split("|") if "=[" not in word and "://" not in word else [word]
    return choices[min(turn, len(choices) - 1)]


SETTING = re.compile(r"[a-z_]+\.[a-z_.]+=\S+")


def settings_of(text):
    """Inline code that is nothing but settings of a run."""
    codes = [code.split() for code in INLINE.findall(FENCE.sub("", text)) if code != "section.field=value"]
    return [" ".join(words) for words in codes if words and all(map(SETTING.fullmatch, words))]


SETTINGS = [(path.name, code) for path in DOCUMENTS if path.suffix == ".md" for code in settings_of(path.read_text())]

NAMES = {"--preset": "miniworld", "--suite": "quick", "--table": "main", "--until": "weights", "--only": "weights"}
FILES = {"--preset": "miniworld.yaml", "--suite": "suites/quick.yaml", "--table": "tables/main.yaml"}


def filled(words, place):
    """The words with something real for NAME, FILE, STAGE, DIR and the like."""
    found = []
    for before, word in zip(["", *words], words, strict=False):
        if word in ("NAME", "STAGE") and before in NAMES:
            word = NAMES[before]
        elif word == "FILE" and before in FILES:
            word = str(PRESETS / FILES[before])
        elif word == "SECTION":
            word = "training"
        elif word == "S":
            word = "0"
        elif re.fullmatch(r"DIR(\|NAME)?", word):
            word = str(place)
        found.append(word)
    return found


def read_mralign(words, place):
    """The parser of the command, and the configuration that it would make of the arguments."""
    name, arguments = words[0], words[1:]
    if arguments in ([], ["--help"]):  # a mention of the command
        assert name in commands.COMMANDS, f"there is no command {name}"
        return
    given = parsed(name, *arguments)
    if name == "config":  # it only prints
        assert commands.run(words) == 0, f"mralign {' '.join(words)}"
    if "settings" not in given or given.get("compare"):
        return
    if name == "evaluate":
        names = [one for one in given["benchmarks"] or () if one != "NAME"]
        wanted = {key: given[key] for key in ("model", "adapter", "suite", "data")}
        evaluate.configure(given["settings"] or (), benchmarks=names, **wanted)
        return
    load(given["preset"], overrides=given["settings"] or (), presets_dir=PRESETS)
    if name == "ablate":
        run_tables.read_table(given["table"], tables_dir=PRESETS / "tables")


def read_python(words, place):
    if words[0].endswith(".py") and words[0].startswith("jobs/"):
        assert (ROOT / words[0]).is_file(), f"there is no {words[0]}"
        read_mralign([Path(words[0]).stem, *words[1:]], place)
    elif words[:2] == ["-m", "pytest"]:
        assert (ROOT / words[2].partition("::")[0]).exists(), f"there is no {words[2]}"
    elif words[:2] == ["-m", "mralign.miniworld"]:
        importlib.import_module("mralign.miniworld.__main__").make_parser().parse_args(words[2:])
    elif words[:2] == ["-m", "mralign.config.settings_page"]:
        assert callable(importlib.import_module(words[1]).page) and len(words) == 2
    else:
        assert words[0].startswith(("tests/benchmarks/", "tests/code_figures.py", "tests/large_runs.py")), (
            f"no reader for python {words}"
        )
        assert (ROOT / words[0]).is_file() or "NAME" in words[0]


def read_make(words, place):
    targets = [word for word in words if "=" not in word]
    done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(done.stderr)
    given = next((word.removeprefix("ARGS=") for word in words if word.startswith("ARGS=")), "")
    if given and targets[0] in ("align", "compare"):
        read_mralign([targets[0], *filled([w for w in shlex.split(given) if w != "..."], place)], place)


def read_pip(words, place):
    """pip's grammar: local directories with extras of ours, requirement files that exist, valid requirements."""
    assert words[0] == "install", f"no reader for pip {words}"
    options = iter(words[1:])
    for word in options:
        if word == "-r":
            assert (ROOT / next(options)).is_file()
        elif word == "--index-url":
            next(options)
        elif word.startswith(("-", "$")):
            continue
        elif word.startswith("."):
            path, _, extras = word.rstrip("]").partition("[")
            assert path == "." and set(filter(None, extras.split(","))) <= EXTRAS, f"pip install {word}"
        else:
            wanted = Requirement(word)
            assert wanted.url is None, f"{word}: pip knows no directory behind an @"
            assert wanted.name != "mralign" or wanted.extras <= EXTRAS, f"{word}: allowed extras are {sorted(EXTRAS)}"


def read_command_of_ray(words, place):
    """Ray's own command line; what it would start is read as well."""
    if words[:2] in (["job", "stop"], ["job", "logs"]):
        return
    if words[:2] != ["job", "submit"]:
        given = read_ray(words, root=ROOT)
        if words[0] == "exec":
            read(given["cmd"], place)
    elif len(words) > 2:
        from ray.dashboard.modules.job.cli import submit

        entrypoint = submit.make_context("submit", list(words[2:])).params["entrypoint"]
        assert entrypoint[0] in ("python", "mralign")
        READERS[entrypoint[0]](list(entrypoint[1:]), place)


def read_command_of_docker(words, place):
    read_docker(words, root=ROOT)
    if "exec" in words:
        started = words[words.index("exec") + 2 :]
        READERS[started[0]](started[1:], place)


def read_command_of_slurm(words, place):
    assert words == ["--name", "mralign"], f"no reader for {words}"


def read_export(words, place):
    assert all(re.fullmatch(r"[A-Z_]+=\S+", word) for word in words if word != "...")


READERS = {
    "make": read_make,
    "mralign": read_mralign,
    "python": read_python,
    "pip": read_pip,
    "export": read_export,
    "ray": read_command_of_ray,
    "docker": read_command_of_docker,
    "kubectl": lambda words, place: read_kubectl(words, root=ROOT),
    "sed": lambda words, place: read_sed(words, root=ROOT),
    "sbatch": lambda words, place: read_mralign(["align", *read_script(words, root=ROOT)], place),
    "squeue": read_command_of_slurm,
    "scancel": read_command_of_slurm,
}
assert set(READERS) == set(HEADS)


def read(command, place):
    for words in readings(command.removeprefix(".venv/bin/")):
        assert words and words[0] in READERS, f"{command!r}: no reader for this command; give it one in {__file__}"
        READERS[words[0]](filled(words[1:], place), place)


@pytest.fixture(autouse=True)
def _jobs(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(("document", "command"), CASES, ids=[f"{name}: {line[:60]}" for name, line in CASES])
def test_every_command_is_one_that_its_reader_takes(document, command, tmp_path):
    read(command, tmp_path)


@pytest.mark.parametrize(("document", "code"), SETTINGS, ids=[f"{name}: {code[:60]}" for name, code in SETTINGS])
def test_settings_in_the_text_are_settings_of_a_run(document, code):
    given = [word.partition("=") for word in code.split()]
    for turn in range(max(value.count("|") for _, _, value in given) + 1):
        overrides = [f"{name}={alternative(value, turn)}" for name, _, value in given]
        load("miniworld", overrides=overrides, presets_dir=PRESETS)


def test_the_documents_hold_the_commands_that_matter():
    wanted_lines = {
        "README.md": (
            "make align",
            "make test",
            "mralign align --preset paper --dry-run",
            "ray job submit",
            "install '.[",
        ),
        "docs/results.md": ("make compare ARGS=",),
        "docs/evaluation.md": ("mralign evaluate --compare",),
    }
    for document, wanted in wanted_lines.items():
        lines = [line for name, line in CASES if name == document]
        assert all(any(words in line for line in lines) for words in wanted), (document, wanted)
    assert {name for name, _ in CASES} >= {"README.md", "cluster/README.md", "cluster/Dockerfile"}


@pytest.mark.parametrize(
    "command",
    [
        "pip install 'mralign[gpu] @ .'",
        "pip install 'mralign[gpus]'",
        "pip install -e '.[gpus]'",
        "make aline",
        'make compare ARGS="--metods sft"',
        "mralign align --presett miniworld",
        "mralign evaluate --suite quick --benchmarks nothing",
        "mralign conpare",
        "mralign config trainings",
        "python jobs/align.py --presett miniworld",
        "python jobs/align.py training.epoch=1",
        "python jobs/align.py --preset papers",
        "python jobs/evaluate.py --suite quick --benchmarks nothing",
        "python jobs/ablate.py --table mane",
        "python jobs/gone.py",
        "python -m mralign.miniworld built",
        "ray job submit --workdir . -- python jobs/align.py",
        "docker build -f cluster/Dockerfile --target tpu -t x .",
        "docker compose -f cluster/compose.yaml logs driver",
        "docker compose -f cluster/compose.yaml exec head ray job submit -- mralign aline",
        "kubectl apply -f cluster/gone.yaml",
        "kubectl apply -k cluster/kuberay/overlays/tpu",
        "kubectl delete rayservice mralign",
        "ray up -y cluster/aws.yaml",
        "ray upp mine.yaml",
        'ray exec mine.yaml "ray job submit -- mralign align training.epoch=1"',
        "sed -e s,YOUR_AMI,x, cluster/aws.yaml > mine.yaml",
        "sbatch cluster/mralign.sbatch --preset papers",
        "curl https://example.org",
    ],
)
def test_a_wrong_command_is_noticed(command, tmp_path):
    from click import ClickException
    from typer import TyperException

    wrong = (AssertionError, ValueError, OSError, InvalidRequirement, ClickException, TyperException, SystemExit)
    with pytest.raises(wrong):
        read(command, tmp_path)


def blocks_of(page, language):
    """The fenced blocks of a language on a page of docs/."""
    return [block for found, block in FENCE.findall((ROOT / "docs" / page).read_text()) if found == language]


def test_the_annotators_that_the_page_shows_are_read(tmp_path):
    configs = []
    for block in blocks_of("annotators.md", "yaml"):
        preset = tmp_path / "own.yaml"
        preset.write_text(f"questions: {{train: [{{name: a, path: a}}]}}\n{block}")
        configs.append(load(str(preset)).annotation)
    models, own, cascade = configs
    assert [one.engine for one in models.annotators] == ["vllm", "http"]
    assert own.adjudicator.labeller == cascade.cascade.labeller == "runs/first/labeller"


def test_the_questions_that_the_page_shows_are_read(tmp_path):
    (block,) = blocks_of("questions.md", "yaml")
    preset = tmp_path / "own.yaml"
    preset.write_text(block)
    (source,) = load(str(preset)).questions.train
    assert source.fields["answers"] == ("answer", "answer.aliases")


def test_the_python_of_the_notebook_runs():
    (block,) = blocks_of("transitions.md", "python")
    steps = ["framing", {"backtracking", "self-verification"}, "summarisation"]
    exec(compile(block, "transitions.md", "exec"), {"helped": [steps] * 3, "hurt": [steps[::-1]] * 3})
