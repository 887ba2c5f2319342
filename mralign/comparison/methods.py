"""The methods that can be compared: one file each in `mralign/presets/methods`, which says what it changes.

A name (or the path of a YAML file of sections and fields) and a configuration enter, the changed configuration leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mralign.config import RunConfig, parse
from mralign.presets import METHODS

ORDER = ("sft", "kto", "mralign", "mralign-opposite", "mralign-shuffle", "mralign-mean")  # as tables show them


def names() -> list[str]:
    """The methods that come with the package: those of ORDER first, then the others by name."""
    found = {path.stem for path in METHODS.glob("*.yaml")}
    return [name for name in ORDER if name in found] + sorted(found - set(ORDER))


def changes_of(name: str) -> dict[str, dict[str, Any]]:
    """What a method changes, by section and field. Raises ValueError for a name that is no file."""
    path = Path(name) if name.endswith(".yaml") else METHODS / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"no method {name!r}; allowed are {names()}, or the path of a YAML file of sections")
    changes: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return changes


def variant(config: RunConfig, changes: Mapping[str, Mapping[str, Any]]) -> RunConfig:
    """`config` with some sections' fields replaced, checked anew."""
    values = config.model_dump(mode="json")
    for section, fields in changes.items():
        values[section].update(fields)
    return parse(values)


def configured(config: RunConfig, method: str) -> RunConfig:
    """The configuration of a method."""
    return variant(config, changes_of(method))
