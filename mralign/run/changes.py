"""What keeps a finished result from being used again: the settings that have changed since.

The manifest of an older result of a stage and what a plan has for the same stage enter; one line for each difference
leaves. Only settings that count for the fingerprint are compared, for no other can have caused it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pyarrow import fs

from mralign.run.store import Directory, Manifest, StageDir, ahead

_OTHER_VERSION = "it was made by another version of this program"
_SHOWN = 60  # characters of a value
_NOTHING = object()
_LINES = 5  # differences that are listed


def differences(
    old: Manifest, *, settings: Mapping[str, Any], upstream: Mapping[str, str], inputs: Mapping[str, str]
) -> list[str]:
    """One line for each setting and file that differs from those of a finished result.

    What follows from another result upstream gets no line; a result of another version of the code gets one.
    """
    was, now = dict(_leaves(old.config or {})), dict(_leaves(settings))
    if now and not set(was) & set(now):
        return [_OTHER_VERSION]
    names = [name for name in sorted({*was, *now}) if was.get(name, _NOTHING) != now.get(name, _NOTHING)]
    lines = [_line(name, was=was.get(name, _NOTHING), now=now.get(name, _NOTHING)) for name in names]
    files = [name for name in sorted({*old.inputs, *inputs}) if old.inputs.get(name) != inputs.get(name)]
    lines += [f"the content of {name} has changed" for name in files]
    if not lines and dict(old.upstream) == dict(upstream):
        return [_OTHER_VERSION]
    more = len(lines) - _LINES
    return lines if more <= 0 else [*lines[:_LINES], f"and {more} more"]


def newest_result(out: StageDir) -> tuple[StageDir, Manifest] | None:
    """The newest finished result of the same stage in the same run directory under another fingerprint."""
    home = Directory(out.uri.rsplit("/", 1)[0])
    if home.recalled.is_missing(home.uri):
        return None
    places = home.filesystem.get_file_info(fs.FileSelector(home.path(), allow_not_found=True))
    names = [place.base_name for place in places if place.type == fs.FileType.Directory]
    found = [StageDir(f"{home.uri}/{name}", stage=out.stage, fingerprint=name) for name in names]
    finished = [other for other in found if other.fingerprint != out.fingerprint and other.holds("manifest.json")]
    for other in sorted(finished, key=_sealed_at, reverse=True):
        try:
            manifest = other.manifest()
        except ValueError:  # it is not this result that is asked for
            continue
        if manifest is not None:
            return other, manifest
    return None


def newest_results(outs: Sequence[StageDir]) -> list[tuple[StageDir, Manifest] | None]:
    """`newest_result` of each, several at once: a store may be far away."""
    return list(ahead(newest_result, outs))


def _sealed_at(out: StageDir) -> int:
    """When the manifest was written, in nanoseconds; 0 where the file system does not say."""
    return out.filesystem.get_file_info(out.path("manifest.json")).mtime_ns or 0


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every single value below `value` with its dotted name; a list of plain values is one value."""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        items = list(enumerate(value))
    if not items and name:
        yield name, value
    for key, item in items:
        yield from _leaves(item, f"{name}.{key}" if name else str(key))


def _line(name: str, *, was: Any, now: Any) -> str:
    if name.startswith("code."):
        return f"the program's own {name.removeprefix('code.')} has changed"
    return f"{name} {_shown(was)} -> {_shown(now)}"


def _shown(value: Any) -> str:
    text = "nothing" if value is _NOTHING else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
