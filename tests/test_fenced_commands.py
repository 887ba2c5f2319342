"""Every fenced command of README and docs/ is run here, or is named here with the test that runs it.

A command of `mralign` that only prints (--dry-run, --help, ...) is run as it stands, in a directory with the files that
it names. All others stand in one of the two lists; a new command fails until somebody has decided.
"""

import json
import shlex
import zipfile
from pathlib import Path

import pytest
from test_readme import FENCE, PAGES, ROOT, filled, joined

from mralign.cli import commands

# Too long, or not to be run twice: the test that runs it, or the same with other arguments.
RUN_BY = {
    "make align": "tests/integration/test_job.py::test_the_road_as_a_job",
    "make compare": "tests/integration/test_compare.py::test_the_command_on_one_small_world",
    "mralign study --out runs/study": "tests/comparison/test_study.py::test_a_minute_study_measures_its_plan",
    "mralign study --plan better-weights --out runs/better-weights": (
        "tests/comparison/test_choice_page.py::test_a_study_of_two_parts_is_run_part_by_part"
    ),
    "mralign study --plan better-weights --rows docs/results/better-weights.csv --page docs/results": (
        "tests/comparison/test_choice_page.py::test_the_kept_rows_of_the_study_give_its_page"
    ),
    "mralign study --rows docs/results/study.csv --page docs/results": (
        "tests/comparison/test_study.py::test_the_kept_rows_of_the_study_give_its_page"
    ),
    "ray job submit --working-dir . -- python jobs/align.py --preset paper run.dir=s3://bucket/run": (
        "tests/integration/test_job.py::test_the_road_as_a_job"
    ),
    "mralign align --only agreement annotation.human=FILE.csv": (
        "tests/test_jobs.py::test_only_the_agreement_of_an_annotated_run_with_a_human_beside_it"
    ),
    "mralign align --preset import-rollouts model.path=DIR rollouts.import_on=ON.jsonl rollouts.import_off=OFF.jsonl": (
        "tests/integration/test_import_rollouts.py::test_real_traces_and_a_real_tokenizer"
    ),
    "mralign taxonomy --preset NAME --out DIR section.field=value": (
        "tests/integration/test_taxonomy_job.py::test_a_killed_discovery_goes_on_and_its_taxonomy_is_used"
    ),
    "mralign evaluate --model Qwen/Qwen3-8B --adapter DIR --suite paper --data DIR --benchmarks nq_open": (
        "tests/integration/test_evaluate.py::test_every_method_then_nothing_then_a_benchmark_and_a_method_more"
    ),
    "mralign evaluate --compare runs/evaluate/Qwen_Qwen3-8B runs/first": (
        "tests/comparison/test_runs.py::test_the_difference_is_the_second_minus_the_first"
    ),
    "mralign evaluate --compare RUN:base_think_on RUN/round-2": (
        "tests/comparison/test_runs.py::test_the_difference_is_the_second_minus_the_first"
    ),
    "mralign evaluate --predictions mine.jsonl": (
        "tests/integration/test_api.py::test_predictions_are_scored_and_two_files_compared"
    ),
    "mralign evaluate --predictions mine.jsonl --suite paper --data DIR --benchmarks nq_open": (
        "tests/integration/test_api.py::test_predictions_find_the_questions_of_a_suite"
    ),
    "mralign export runs/first --to first-examples": (
        "tests/exchange/test_dataset.py::test_the_command_says_what_it_wrote"
    ),
    "mralign fetch s3://bucket/run/training/7afc5a652d71a7dc/model model": (
        "tests/report/test_closing.py::test_a_model_in_a_store_is_fetched_by_the_line_that_is_printed"
    ),
    "mralign ablate --table main --preset miniworld": (
        "tests/test_ablate.py::test_finished_rows_become_one_table_with_its_files"
    ),
    "mralign ablate --table ablation --preset miniworld": (
        "tests/comparison/test_run_tables.py::test_every_shipped_table_loads_and_its_rows_differ"
    ),
    "mralign ablate --table lambda --preset miniworld": (
        "tests/comparison/test_run_tables.py::test_every_shipped_table_loads_and_its_rows_differ"
    ),
    "mralign view runs/first runs/second": 'tests/cli/test_look.py::"view"',
    ".venv/bin/mralign view runs/miniworld": 'tests/test_package.py::"view", "runs/miniworld"',
    "mralign report runs/first": "tests/cli/test_look.py::def test_",
    "mralign distill runs/first": (
        "tests/distillation/test_distill.py::test_the_command_writes_a_labeller_and_says_how_far_to_trust_it"
    ),
    "mralign signal RUN_DIR": 'tests/transitions/test_signal_stage.py::"signal", str(home)',
    "mralign status runs/first": ("tests/cli/test_status.py::def test_"),
    "python -m mralign.miniworld build --seed S --out DIR": (
        "tests/miniworld/test_miniworld_build.py::test_same_seed_same_questions_and_model"
    ),
    "python -m pytest tests/training/test_gpu.py": "tests/training/test_gpu.py::def test_",
}
# Read by tests/test_readme.py only, and why.
ONLY_READ = {
    "pip install '.[gpu]'": "installs CUDA's packages; its grammar and extras are read",
    "pip install 'mralign[hub]'": "installs packages; its grammar and extras are read",
    "pip install 'mralign[discovery]'": "installs packages; its grammar and extras are read",
    "python tests/benchmarks/prefixes.py --rows 48": "a minute; `make bench` runs it quickly",
    "python tests/benchmarks/thrift.py --only overlap --repeats 1 --latency 2": "minutes; `make bench` runs less of it",
    "python tests/benchmarks/thrift.py --repeats 2": "a minute; `make bench` runs it quickly",
    "python tests/benchmarks/distill.py --repeats 4": "minutes; `make bench` runs it quickly",
    "python tests/benchmarks/storage.py": "a quarter of an hour; `make bench` runs it quickly",
    "python tests/benchmarks/z0.py": "a quarter of an hour; `make bench` runs it quickly",
    "python tests/benchmarks/training.py": "a quarter of an hour; `make bench` runs it quickly",
}
PRINTS = ("--dry-run", "--help")
PRINTING = ("config", "version", "doctor")


def fenced_commands():
    """The commands of all fenced blocks, each once, as one line without its comment."""
    found = {}
    for page in [ROOT / "README.md", *PAGES]:
        for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
            lines = [] if language else joined(block)
            for line in lines:
                command = " ".join(line.partition(" #")[0].split())
                if command:
                    found[command] = page.name
    return found


COMMANDS = fenced_commands()


def only_prints(command):
    words = shlex.split(command)
    return words[0] == "mralign" and (words[1] in PRINTING or any(word in PRINTS for word in words))


PRINTED = [command for command in COMMANDS if only_prints(command)]


def plant_suite(directory):
    """The files of the suite `paper`, a question each."""
    record = {"question": "who?", "correct_answer": "Ada", "distractor1": "B", "distractor2": "C", "distractor3": "D"}
    with zipfile.ZipFile(directory / "SciQ.zip", "w") as packed:
        for name in ("train", "valid", "test"):
            packed.writestr(f"SciQ/{name}.json", json.dumps([record]))
    (directory / "simple_qa_test_set.csv").write_text("metadata,problem,answer\n{},who?,Ada\n")
    columns = "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source"
    (directory / "TruthfulQA.csv").write_text(f"{columns}\nA,B,who?,Ada,Ada,Bob,x\n")
    (directory / "longfact-objects").mkdir()
    (directory / "longfact-objects" / "longfact-objects_art.jsonl").write_text('{"prompt": "Who was Ada?"}\n')


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with the question files that the documents name."""
    for name in ("NQ-open.train.jsonl", "NQ-open.dev.jsonl", "mine.jsonl", "mine_test.jsonl"):
        (tmp_path / name).write_text(f'{{"question": "who wrote {name}", "answer": ["Ada"]}}\n')
    plant_suite(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("OPENAI_API_KEY", "DEEPSEEK_API_KEY", "SERPER_API_KEY"):
        monkeypatch.setenv(name, "a-key-of-the-test")
    return tmp_path


@pytest.mark.parametrize("command", PRINTED)
def test_a_command_that_only_prints_is_run(command, place, capsys):
    before = sorted(path for path in place.rglob("*") if path.is_file())
    words = filled(shlex.split(command)[1:], place)
    assert commands.run(words) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    told = ("run directory:", "Usage: mralign", "minutes of one idle core")
    assert any(words_of in said for words_of in told) or words[0] in PRINTING
    assert sorted(path for path in place.rglob("*") if path.is_file()) == before


@pytest.mark.parametrize("command", [command for command in COMMANDS if not only_prints(command)])
def test_every_other_command_has_a_test_or_a_reason(command):
    known = RUN_BY.get(command) or ONLY_READ.get(command)
    assert known, f"{COMMANDS[command]}: say in {Path(__file__).name} which test runs {command!r}, or why none does"


def test_the_lists_name_commands_of_the_documents_and_tests_that_exist():
    assert not (RUN_BY.keys() | ONLY_READ.keys()) - COMMANDS.keys()
    assert not RUN_BY.keys() & ONLY_READ.keys()
    for named in RUN_BY.values():
        file, _, name = named.partition("::")
        assert name in (ROOT / file).read_text(encoding="utf-8"), named


def test_the_documents_have_commands_of_each_kind():
    assert len(PRINTED) >= 6 and {"make align", "make compare"} <= COMMANDS.keys()
