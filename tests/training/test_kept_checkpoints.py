"""Checkpoints on a disk that is full: none half written, none too many, and a reason that ends all workers."""

import json
from pathlib import Path

import pytest

from mralign.run import disk
from mralign.run.disk import DiskFull
from mralign.run.store import StageDir
from mralign.training import worker
from mralign.training.board import Board
from mralign.training.guards import TrainingStopped
from mralign.training.kept_checkpoints import tidy


def listed(*names):
    results = [{"version": 0, "checkpoint_dir_name": name, "metrics": {}} for name in names]
    return json.dumps(
        {"checkpoint_results": results, "latest_checkpoint_result": results[-1], "pending_training_results": []}
    )


@pytest.fixture
def out(tmp_path):
    for name in ("checkpoint_1", "checkpoint_2", "checkpoint_3"):
        (tmp_path / "ray_train" / name).mkdir(parents=True)
    return StageDir(str(tmp_path), stage="training", fingerprint="aa")


def kept(out):
    return sorted(path.name for path in Path(out.path("ray_train")).glob("checkpoint_?"))


@pytest.mark.parametrize(
    ("snapshot", "left"),
    [
        (listed("checkpoint_1", "checkpoint_2"), ["checkpoint_1", "checkpoint_2"]),
        (listed("checkpoint_3"), ["checkpoint_3"]),
        ('{"checkpoint_results": [{"version": 0, "chec', ["checkpoint_3"]),  # cut short after the newest was copied
        ("", ["checkpoint_3"]),
        (listed("checkpoint_2", "checkpoint_9"), ["checkpoint_2"]),  # somebody has removed the newest
        (listed("checkpoint_9"), []),  # all that it knows of is gone: the training begins anew
        (None, []),  # killed at the first: nothing to go on from
    ],
)
def test_what_ray_train_does_not_know_of_is_removed(out, snapshot, left):
    if snapshot is not None:
        out.write_text("ray_train/checkpoint_manager_snapshot.json", snapshot)
    removed = tidy(out)
    assert kept(out) == left
    assert sorted(removed + left) == ["checkpoint_1", "checkpoint_2", "checkpoint_3"]
    assert tidy(out) == []
    named = out.exists("ray_train/checkpoint_manager_snapshot.json")
    text = out.read_text("ray_train/checkpoint_manager_snapshot.json") if named else ""
    assert "checkpoint_9" not in text and named is bool(left)


def test_a_training_that_has_not_begun_has_nothing_to_tidy(tmp_path):
    assert tidy(StageDir(str(tmp_path / "none"))) == []


def test_a_checkpoint_that_would_not_fit_is_not_begun(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "shard").write_bytes(b"x" * 2**20)
    out, size = StageDir(str(tmp_path)), 2**20 + worker._MARGIN
    monkeypatch.setattr(worker, "free", lambda place: size)
    worker.check_room(out, directory=str(tmp_path / "deep"))
    monkeypatch.setattr(worker, "free", lambda place: size - 1)
    with pytest.raises(DiskFull, match=f"no space left for 1 MiB on the disk of {tmp_path}; make room"):
        worker.check_room(out, directory=str(tmp_path / "deep"))


@pytest.mark.integration
def test_a_full_disk_ends_one_worker_at_once_and_several_by_the_board(tmp_path, local_ray):
    import ray

    board = ray.remote(Board).options(num_cpus=0).remote()
    given = {"out": StageDir(str(tmp_path)), "board": board, "sources": None}
    fault = RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")  # as torch says it

    def fail(*, alone):
        with worker.stops_when_full(given, directory=str(tmp_path), alone=alone):
            raise fault

    with pytest.raises(RuntimeError, match="unexpected pos"):  # there is room: it is something else
        fail(alone=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "free", lambda place: 0)
        with pytest.raises(TrainingStopped, match=f"no space left on the disk of {tmp_path}"):
            fail(alone=True)
        assert ray.get(board.stopped.remote()) == ""
        with pytest.raises(RuntimeError, match="unexpected pos"):  # Ray ends the others, and tries again
            fail(alone=False)
    assert "no space left" in worker.train_worker(given)  # and every worker of the next try returns the reason
