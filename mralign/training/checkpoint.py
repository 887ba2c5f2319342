"""Checkpoints of a training: what makes a killed run go on as if nothing had happened.

An engine and the state of the loop enter a directory and come back from it. DeepSpeed's shards (optimizer included)
belong to a number of workers, the trained weights beside them do not: another number begins from these and cuts what
the optimizer holds anew (shards.py). A run directory may come from somebody else: nothing in a checkpoint can run code
when it is loaded, and one that is not what was written is refused.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from mralign.training.engine import World, gathered
from mralign.training.guards import TrainingStopped
from mralign.training.shards import own_shard

_SHARDS = "deepspeed"
_TAG = "state"  # DeepSpeed's name of a checkpoint; given, so that no file says which one to load
_SEAL = "digests"
PROBE = "probe.json"
WEIGHTS = "weights"  # a PEFT adapter, or the whole model in the training dtype under tuning=full


@dataclass
class State:
    """What a checkpoint must remember besides DeepSpeed's own. `history`: one row a logged step."""

    step: int = 0
    z0: float | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    regrouped: list[list[int]] = field(default_factory=list)  # [step, workers up to it, workers after it]
    memory: dict[str, Any] = field(default_factory=dict)  # what was chosen by `training.memory`, and what came of it


def save_checkpoint(engine: Any, state: State, directory: Path, *, world: World) -> None:
    """DeepSpeed's shards from every rank; trained weights and state from rank 0. Call on all ranks."""
    engine.save_checkpoint(str(directory / _SHARDS), tag=_TAG, save_latest=False, exclude_frozen_parameters=True)
    policy = engine.module
    with gathered(policy):
        if world.rank == 0:
            policy.model.save_pretrained(directory / WEIGHTS)
            (directory / "state.json").write_text(json.dumps({**asdict(state), "workers": world.size}))


def read_state(directory: Path) -> tuple[State, int]:
    """The state of a checkpoint, and how many workers wrote it."""
    values = json.loads((directory / "state.json").read_text())
    known = {each.name for each in fields(State)}  # an earlier version wrote more
    return State(**{name: value for name, value in values.items() if name in known}), values["workers"]


def load_checkpoint(engine: Any, directory: Path) -> None:
    """Restore what the same number of workers has saved; without ZeRO, what any number has.

    Raises TrainingStopped for a file that holds anything but tensors, plain values and the classes that DeepSpeed
    writes: DeepSpeed itself would unpickle whatever stands there.
    """
    engine.checkpoint_engine.load = _load_plain
    with _only_values(directory):
        engine.load_checkpoint(str(directory / _SHARDS), tag=_TAG, load_module_strict=False)


def load_cut_anew(engine: Any, directory: Path, *, workers: int, world: World) -> None:
    """Restore the optimizer that another number of `workers` has saved; the engine has begun from their weights.

    Raises TrainingStopped as `load_checkpoint` does. Call on all ranks.
    """
    place = directory / _SHARDS / _TAG
    with _only_values(directory):
        found = [_load_plain(str(_shard(place, rank=rank)), "cpu", mmap=True) for rank in range(workers)]
    optimizer = engine.optimizer
    own = own_shard(optimizer, [shard["optimizer_state_dict"] for shard in found], world=world)
    of_parameters = hasattr(optimizer, "checkpoint_event_prologue")  # ZeRO 3, as DeepSpeed's own loading does it
    if of_parameters:
        optimizer.checkpoint_event_prologue()
    optimizer.load_state_dict([own] * world.size, load_from_fp32_weights=True)
    if of_parameters:
        optimizer.checkpoint_event_epilogue()


def _shard(place: Path, *, rank: int) -> Path:
    """DeepSpeed's file of the optimizer of a worker; for some layouts it writes something before the name."""
    (found,) = place.glob(f"*zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    return found


@contextmanager
def _only_values(directory: Path) -> Iterator[None]:
    """Say of a checkpoint whose files hold more than values that it is refused."""
    try:
        yield
    except pickle.UnpicklingError as error:
        foreign = re.search(r"(?:GLOBAL|global) ([\w.]+\.\w+)", str(error))
        what = f"names {foreign[1]}" if foreign else "is no file of tensors"
        raise TrainingStopped(
            f"the checkpoint {directory.name} {what}: loading it could run code, and no training of ours writes that. "
            f"Do not go on with this run directory unless you know where it comes from"
        ) from None


def _load_plain(path: str, map_location: Any = None, *, mmap: bool = False) -> Any:
    """In place of the `load` of DeepSpeed's checkpoint engine, which unpickles anything.

    With `mmap` a tensor is read from the file when it is used.
    """
    with torch.serialization.safe_globals(_written_by_deepspeed()):
        return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)


def _written_by_deepspeed() -> list[Any]:
    """The classes in the state of DeepSpeed's optimizers; all of them only hold values."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [LossScaler, ZeroStageEnum, fragment_address]


def seal_checkpoint(directory: Path, *, training: str, world: World) -> None:
    """Write the SHA-256 of every file that this rank put into the checkpoint, and the fingerprint of the `training`.

    The last thing that is written. Ranks may share `directory`; all but rank 0 write DeepSpeed's shards only.
    """
    names = [name for name in _files(directory) if world.rank == 0 or name.startswith(f"{_SHARDS}/")]
    digests = {name: _sha256(directory / name) for name in names}
    text = json.dumps({"training": training, "files": digests}, indent=1)
    (directory / f"{_SEAL}-{world.rank}.json").write_text(text)


def check_checkpoint(directory: Path, *, training: str, name: str) -> None:
    """Raise TrainingStopped unless the checkpoint holds what `training` wrote, file by file.

    This finds what was changed or torn since; it is no signature. Reads every file once.
    """
    reason = _difference(directory, training=training)
    if reason is None:
        return
    raise TrainingStopped(
        f"the checkpoint {name} is not what was written: {reason}. Delete this stage's directory, training/{training}, "
        f"and run the same command again: the training begins anew"
    )


def _difference(directory: Path, *, training: str) -> str | None:
    """How the checkpoint differs from what `training` wrote; None if it does not."""
    written: dict[str, str] = {}
    owners: set[str] = set()
    for path in sorted(directory.glob(f"{_SEAL}-*.json")):
        try:
            seal = json.loads(path.read_bytes())
            owners.add(str(seal["training"]))
            written.update(seal["files"])
        except (KeyError, TypeError, ValueError):
            return f"{path.name} cannot be read"
    if not owners:
        return "it has no digests, so this version did not write it"
    if owners != {training}:
        return f"it belongs to the training {', '.join(sorted(owners))}, this is {training}"
    found = {file: _sha256(directory / file) for file in _files(directory)}
    different = sorted(file for file in found | written if found.get(file) != written.get(file))
    if not different:
        return None
    return f"changed, missing or added since it was written: {', '.join(different[:5])}"


def _files(directory: Path) -> Iterator[str]:
    """The files of a checkpoint but the digests, relative to it, in order."""
    for name in (_SHARDS, WEIGHTS):
        for path in sorted((directory / name).rglob("*")):
            if path.is_file():
                yield path.relative_to(directory).as_posix()
    for name in ("state.json", PROBE):
        if (directory / name).is_file():
            yield name


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
