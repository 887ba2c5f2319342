"""A configuration by whatever names it: a preset, a file, a dictionary, or itself. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mralign.config import RunConfig, load
from mralign.presets import PRESETS

Configuration = str | Mapping[str, Any] | RunConfig


def load_config(config: Configuration, *, overrides: Sequence[str] = ()) -> RunConfig:
    """The checked configuration of a run: defaults < `config` < `overrides`; docs/method.md §1 to §6 say what it sets.

    `config`: the name of a preset (miniworld, paper, import-rollouts), the path of a YAML file, a dictionary of
    sections, or a RunConfig. Each override is `section.field=value`, the value in YAML. Raises ValueError that names
    the key, what is allowed and what to do.

    >>> import mralign
    >>> mralign.load_config("miniworld", overrides=["training.beta=0.2"]).training.beta
    0.2
    >>> mralign.load_config({"questions": {"train": [{"name": "mine", "path": "mine.jsonl"}]}}).questions.train[0].name
    'mine'
    """
    return load(config, overrides=overrides, presets_dir=PRESETS)
