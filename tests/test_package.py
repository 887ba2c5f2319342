"""The package as a user installs it: its wheel, in an environment of its own, far from any checkout."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tomllib
import urllib.request
import venv
import zipfile
from itertools import chain
from pathlib import Path

import pytest
from align_process import SMALL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
NOT_SHIPPED = shutil.ignore_patterns("__pycache__", "*.egg-info")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the files that belong to it: a build leaves directories behind."""
    source, out = tmp_path_factory.mktemp("source") / "mralign", tmp_path_factory.mktemp("wheel")
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "mralign", source / "mralign", ignore=NOT_SHIPPED)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(out)]
    done = run([sys.executable, "-m", "pip", "wheel", *options, str(source)], cwd=out)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The directory of an environment with the wheel, to which the packages of this one are visible."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    done = run([sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel], cwd=home)
    assert done.returncode == 0, done.stderr
    (packages,) = home.glob("lib/python*/site-packages")
    # A directory that is named in a .pth file is only searched: an editable install there is not seen.
    (packages / "of-the-tests.pth").write_text(sysconfig.get_path("purelib"))
    return home


def run(command, *, cwd, **environment):
    """Run a command with no checkout on the path of its modules."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    offline = {"HF_HUB_OFFLINE": "1", "RAY_AUTH_MODE": "disabled", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**inherited, **offline, **environment},
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    there = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("mralign/")}
    files = [path for path in (ROOT / "mralign").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert there == {path.relative_to(ROOT).as_posix() for path in files}
    assert "mralign/py.typed" in there


# What a declared package brings along by its own declaration.
BROUGHT = {
    "huggingface-hub": "transformers",
    "safetensors": "transformers",
    "tokenizers": "transformers",
    "markupsafe": "jinja2",
    "pydantic-core": "pydantic",
    "tensorboardx": "ray",
    "triton": "torch",
}
DISTRIBUTIONS = {"yaml": "pyyaml", "sklearn": "scikit-learn", "stemmer": "pystemmer"}  # where names differ


def test_every_package_that_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    declared = {canonicalize_name(Requirement(text).name) for text in listed}
    imported = set()
    for path in (ROOT / "mralign").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module)
    tops = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names - {"mralign"}
    assert {"torch", "typer", "yaml"} <= tops
    wanted = {DISTRIBUTIONS.get(name.lower(), canonicalize_name(name)) for name in tops}
    assert {BROUGHT.get(name, name) for name in wanted} <= declared


def test_the_wheel_brings_the_command_and_says_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (entry_points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        assert "mralign = mralign.cli.entry:command" in archive.read(entry_points).decode()
        said = archive.read(metadata).decode()
    for wanted in ("License-Expression: Apache-2.0", "Author: mralign", "Typing :: Typed", "Requires-Dist: typer"):
        assert wanted in said


def test_the_installed_command_works_without_a_checkout(installed, tmp_path):
    """Every file that comes with the package is found where it was installed."""
    command = installed / "bin" / "mralign"
    where = run([installed / "bin" / "python", "-c", "import mralign; print(mralign.__file__)"], cwd=tmp_path)
    assert Path(where.stdout.strip()).is_relative_to(installed)
    said = run([command, "version"], cwd=tmp_path)
    assert re.fullmatch(r"mralign \d+\.\d+\.\d+\n", said.stdout), said.stderr
    done = run([command, "align", "--dry-run"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/runs/miniworld" in done.stdout
    config = run([command, "config", "--preset", "paper"], cwd=tmp_path)
    assert "  path: Qwen/Qwen3-8B\n" in config.stdout, config.stderr
    found = json.loads(run([command, "doctor", "--json"], cwd=tmp_path).stdout)
    assert found["versions"]["mralign"] == said.stdout.split()[1]
    assert "vllm" in found["missing_extras"].get("gpu", ["vllm"])
    assert list(tmp_path.iterdir()) == []  # nothing of all that writes


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.long
def test_the_installed_command_runs_from_questions_to_a_page_that_is_served(installed, tmp_path):
    command = installed / "bin" / "mralign"
    done = run([command, "align", *SMALL], cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-5000:]
    page = tmp_path / "runs" / "miniworld" / "report" / "index.html"
    assert str(page) in done.stdout
    state = json.loads(run([command, "status", "runs/miniworld", "--json"], cwd=tmp_path).stdout)
    assert state["finished"] is True
    again = run([command, "align", *SMALL], cwd=tmp_path)
    assert again.returncode == 0, again.stderr[-5000:]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    viewer = subprocess.Popen(
        [str(command), "view", "runs/miniworld", "--no-browser"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = viewer.stdout.readline().split("under ")[1].split()[0]
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert "mralign" in answer.read().decode()
    finally:
        viewer.send_signal(signal.SIGINT)
        _, errors = viewer.communicate(timeout=60)
    assert viewer.returncode == 0, errors
