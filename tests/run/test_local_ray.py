"""Where the workers of a local Ray, and processes of ours, import the package from."""

import os
import subprocess
import sys
from pathlib import Path

from mralign.config import load
from mralign.presets import PRESETS
from mralign.run import local_ray

ROOT = Path(__file__).parents[2]


def test_a_checkout_is_named_before_what_the_user_has_named(tmp_path):
    found = local_ray.import_path(tmp_path, installed=["/site-packages"], given="/mine")
    assert found == {"PYTHONPATH": f"{tmp_path}{os.pathsep}/mine"}
    assert local_ray.import_path(tmp_path, installed=[], given="") == {"PYTHONPATH": str(tmp_path)}


def test_an_installed_package_is_not_named(tmp_path):
    assert local_ray.import_path(tmp_path, installed=[str(tmp_path)], given="") == {}
    assert local_ray.import_path(tmp_path, installed=[str(tmp_path)], given="/mine") == {"PYTHONPATH": "/mine"}
    link = tmp_path / "link"
    link.symlink_to(tmp_path, target_is_directory=True)
    assert local_ray.import_path(tmp_path, installed=[str(link)], given="") == {}


def test_another_process_imports_this_code(tmp_path):
    environment = {**os.environ, **local_ray.import_environment()}
    code = "import mralign; print(mralign.__file__)"
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert Path(said.strip()) == ROOT / "mralign" / "__init__.py"


def test_what_is_set_for_a_ray_of_our_own_ends_with_it(monkeypatch):
    """FAKE start: what Ray makes of the variables is its own."""
    config = load("miniworld", overrides=[], presets_dir=PRESETS)
    theirs, ours = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "RAY_prestart_worker_first_driver"
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv(ours, raising=False)
    monkeypatch.setenv(theirs, "7")
    monkeypatch.setattr(local_ray, "is_running", lambda: False)
    seen = []
    monkeypatch.setattr("ray.init", lambda **given: seen.append((os.environ[theirs], os.environ[ours])))
    local_ray._init(config)
    local_ray.stop()
    assert seen == [("7", "0")]  # the user's stays
    assert os.environ[theirs] == "7" and ours not in os.environ
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr("ray.init", lambda **given: seen.append(os.environ.get(ours)))
    local_ray._init(config)
    assert seen[1:] == [None]
