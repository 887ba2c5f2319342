"""The configuration of an evaluation: a suite, the model in it, its files, and the benchmarks that are asked for.

What a user says of a model and a suite enters; a checked configuration leaves, with a run directory that no other model
shares. A file of predictions takes the place of the model (prediction_runs.py).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mralign.config import RunConfig, load, parse
from mralign.presets import SUITES

DEFAULT = "miniworld"  # the suite where none is named


def configure(
    settings: Sequence[str],
    *,
    model: str | None = None,
    adapter: str | None = None,
    suite: str | None = None,
    data: str | None = None,
    benchmarks: Sequence[str] | None = None,
) -> RunConfig:
    """The suite with the model in it, its files under `data`, and only the benchmarks that are asked for.

    `suite`: a name, or the path of a YAML file; `settings` win over it. Raises ValueError for a wrong configuration,
    and for a benchmark that is not in the suite.
    """
    suite = suite or DEFAULT
    wanted = [name.strip() for name in ",".join(benchmarks or ()).split(",") if name.strip()]
    overrides = [*_overrides_of(model, adapter=adapter), *settings]
    config = load(suite, overrides=overrides, presets_dir=SUITES)
    if config.trains and not any(item.startswith("run.dir=") for item in overrides):
        raise ValueError(
            f"{suite} is the configuration of a training, whose run directory is {config.run.dir}; give --model "
            f"or a run.dir of the evaluation's own, or run it by `mralign align`"
        )
    values: dict[str, Any] = config.model_dump(mode="json")
    values["rollouts"] |= {"import_on": None, "import_off": None}
    sources = values["questions"][config.evaluation.split]
    known = [source["name"] for source in sources]
    if unknown := sorted(set(wanted) - set(known)):
        raise ValueError(f"--benchmarks {','.join(unknown)}: not in this suite; allowed are {', '.join(known)}")
    chosen = [source for source in sources if not wanted or source["name"] in wanted]
    placed = [source | {"path": _placed(source["path"], data=data)} for source in chosen]
    values["questions"] = {config.evaluation.split: placed}
    prompts = values["evaluation"]["prompts"]
    gone = set(known) - {source["name"] for source in chosen}
    values["evaluation"]["prompts"] = {name: prompt for name, prompt in prompts.items() if name not in gone}
    return parse(values)


def _overrides_of(model: str | None, *, adapter: str | None) -> list[str]:
    """What --model and --adapter say, as settings."""
    given = {}
    if model is not None:
        label, place = named(model, adapter=adapter)
        given = {"model.path": model, "evaluation.label": label, "run.dir": f"runs/evaluate/{place}"}
    if adapter is not None:
        given["model.adapter"] = adapter
    return [f"{name}={json.dumps(value)}" for name, value in given.items()]


def named(model: str, *, adapter: str | None) -> tuple[str, str]:
    """A model's name in tables, and that of its run directory, which no other model or adapter shares.

    The model of a run of ours lies in RUN/training/FINGERPRINT/model, and is called RUN.
    """
    path = Path(model)
    said = path.name if path.exists() else model
    if path.name == "model" and len(path.parts) > 3 and path.parts[-3] == "training":
        said = path.parts[-4]
    if adapter is not None:
        said += f"-{Path(adapter).name}"
    label = re.sub(r"[^\w.-]+", "_", said).strip("_") or "model"
    if not path.exists() and adapter is None:
        return label, label  # a name on the hub is one model
    absolute = [str(Path(item).expanduser().absolute()) for item in (model, adapter) if item]
    return label, f"{label}-{hashlib.sha256(' '.join(absolute).encode()).hexdigest()[:6]}"


def _placed(path: str, *, data: str | None) -> str:
    """A relative path under the directory (or URI) of the data; others stay as they are."""
    if data is None or "://" in path or path.startswith(("/", "~")):
        return path
    return f"{data.rstrip('/')}/{path}"
