"""Data sets of the Hugging Face hub as streams of records, by the library `datasets`.

Enters: `hub://OWNER/NAME?split=train&config=default&revision=main`, or `hub:///a/local/directory` in any layout that
the library reads. Leaves: one `Record` after the other, streamed, nothing downloaded ahead; they go through the same
formats as the records of files. `datasets` is an optional extra, imported only here and only when a source asks for it.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from mralign.questions.records import Record
from mralign.run.placement import NotInstalled

SCHEME = "hub://"
_KEYS = ("split", "config", "revision")
_SPLITS = {"train": "train", "dev": "validation", "test": "test"}
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class HubSource:
    """What a hub URL asks for; `name` is OWNER/NAME or an absolute local directory."""

    name: str
    split: str
    config: str | None = None
    revision: str | None = None


def parse(url: str, *, split: str) -> HubSource:
    """The parts of a hub URL; without `split=` in it, train, validation or test by our `split` (train | dev | test).

    Raises ValueError for a URL that names no data set or has unknown keys.
    """
    name, _, query = url.removeprefix(SCHEME).partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    unknown = sorted({key for key, value in pairs if key not in _KEYS or not value})
    if unknown or not (name.startswith("/") or _REPOSITORY.fullmatch(name)):
        raise ValueError(
            f"hub source {url!r} {f'has unknown or empty keys {unknown}' if unknown else 'names no data set'}; write "
            f"hub://OWNER/NAME or hub:///local/directory, and after a ? any of split=, config=, revision="
        )
    return HubSource(name, **{"split": _SPLITS[split], **dict(pairs)})


def check(url: str, *, split: str) -> None:
    """Raise ValueError if the URL is wrong or a local directory is not there, NotInstalled without `datasets`."""
    source = parse(url, split=split)
    if source.name.startswith("/") and not Path(source.name).is_dir():
        raise ValueError(f"{url}: there is no directory {source.name}; correct the path")
    if importlib.util.find_spec("datasets") is None:
        raise NotInstalled(f"{url} needs the library `datasets`: pip install 'mralign[hub]', or give a file's path")


def read_records(url: str, *, split: str) -> Iterator[Record]:
    """The rows of a hub data set in order.

    Raises ValueError if the data set, its config, split or revision is not there, or the hub is out of reach.
    """
    import datasets

    source = parse(url, split=split)
    try:
        rows = datasets.load_dataset(
            source.name, name=source.config, split=source.split, revision=source.revision, streaming=True
        )
    except (OSError, ValueError) as error:  # out of reach, not there; unknown config, unknown split
        raise ValueError(
            f"{url}: data set {source.name!r}, config {source.config or 'default'!r}, split {source.split!r}, revision "
            f"{source.revision or 'main'!r} could not be opened ({error}); correct the URL, or download the data set "
            f"and give the path of its file instead"
        ) from error
    return (Record(row, json.dumps(row, default=str)) for row in rows)
