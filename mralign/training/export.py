"""What a training leaves, copied to where the run lives.

The last checkpoint enters; adapter/ (PEFT), probe.json, model/ (merged safetensors with all that lies beside the base's
weights) and a model card in the run directory leave, and, if asked, adapter (under tuning=full the model) and card on
the hub. The adapter goes first, then a note that the training is finished: whatever fails after it, the same command
goes on from there and trains nothing again.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pyarrow import fs

from mralign.chat.model_files import adapter_paths, model_path
from mralign.config import RunConfig
from mralign.run.disk import full_disk
from mralign.run.filesystems import for_copies
from mralign.run.shared_copies import copy_tree
from mralign.run.stage import Context, log
from mralign.run.store import Directory, StageDir
from mralign.serving.adapter import save_merged
from mralign.training.card import model_card, shown
from mralign.training.checkpoint import PROBE, WEIGHTS, check_checkpoint
from mralign.training.kept_checkpoints import RAY_TRAIN

TRAINED = "trained.json"  # the training is finished: its figures, and the name of its last checkpoint


def upload(source: Path, *, out: Directory, name: str) -> None:
    """Copy the local directory `source` to `name` in `out`, in pieces: a file may be larger than the memory."""
    out.filesystem.create_dir(out.path(name), recursive=True)
    fs.copy_files(str(source.absolute()), out.path(name), fs.LocalFileSystem(), for_copies(out.filesystem))


def keep_trained(context: Context, checkpoint: Path, *, figures: Mapping[str, Any], name: str) -> None:
    """Write adapter, card and probe of a finished training, and last that it is finished. `name`: the checkpoint's
    among those of Ray Train."""
    out = context.out
    if context.config.training.tuning != "full":
        upload(checkpoint / WEIGHTS, out=out, name="adapter")
        out.write_text("adapter/README.md", _card(context, figures=figures, adapter=True))
    out.write_text(PROBE, (checkpoint / PROBE).read_text())
    out.write_text(TRAINED, json.dumps({"figures": figures, "checkpoint": name}))


@contextmanager
def trained_before(out: StageDir) -> Iterator[tuple[Path, dict[str, Any]] | None]:
    """The checkpoint of a training that is finished, as a local directory, and its figures; None where it is not.

    Raises TrainingStopped for one that is not what this training wrote.
    """
    note = _note(out)
    if note is None:
        yield None
        return
    name = str(note["checkpoint"]).rsplit("/", 1)[-1]  # nothing outside Ray Train's directory
    place = out.path(f"{RAY_TRAIN}/{name}")
    if out.filesystem.get_file_info(place).type != fs.FileType.Directory:
        yield None
        return
    with local_directory(out.filesystem, place) as directory:
        check_checkpoint(directory, training=out.fingerprint, name=name)
        yield directory, note["figures"]


def _note(out: StageDir) -> dict[str, Any] | None:
    """What `keep_trained` wrote last; None where it did not come to that, or did not finish it."""
    text = out.find_text(TRAINED)
    if text is None:
        return None
    try:
        note = json.loads(text)
    except ValueError:
        return None
    return note if isinstance(note, dict) and {"figures", "checkpoint"} <= note.keys() else None


@contextmanager
def local_directory(filesystem: fs.FileSystem, place: str) -> Iterator[Path]:
    """A directory of a file system as one of this machine; copied, for the time of the block, from any other."""
    if isinstance(filesystem, fs.LocalFileSystem):
        yield Path(place)
        return
    with tempfile.TemporaryDirectory(prefix="mralign-checkpoint-") as directory:
        copy_tree(filesystem, place, target=Path(directory))
        yield Path(directory)


def export(context: Context, checkpoint: Path, *, figures: Mapping[str, Any]) -> None:
    """Write the model that the training of `checkpoint` leaves, its card, and then what goes to the hub.

    Raises ValueError that says what is kept already, and what to do, where the model cannot be written.
    """
    config, out = context.config, context.out
    full = config.training.tuning == "full"
    with tempfile.TemporaryDirectory(prefix="mralign-export-") as directory:
        merged = Path(directory)
        try:
            save_result(config, checkpoint / WEIGHTS, target=merged, full=full)
            upload(merged, out=out, name="model")
        except Exception as error:  # transformers, PEFT, safetensors, a disk: each has exceptions of its own
            crowded = full_disk(error, places=[directory, *_local(out)])
            raise ValueError(_not_written(context, crowded or f"{type(error).__name__}: {error}", full=full)) from error
        out.write_text("model/README.md", _card(context, figures=figures, adapter=False))
        if config.training.push_to:
            card = _card(context, figures=figures, adapter=not full)
            push(config, merged if full else checkpoint / WEIGHTS, card=card)


def _local(out: Directory) -> list[str]:
    return [out.path()] if isinstance(out.filesystem, fs.LocalFileSystem) else []


def _not_written(context: Context, reason: str, *, full: bool) -> str:
    kept = f"its last checkpoint lies in {context.out.path('ray_train')}"
    if not full:
        kept = f"its adapter lies in {context.out.path('adapter')}"
    return (
        f"the training is finished and {kept}, but the model could not be written to {context.out.path('model')}: "
        f"{reason}\nMend that (the model directory is {context.config.model.path}) and run the "
        f"same command again: nothing is trained again"
    )


def _card(context: Context, *, figures: Mapping[str, Any], adapter: bool) -> str:
    data = {name: stage.fingerprint for name, stage in context.upstream.items()}
    card = partial(model_card, context.config, data=data, figures=figures, fingerprint=context.out.fingerprint)
    return card(adapter=adapter)


def save_result(config: RunConfig, weights: Path, *, target: Path, full: bool) -> None:
    """The base with all adapters, or under tuning=full the trained model itself, in `model.dtype`."""
    save_merged(
        model_path(config.model),
        adapters=[] if full else [*adapter_paths(config.model), str(weights)],
        target=target,
        model=config.model,
        weights=str(weights) if full else None,
    )


def hub_token(config: RunConfig) -> str:
    """The token in the environment variable `training.push_token_env`. Raises ValueError without one."""
    name = config.training.push_token_env
    token = os.environ.get(name)
    if not token:
        raise ValueError(f"training.push_to={config.training.push_to} needs a token in the environment variable {name}")
    return token


def check_hub(config: RunConfig, *, card: str) -> None:
    """Raise ValueError, before anything is trained, if the hub would not take the repository, our token or the card.

    The repository is made here, private, where there is none: nothing else shows that it may be.
    """
    from huggingface_hub import HfApi, RepoCard

    token, target = hub_token(config), str(config.training.push_to)
    with _quoted(config, token=token, when="nothing is trained yet"):
        api = HfApi(token=token)
        api.create_repo(target, private=True, exist_ok=True)
        api.auth_check(target, write=True)
        RepoCard(card, ignore_metadata_errors=False).validate(repo_type="model")


def push(config: RunConfig, directory: Path, *, card: str) -> None:
    """Commit the files of `directory` and the card to `training.push_to`, private when it is new.

    Raises ValueError without a token, or with the hub's reason (never with the token) where it refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    token, target = hub_token(config), str(config.training.push_to)
    contents = _for_others(directory, config=config) | {"README.md": card.encode()}
    operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
    api = HfApi(token=token)
    with _quoted(config, token=token, when="the training is finished"):
        repository = api.create_repo(target, private=True, exist_ok=True).repo_id
        api.create_commit(repository, operations, commit_message="Trained with mralign")
    log.info("pushed to %s", repository)


@contextmanager
def _quoted(config: RunConfig, *, token: str, when: str) -> Iterator[None]:
    """Turn what the hub's library raises into a ValueError that quotes it without the token."""
    from huggingface_hub.errors import HfHubHTTPError

    of_its_http_library = HfHubHTTPError.__bases__
    refused: Any = (OSError, RuntimeError, ValueError, *of_its_http_library)
    try:
        yield
    except refused as error:
        cause = f" {error.__cause__}" if isinstance(error, RuntimeError) else ""  # why a file could not be uploaded
        reason = f"{error}{cause}".replace(token, "<token>")
        raise ValueError(
            f"{when}, but the hub did not take it as training.push_to={config.training.push_to}: {reason}\nMend that "
            f"and run the same command again, or leave training.push_to out"
        ) from None


def _for_others(directory: Path, *, config: RunConfig) -> dict[str, Any]:
    """The files by name; PEFT's adapter_config.json without the place of the base on this machine."""
    files = {path.relative_to(directory).as_posix(): path for path in sorted(directory.rglob("*")) if path.is_file()}
    if "adapter_config.json" not in files:
        return files
    values = json.loads(files["adapter_config.json"].read_text())
    told = json.dumps({**values, "base_model_name_or_path": shown(config.model.path)}, indent=2)
    return {**files, "adapter_config.json": told.encode()}
