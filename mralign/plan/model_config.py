"""The configuration of a model before anything has run: from its directory, the hub's cache, or the hub itself.

A model enters; transformers' configuration leaves, or in one sentence why it is not known. Of a model on the hub one
small file is fetched, within a time limit.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from mralign.config import Model, resolve_path
from mralign.training.rope import local_config

_LIMIT_S = 10.0


def known_config(model: Model) -> tuple[Any | None, str]:
    """The configuration, and if there is none why."""
    found = _local(model)
    if found is not None:
        return found, ""
    path = resolve_path(model.path)
    if "://" in path or path.startswith(("/", "./", "../")) or Path(path).is_dir():
        return None, f"{model.path} has no configuration that can be read here"
    fault = _fetch(path)
    found = None if fault else _local(model)
    if found is not None:
        return found, ""
    return None, fault or f"the configuration of {model.path} on the hub cannot be read"


def _local(model: Model) -> Any | None:
    try:
        return local_config(model)
    except (ValueError, KeyError, ImportError):  # the checks of the plan say what is wrong with it
        return None


def _fetch(name: str) -> str:
    """Put the file into the hub's cache; what to say if that fails."""
    from huggingface_hub import constants, hf_hub_download

    if constants.HF_HUB_OFFLINE:
        return f"{name} is not in the hub's cache, and the hub is not asked: HF_HUB_OFFLINE, or no network"
    told: list[str] = []

    def fetch() -> None:
        try:
            hf_hub_download(name, "config.json", etag_timeout=_LIMIT_S)
            told.append("")
        except Exception as error:  # of httpx, the hub's client, the file system
            told.append(f"the hub does not give the configuration of {name}: {str(error).strip().splitlines()[0]:.200}")

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    thread.join(_LIMIT_S)
    return told[0] if told else f"the hub does not answer within {_LIMIT_S:.0f} s, so {name} is not known"
