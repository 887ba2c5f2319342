"""A directory of a store is on a machine once, as long as any process there needs it."""

import errno
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from pyarrow import fs
from python_path import python_path

from mralign.run import shared_copies
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


@pytest.mark.parametrize("harm", [lambda place: (place / "config.json").unlink(), lambda place: shorten(place)])
def test_a_copy_that_has_lost_something_is_made_again(model, own_temporary_directory, harm):
    killed = hold()
    place = Path(killed.stdout.readline().strip())
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    harm(place)
    after = hold()
    assert Path(after.stdout.readline().strip()) == place
    assert (place / "config.json").read_text() == "{}"
    assert (place / "model.safetensors").stat().st_size == 9 * 2**20
    leave(after)
    assert copies(own_temporary_directory) == []


def shorten(place):
    with (place / "model.safetensors").open("r+b") as file:
        file.truncate(17)


class Away:
    """FAKE store: a file of 1 GB that is read for minutes, and one at which it fails."""

    def get_file_info(self, selector):
        told = {"large": 10**9, "small": 1}
        return [fs.FileInfo(f"model/{name}", fs.FileType.File, size=size, mtime_ns=1) for name, size in told.items()]

    def open_input_stream(self, path, compression):
        if path == "model/small":
            raise OSError("the store is away")
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def read(self, size):
        time.sleep(0.1)
        return b"x"


def test_what_fails_leaves_no_half_of_a_copy_and_waits_for_no_large_file(monkeypatch, own_temporary_directory):
    monkeypatch.setattr(shared_copies, "open_filesystem", lambda uri: (Away(), "model"))
    with pytest.raises(OSError, match="the store is away"):
        shared_copy(MODEL)
    assert [name for name in copies(own_temporary_directory) if not name.endswith(".lock")] == []


def test_a_file_that_is_cut_short_is_no_copy(monkeypatch, model):
    listed = shared_copies._files

    def then_replaced(filesystem, inner):
        found = listed(filesystem, inner)
        model.objects["model/config.json"] = b"{"
        return found

    monkeypatch.setattr(shared_copies, "_files", then_replaced)
    with pytest.raises(OSError, match=r"config\.json has another size than it was listed with"):
        shared_copy(MODEL)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_where_the_disk_has_no_locks_every_process_has_its_own_copy(
    monkeypatch, model, own_temporary_directory, number
):
    def refused(descriptor, how):
        raise OSError(number, "no locks here")

    monkeypatch.setattr(shared_copies.fcntl, "flock", refused)
    place = Path(shared_copy(MODEL))
    assert place.parent == own_temporary_directory and (place / "config.json").read_text() == "{}"


def test_a_fork_of_who_copies_keeps_nobody_waiting(model, own_temporary_directory):
    program = f"""
import os, time
from mralign.run import shared_copies
made = shared_copies._make
def make(*arguments, **options):
    if os.fork() == 0:  # has all open files
        time.sleep(60)
        os._exit(0)
    made(*arguments, **options)
shared_copies._make = make
print(shared_copies.shared_copy({MODEL!r}), flush=True)
"""
    environment = {**os.environ, "PYTHONPATH": python_path(Path(__file__).parents[2])}
    child = subprocess.Popen([sys.executable, "-c", program], env=environment, start_new_session=True)
    try:
        assert child.wait(30) == 0
    finally:
        os.killpg(child.pid, signal.SIGKILL)
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
    planted = own_temporary_directory / f"mralign-copies-{os.getuid()}-{platform.node()}"
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
