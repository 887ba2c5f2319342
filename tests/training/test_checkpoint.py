"""A checkpoint is what was written, or it is refused; nothing in it runs when it is loaded."""

import json
import shutil

import pytest
import torch
from planted import Payload, planted
from ranks import run_ranks

from mralign.training.checkpoint import check_checkpoint, seal_checkpoint
from mralign.training.engine import World
from mralign.training.guards import TrainingStopped

SHARD = "deepspeed/state/zero_pp_rank_0_mp_rank_00_optim_states.pt"


@pytest.fixture
def checkpoint(tmp_path):
    """The files of a checkpoint of two workers, sealed by both."""
    directory = tmp_path / "checkpoint_7"
    for name in (SHARD, "deepspeed/state/other.pt", "weights/adapter_model.safetensors", "state.json", "probe.json"):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"contents of {name}")
    for rank in (1, 0):
        seal_checkpoint(directory, training="abc", world=World(rank=rank, size=2))
    return directory


def check(directory, *, training="abc"):
    check_checkpoint(directory, training=training, name="ray_train/checkpoint_7")


def test_what_was_written_passes(checkpoint):
    check(checkpoint)


@pytest.mark.parametrize("name", [SHARD, "weights/adapter_model.safetensors", "state.json", "probe.json"])
def test_a_changed_or_missing_file_is_named(checkpoint, name):
    (checkpoint / name).write_text("something else")
    with pytest.raises(TrainingStopped, match=f"checkpoint ray_train/checkpoint_7 is not what was written.*{name}"):
        check(checkpoint)
    (checkpoint / name).unlink()
    with pytest.raises(TrainingStopped, match=name):
        check(checkpoint)


@pytest.mark.parametrize("name", ["deepspeed/latest", "weights/adapter_model.bin"])
def test_a_file_that_was_added_is_named(checkpoint, name):
    (checkpoint / name).write_bytes(b"more")
    with pytest.raises(TrainingStopped, match=name):
        check(checkpoint)


def test_the_checkpoint_of_another_training_is_refused(checkpoint):
    with pytest.raises(TrainingStopped, match="it belongs to the training abc, this is def"):
        check(checkpoint, training="def")


def test_without_digests_it_is_refused(checkpoint):
    for path in checkpoint.glob("digests-*"):
        path.unlink()
    with pytest.raises(TrainingStopped, match="it has no digests"):
        check(checkpoint)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"training": "abc"}'])
def test_torn_digests_are_refused(checkpoint, text):
    (checkpoint / "digests-0.json").write_text(text)
    with pytest.raises(TrainingStopped, match=r"digests-0\.json cannot be read"):
        check(checkpoint)


@pytest.fixture(scope="module")
def left(tmp_path_factory, tiny_model):
    """A real training of one step, left at its checkpoint."""
    home = tmp_path_factory.mktemp("left")
    run_ranks(home, tiny_model, {"left": {"stop_after": 1, "checkpoint_every": 1}})
    return home


@pytest.mark.parametrize(
    ("how", "reason"), [("bare", "is no file of tensors"), ("inside_torch_save", "names posix.mkdir")]
)
def test_a_pickle_in_place_of_an_optimizer_state_is_not_run(left, tmp_path, tiny_model, how, reason):
    mark = tmp_path / "ran"
    shutil.copytree(left / "left", tmp_path / "left")
    (shard,) = (tmp_path / "left" / "deepspeed" / "state").glob("*optim_states.pt")
    if how == "bare":
        shard.write_bytes(planted(mark))
    else:
        torch.save({"optimizer_state_dict": Payload(mark)}, shard)
    (said,) = run_ranks(tmp_path, tiny_model, {"resumed": {"checkpoint": "left"}}, fails=True)
    assert not mark.exists()
    assert f"TrainingStopped: the checkpoint left {reason}: loading it could run code" in said


def test_deepspeed_alone_would_run_it(left, tmp_path):
    """What the test above guards against."""
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

    torch.save(Payload(tmp_path / "ran"), tmp_path / "state.pt")
    TorchCheckpointEngine().load(str(tmp_path / "state.pt"))
    assert (tmp_path / "ran").is_dir()


def test_a_seal_names_every_file_that_is_loaded(left):
    directory = left / "left"
    seal_checkpoint(directory, training="abc", world=World())
    sealed = json.loads((directory / "digests-0.json").read_text())["files"]
    assert {name.split("/")[0] for name in sealed} == {"deepspeed", "weights", "state.json", "probe.json"}
    assert "latest" not in "".join(sealed)  # no file says which state is loaded
    check(directory)
