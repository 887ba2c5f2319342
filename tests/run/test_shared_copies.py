"""A directory of a store is on a machine once, as long as any process there needs it."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from python_path import python_path

from mralign.run.shared_copies import copy_tree, seen_from_outside, shared_copy
from mralign.run.store import Directory

MODEL = "s3://bucket/model"
# Says where its copy lies, and leaves when it is told to.
HOLDER = f"""
import sys
from mralign.run.shared_copies import shared_copy
print(shared_copy({MODEL!r}), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def own_temporary_directory(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path / "tmp"


@pytest.fixture
def model(bucket):
    """In the store: a configuration, a tokenizer in a directory, and weights in two blocks."""
    there = Directory(MODEL)
    there.write_text("config.json", "{}")
    there.write_text("more/tokenizer.json", "[]")
    there.write_bytes("model.safetensors", bytes(9 * 2**20))
    bucket.calls.clear()
    return bucket


def reads(bucket, name):
    return sum(method == "GET" and key == f"model/{name}" for method, key, _ in bucket.calls)


def hold():
    environment = {**os.environ, "PYTHONPATH": python_path(Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def leave(process):
    process.stdin.close()
    assert process.wait(30) == 0


def copies(directory):
    return sorted(path.name for path in directory.glob("mralign-copies-*/*"))


def test_processes_that_come_together_share_one_copy_until_the_last_has_gone(model, own_temporary_directory):
    model.delay_s = 0.3  # the second comes while the first copies
    first, second = hold(), hold()
    places = {first.stdout.readline().strip(), second.stdout.readline().strip()}
    model.delay_s = 0.0
    assert len(places) == 1
    (place,) = map(Path, places)
    assert (place / "more" / "tokenizer.json").read_text() == "[]"
    assert (place / "model.safetensors").stat().st_size == 9 * 2**20
    assert (reads(model, "config.json"), reads(model, "model.safetensors")) == (1, 2)  # a request a block of 8 MiB
    leave(first)
    assert (place / "config.json").read_text() == "{}"
    leave(second)
    assert copies(own_temporary_directory) == []


def test_what_a_killed_process_leaves_is_deleted_by_the_next(model, own_temporary_directory):
    killed = hold()
    old = Path(killed.stdout.readline().strip())
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    half = Path(tempfile.mkdtemp(prefix=f"{old.name}.", dir=old.parent))  # as one that was killed while it copied
    Directory(MODEL).write_text("config.json", '{"model_type": "other"}')
    after = hold()
    new = Path(after.stdout.readline().strip())
    assert new != old and not old.exists() and not half.exists()
    assert (new / "config.json").read_text() == '{"model_type": "other"}'
    leave(after)


def test_a_killed_copy_is_made_again(model, own_temporary_directory):
    model.delay_s = 0.5
    killed = hold()
    end = time.monotonic() + 30
    while not copies(own_temporary_directory) and time.monotonic() < end:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    model.delay_s = 0.0
    after = hold()
    assert (Path(after.stdout.readline().strip()) / "model.safetensors").stat().st_size == 9 * 2**20
    leave(after)
    assert copies(own_temporary_directory) == []


def test_only_what_is_wanted_is_fetched(model):
    place = Path(shared_copy(MODEL, wanted=lambda name: name != "model.safetensors"))
    assert sorted(path.name for path in place.rglob("*")) == ["config.json", "more", "tokenizer.json"]
    assert reads(model, "model.safetensors") == 0
    with pytest.raises(FileNotFoundError, match="s3://bucket/nowhere does not exist"):
        shared_copy("s3://bucket/nowhere")


def test_a_name_that_leads_out_is_refused(bucket, tmp_path):
    bucket.objects["model/../../stolen"] = b"x"
    with pytest.raises(ValueError, match="would lie outside of a copy"):
        shared_copy(MODEL)
    filesystem = Directory(MODEL).filesystem
    with pytest.raises(ValueError, match="would lie outside of a copy"):
        copy_tree(filesystem, "bucket/model", target=tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


def test_a_directory_that_others_may_write_to_is_not_used(model, own_temporary_directory):
    planted = own_temporary_directory / f"mralign-copies-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    place = Path(shared_copy(MODEL))
    assert place.parent == own_temporary_directory and (place / "config.json").read_text() == "{}"


def test_a_change_is_seen_from_outside(model):
    before = seen_from_outside(MODEL)
    assert before == seen_from_outside(MODEL) and len(model.calls) == 2
    Directory(MODEL).write_text("config.json", "{ }")
    assert before != seen_from_outside(MODEL) is not None
    assert seen_from_outside("s3://bucket/nowhere") is None
    assert seen_from_outside("memory://nowhere") is None
