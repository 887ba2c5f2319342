"""Defaults, a preset's YAML and overrides from the command line become a checked configuration, or an error by name."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from mralign.config.run import RunConfig

log = logging.getLogger("mralign")


def load(
    preset: str | Mapping[str, Any] | RunConfig, *, overrides: Sequence[str] = (), presets_dir: Path | None = None
) -> RunConfig:
    """Defaults < preset < overrides.

    `preset` is a name in `presets_dir`, the path of a YAML file, what such a file holds, or a whole configuration; each
    override is `section.field=value`, the value in YAML. Raises ValueError that names the key, what is allowed and what
    to do.
    """
    values = _values_of(preset, presets_dir)
    for override in overrides:
        _apply(values, override)
    config = parse(values)
    if isinstance(preset, str) and not Path(preset).suffix:
        _warn_of_foreign_test_set(config, preset=preset, overrides=overrides)
    return config


def _values_of(preset: str | Mapping[str, Any] | RunConfig, presets_dir: Path | None) -> dict[str, Any]:
    """What a preset says, in dictionaries of its own."""
    if isinstance(preset, RunConfig):
        values: dict[str, Any] = preset.model_dump(mode="json")
        return values
    if isinstance(preset, Mapping):
        return deepcopy(dict(preset))
    return _read_preset(preset, presets_dir)


def _warn_of_foreign_test_set(config: RunConfig, *, preset: str, overrides: Sequence[str]) -> None:
    """Warn if the training questions are the user's and those of the evaluation are still the preset's own."""
    given = [override.partition("=")[0].strip() for override in overrides]
    split = config.evaluation.split
    trains = any(name in ("questions.train", "rollouts.import_on") for name in given)
    kept = [source.name for source in getattr(config.questions, split)]
    if trains and kept and f"questions.{split}" not in given:
        log.warning(
            "the training questions are yours, but the evaluation asks those of preset %s: %s; give questions.%s too, "
            "or questions.test=[] questions.dev=[] to evaluate nothing",
            preset,
            ", ".join(kept),
            split,
        )


def parse(values: Mapping[str, Any]) -> RunConfig:
    """Check a nested mapping against RunConfig; ValueError with every problem, one a line."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ValueError("wrong configuration:\n" + "\n".join(_explain(e) for e in error.errors())) from None


def to_yaml(config: RunConfig) -> str:
    """The resolved configuration as YAML that `load` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def resolve_path(path: str) -> str:
    """`pkg://package/inner/path` becomes the path of that package's data, `~` the home; others stay as they are."""
    if not path.startswith("pkg://"):
        return str(Path(path).expanduser()) if path.startswith("~") else path
    package, _, inner = path.removeprefix("pkg://").partition("/")
    try:
        return str(files(package).joinpath(inner))
    except (ImportError, TypeError, ValueError):
        raise ValueError(f"{path}: no package {package!r} is installed; write pkg://package/inner/path") from None


def _read_preset(preset: str, presets_dir: Path | None) -> dict[str, Any]:
    path = Path(preset)
    if not path.suffix and presets_dir is not None:
        path = presets_dir / f"{preset}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in presets_dir.glob("*.yaml")) if presets_dir else []
        raise ValueError(f"no preset {preset!r}: {path} is not a file; allowed are {known} or the path of a YAML file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"preset {path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"preset {path} must hold sections such as `model:`; it holds {type(values).__name__}")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or len(names) < 2:
        raise ValueError(f"override {override!r} is not of the form section.field=value")
    node = values
    for name in names[:-1]:
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            raise ValueError(f"override {override!r}: {name} is no section")
    try:
        node[names[-1]] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"override {override!r}: the value is not valid YAML; quote it") from None


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "configuration"
    if error["type"] == "extra_forbidden":
        allowed = _fields_at(error["loc"][:-1])
        close = difflib.get_close_matches(str(error["loc"][-1]), allowed, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"  {where}: unknown key; {hint}allowed here: {', '.join(allowed)}"
    given = "" if isinstance(error.get("input"), dict) else f" (given: {_without_secrets(error.get('input'))})"
    return f"  {where}: {error['msg'].removeprefix('Value error, ')}{given}"


def _without_secrets(given: Any) -> str:
    """What was given, without what may stand in a URI: a user, a password, options with a key."""
    return (
        re.sub(r"(?<=://)[^/@'\"]*(?=@)|(?<=[?&])[^'\"]+", "...", repr(given)) if "://" in str(given) else repr(given)
    )


def _fields_at(location: Sequence[Any]) -> list[str]:
    model: Any = RunConfig
    for name in location:
        field = getattr(model, "model_fields", {}).get(name)
        annotation = getattr(field, "annotation", None)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
        elif isinstance(name, int):
            continue
        else:
            args = [a for a in getattr(annotation, "__args__", ()) if isinstance(a, type) and issubclass(a, BaseModel)]
            if not args:
                return []
            model = args[0]
    return sorted(model.model_fields)
