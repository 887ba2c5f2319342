"""Models that are named as on the hub: whether they are at hand, and whether the hub answers at all.

Paths enter; a sentence for each model that can be had neither from the hub's cache nor from the hub leaves. The hub is
knocked at once: its client would try again for half a minute, file by file, and a laptop without a network is no fault.
"""

from __future__ import annotations

import logging
import re
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from mralign.config import resolve_path

log = logging.getLogger("mralign")

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_CONNECT_S = 5.0
_KEPT_S = 60.0

_answered: dict[str, tuple[float, bool]] = {}


def is_hub_name(path: str) -> bool:
    """Whether a model's path can only be a name on the hub."""
    place = resolve_path(path)
    return bool(_NAME.fullmatch(place)) and not Path(place).exists() and not place.startswith((".", "~"))


def ask_cache_alone(paths: Iterable[str]) -> None:
    """Keep this process from asking a hub that does not answer, where one of the models would be looked for there."""
    from huggingface_hub import constants

    names = [path for path in dict.fromkeys(paths) if is_hub_name(path)]
    if not names or constants.HF_HUB_OFFLINE or _answers(constants.ENDPOINT):
        return
    constants.HF_HUB_OFFLINE = True
    log.warning("the hub (%s) does not answer: %s is looked for in its cache alone", constants.ENDPOINT, names[0])


def lacks(paths: Iterable[str]) -> list[str]:
    """What to say of models that cannot be had on this machine."""
    from huggingface_hub import constants, try_to_load_from_cache

    found = []
    for path in dict.fromkeys(paths):
        if not is_hub_name(path) or not constants.HF_HUB_OFFLINE:
            continue
        if not isinstance(try_to_load_from_cache(path, "config.json"), str):
            found.append(
                f"model {path} is no directory here and not in the hub's cache, and the hub is not asked "
                f"(HF_HUB_OFFLINE, or no network): download it where there is one, or give a directory"
            )
    return found


def _answers(endpoint: str) -> bool:
    """Whether something listens there. Behind a proxy that is not known."""
    parts = urlsplit(endpoint)
    when, said = _answered.get(endpoint, (0.0, False))
    if time.monotonic() - when < _KEPT_S:
        return said
    if getproxies().get(parts.scheme) or parts.hostname is None:
        return True
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), timeout=_CONNECT_S).close()
        said = True
    except OSError:
        said = False
    _answered[endpoint] = (time.monotonic(), said)
    return said
