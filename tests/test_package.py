"""The package as a user installs it: its wheel, in an environment of its own, far from any checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

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


def test_the_wheel_brings_the_command_and_says_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (entry_points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        assert "mralign = mralign.cli.entry:main" in archive.read(entry_points).decode()
        said = archive.read(metadata).decode()
    for wanted in ("License-Expression: Apache-2.0", "Author: mralign", "Typing :: Typed", "Requires-Dist: typer"):
        assert wanted in said


def test_the_installed_command_plans_a_run_without_a_checkout(installed, tmp_path):
    done = run([installed / "bin" / "mralign", "align", "--dry-run"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"run directory: {tmp_path}/runs/miniworld\n")
    assert list(tmp_path.iterdir()) == []
    where = run([installed / "bin" / "python", "-c", "import mralign; print(mralign.__file__)"], cwd=tmp_path)
    assert Path(where.stdout.strip()).is_relative_to(installed)
