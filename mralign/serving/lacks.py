"""Keys and servers that the machine which starts a run lacks, found before anything is sampled.

Settings enter; sentences leave, none where nothing is missing. In a cluster that was there before the run keys are the
nodes' business, and not looked for here. Of servers only those of this machine are looked for: the others may be
reached by another way.
"""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

from mralign.config import Annotator, Http, RunConfig, Search

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_CONNECT_S = 3.0


def endpoint_lacks(http: Http, *, setting: str) -> list[str]:
    """The key of an endpoint on https://, which has nearly always one; an endpoint without takes key_env=''. And the
    server itself, where it is said to run on this machine."""
    if nobody := _nobody_listens(http.base_url, setting=f"{setting}.base_url"):
        return [nobody]
    if not _secret_wanted(http.base_url) or not _unset(http.key_env):
        return []
    said = (
        f"{setting}: the environment variable {http.key_env} that holds the key of {http.base_url} is not set: export "
        f"it, or give that endpoint key_env='' if it wants none"
    )
    return [said]


def search_lacks(search: Search) -> list[str]:
    """The key of a search endpoint, where one is named."""
    if nobody := _nobody_listens(search.url, setting="evaluation.retrieval.search.url"):
        return [nobody]
    if search.key_env is None or not _unset(search.key_env):
        return []
    setting = "evaluation.retrieval.search.key_env"
    return [f"{setting}: the environment variable {search.key_env} is not set: export it, or give {setting}=null"]


def annotator_lacks(annotator: Annotator, *, config: RunConfig, setting: str) -> list[str]:
    """The key of an annotator, a judge or a labeller; `setting` is where the configuration names it."""
    if annotator.engine != "http":
        return []
    place = f"{setting} ({annotator.name})" if annotator.http else "http"
    return endpoint_lacks(annotator.http or config.http, setting=place)


def _nobody_listens(url: str, *, setting: str) -> str | None:
    """What to tell of a server on this machine to which nothing can connect; None for any other."""
    parts = urlsplit(url)
    if parts.hostname not in _LOOPBACK or os.environ.get("RAY_ADDRESS"):
        return None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=_CONNECT_S).close()
    except OSError:
        return (
            f"{setting}={url}: nobody listens on port {port} of this machine; start that server, or correct the address"
        )
    return None


def _secret_wanted(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" and parts.hostname not in _LOOPBACK


def _unset(name: str) -> bool:
    return bool(name) and not os.environ.get(name) and not os.environ.get("RAY_ADDRESS")
