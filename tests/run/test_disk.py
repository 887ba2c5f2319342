"""A full disk: a real one where a small file system can be mounted, told in one sentence, with nothing left behind."""

import errno
import logging
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from mralign.cli.guard import guarded
from mralign.rows.schema import REJECTS
from mralign.run.disk import DiskFull, free, full_disk, no_room, own_temporary_directory
from mralign.run.faults import user_sentence
from mralign.run.store import Directory, StageDir

ROOT = Path(__file__).parents[2]


@pytest.fixture
def small_disk(tmp_path):
    """A directory on a file system of 2 MiB of its own."""
    place = tmp_path / "small"
    place.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"no file system can be mounted here: {mount.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place, *, leave):
    """Leave so many bytes of the disk."""
    with (place / "filler").open("wb") as stream:
        stream.write(b"x" * max(0, free(str(place)) - leave))


def test_a_part_that_does_not_fit_leaves_nothing_and_says_where(small_disk):
    out = StageDir(f"{small_disk}/run/examples/aa", stage="examples", fingerprint="aa")
    texts = pa.array([f"{n:x}" * 7 for n in range(2**17)])
    schema = pa.schema([("text", pa.string())])
    small = pa.table({"text": ["a"]}, schema=schema)
    out.commit("part-0.parquet", small, schema=schema, rejects=REJECTS.empty_table())
    fill(small_disk, leave=64 * 1024)
    with pytest.raises(DiskFull, match=rf"no space left on the disk of {out.path()}; make room there .* same command"):
        out.commit("part-1.parquet", pa.table({"text": texts}, schema=schema), schema=schema)
    assert [path.name for path in Path(out.path()).iterdir()] == ["part-0.parquet"]
    (small_disk / "filler").unlink()
    out.commit("part-1.parquet", pa.table({"text": texts}, schema=schema).slice(0, 9), schema=schema)
    assert out.parts() == ["part-0.parquet", "part-1.parquet"]


def test_a_file_that_replaces_another_leaves_that_one_where_it_does_not_fit(small_disk):
    directory = Directory(str(small_disk / "report"))
    directory.write_text("index.html", "old")
    fill(small_disk, leave=4096)
    with pytest.raises(DiskFull, match=r"the disk of .*/report"):
        directory.write_bytes("index.html", b"n" * 2**20)
    assert directory.read_text("index.html") == "old"
    assert [path.name for path in Path(directory.path()).iterdir()] == ["index.html"]


@pytest.mark.parametrize("write", ["torch", "safetensors", "plain"])
def test_whatever_library_writes_a_full_disk_is_known_as_one(small_disk, write):
    """Torch calls it "unexpected pos" or a failed enforcement, safetensors an I/O error."""
    values = {"weights": torch.zeros(2**20)}
    writers = {
        "torch": lambda: torch.save(values, small_disk / "file"),
        "safetensors": lambda: save_file(values, small_disk / "file"),
        "plain": lambda: (small_disk / "file").write_bytes(b"x" * 2**22),
    }
    with pytest.raises(Exception) as caught:  # noqa: PT011
        writers[write]()
    said = full_disk(caught.value, places=[str(small_disk)])
    assert said is not None and f"the disk of {small_disk}" in said


def test_another_fault_is_none_of_a_full_disk(tmp_path):
    for error in (ValueError("no"), OSError(errno.ENOENT, "gone"), RuntimeError("shape")):
        assert full_disk(error, places=[str(tmp_path), str(tmp_path / "gone")]) is None


def test_the_fault_is_found_where_libraries_carry_it_along():
    inner = OSError(errno.ENOSPC, "No space left on device", "/data/run/x")
    outer = RuntimeError("task failed")
    outer.cause = inner  # as Ray's errors do
    assert "the disk of /data/run/x" in full_disk(outer)
    raised = RuntimeError("again")
    raised.__cause__ = outer
    assert "the disk of /data/run/x" in full_disk(raised)
    assert full_disk(ExceptionGroup("several", [ValueError("a"), inner])) is not None


@pytest.mark.integration
@pytest.mark.usefixtures("local_ray")
def test_what_ray_makes_of_a_full_disk_in_its_workers_is_one_sentence(small_disk):
    """A task's exception has the whole traceback as its text; that of a batch of Ray Data has lost its cause."""
    import ray

    fill(small_disk, leave=0)

    def write(batch=None):
        Directory(str(small_disk / "run")).write_text("part", "x" * 10_000)
        return batch

    class Writing:
        async def __call__(self, batch):
            write()
            yield batch

    acts = (
        lambda: ray.get(ray.remote(write).remote()),
        lambda: ray.data.range(1).map_batches(write, batch_size=1).take_all(),
        lambda: ray.data.range(1).map_batches(Writing, concurrency=1, batch_size=1).take_all(),
    )
    for act in acts:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            act()
        assert user_sentence(caught.value) == no_room(f"{small_disk}/run")


def test_a_job_ends_with_the_sentence_and_exit_status_2(caplog):
    def act():
        raise RuntimeError("a task failed") from DiskFull(no_room("/data"))

    with caplog.at_level(logging.ERROR):
        assert guarded(act) == 2
    assert caplog.messages == [f"stopped: {no_room('/data')}"]
    assert guarded(lambda: (_ for _ in ()).throw(RuntimeError("something else"))) == 1
    assert caplog.messages[-1].startswith("a fault of mralign, not of your input: RuntimeError: something else. ")


def test_directories_of_processes_that_are_no_more_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = tmp_path / f"mralign-checkpoint-{ended.pid}-xyz"
    (left / "deepspeed").mkdir(parents=True)
    other = tmp_path / "mralign-checkpoint-mine"
    other.mkdir()
    own = own_temporary_directory("checkpoint")
    again = own_temporary_directory("checkpoint")
    assert not left.exists()
    assert all(Path(place).exists() for place in (own, again, other))
