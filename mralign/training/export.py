"""What a training leaves, copied to where the run lives.

The last checkpoint enters; adapter/ (PEFT), model/ (merged safetensors with tokenizer), probe.json and a model card in
the run directory leave, and, if asked, adapter (under tuning=full the model) and card on the hub.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pyarrow import fs

from mralign.config import RunConfig, resolve_path
from mralign.engines.adapter import save_merged
from mralign.stage import Context, log
from mralign.store import Directory
from mralign.training.card import model_card, shown
from mralign.training.checkpoint import WEIGHTS
from mralign.training.probe import NAME as PROBE


def upload(source: Path, *, out: Directory, name: str) -> None:
    """Copy the local directory `source` to `name` in `out`, in pieces: a file may be larger than the memory."""
    out.filesystem.create_dir(out.path(name), recursive=True)
    fs.copy_files(str(source.absolute()), out.path(name), fs.LocalFileSystem(), out.filesystem)


def export(context: Context, checkpoint: Path, *, figures: Mapping[str, Any]) -> None:
    """Write what the training of `checkpoint` leaves. The card goes last, the hub after everything."""
    config, out = context.config, context.out
    full = config.training.tuning == "full"
    data = {name: stage.fingerprint for name, stage in context.upstream.items()}
    card = partial(model_card, config, data=data, figures=figures, fingerprint=out.fingerprint)
    with tempfile.TemporaryDirectory() as directory:
        merged = Path(directory)
        _save_model(config, checkpoint / WEIGHTS, target=merged, full=full)
        upload(merged, out=out, name="model")
        out.write_text(PROBE, (checkpoint / PROBE).read_text())
        out.write_text("model/README.md", card(adapter=False))
        if not full:
            upload(checkpoint / WEIGHTS, out=out, name="adapter")
            out.write_text("adapter/README.md", card(adapter=True))
        if config.training.push_to:
            push(config, merged if full else checkpoint / WEIGHTS, card=card(adapter=not full))


def _save_model(config: RunConfig, weights: Path, *, target: Path, full: bool) -> None:
    """The base with all adapters, or under tuning=full the trained model itself, in `model.dtype`."""
    base = resolve_path(config.model.path)
    own = [resolve_path(config.model.adapter)] if config.model.adapter else []
    save_merged(
        str(weights) if full else base,
        adapters=[] if full else [*own, str(weights)],
        target=target,
        dtype=config.model.dtype,
        trust_remote_code=config.model.trust_remote_code,
        tokenizer=base,
    )


def hub_token(config: RunConfig) -> str:
    """The token in the environment variable `training.push_token_env`. Raises ValueError without one."""
    name = config.training.push_token_env
    token = os.environ.get(name)
    if not token:
        raise ValueError(f"training.push_to={config.training.push_to} needs a token in the environment variable {name}")
    return token


def push(config: RunConfig, directory: Path, *, card: str) -> None:
    """Commit the files of `directory` and the card to `training.push_to`, private when it is new.

    Raises ValueError without a token, or with the hub's reason (never with the token) where it refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    token, target = hub_token(config), str(config.training.push_to)
    contents = _for_others(directory, config=config) | {"README.md": card.encode()}
    operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
    api = HfApi(token=token)
    of_its_http_library = HfHubHTTPError.__bases__
    refused: Any = (OSError, RuntimeError, ValueError, *of_its_http_library)
    try:
        repository = api.create_repo(target, private=True, exist_ok=True).repo_id
        api.create_commit(repository, operations, commit_message="Trained with mralign")
    except refused as error:
        cause = f" {error.__cause__}" if isinstance(error, RuntimeError) else ""  # why a file could not be uploaded
        reason = f"{error}{cause}".replace(token, "<token>")
        raise ValueError(
            f"the training is finished, but the hub did not take it as training.push_to={target}: {reason}\nMend that "
            f"and run the same command again, or leave training.push_to out"
        ) from None
    log.info("pushed to %s", repository)


def _for_others(directory: Path, *, config: RunConfig) -> dict[str, Any]:
    """The files by name; PEFT's adapter_config.json without the place of the base on this machine."""
    files = {path.relative_to(directory).as_posix(): path for path in sorted(directory.rglob("*")) if path.is_file()}
    if "adapter_config.json" not in files:
        return files
    values = json.loads(files["adapter_config.json"].read_text())
    told = json.dumps({**values, "base_model_name_or_path": shown(config.model.path)}, indent=2)
    return {**files, "adapter_config.json": told.encode()}
