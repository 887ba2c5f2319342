"""`mralign evaluate`: any model, aligned here or not; or two evaluated runs, question by question."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mralign.cli.arguments import DryRun, Settings, TakeOver, complete_suite, listed
from mralign.cli.display import display
from mralign.cli.walk import check_run_directory, walk
from mralign.config import RunConfig, load, parse
from mralign.plan import template_dates
from mralign.presets import SUITES


def evaluate(
    settings: Settings = None,
    *,
    model: Annotated[
        str | None, typer.Option(metavar="DIR|NAME", help="Model directory or hub name; default: the suite's.")
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(metavar="DIR", help="LoRA adapter directory on top of the model.")
    ] = None,
    suite: Annotated[
        str,
        typer.Option(metavar="NAME|FILE", help="A suite by name, or a YAML file.", autocompletion=complete_suite),
    ] = "miniworld",
    data: Annotated[str | None, typer.Option(metavar="DIR", help="Where the suite's files lie.")] = None,
    benchmarks: Annotated[
        list[str] | None, typer.Option(metavar="NAME,...", help="Only these benchmarks of the suite.")
    ] = None,
    dry_run: DryRun = False,
    take_over: TakeOver = False,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="RUN RUN", help="Two run directories, RUN or RUN:METHOD, to compare."),
    ] = None,
    common: Annotated[bool, typer.Option("--common", help="Compare on the questions that both have.")] = False,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the comparison goes; default: in the second run.")
    ] = None,
) -> None:
    """Evaluate any model, aligned here or not; or compare two evaluated runs question by question.

    Stop it at any time, run it again: it goes on where it was. A further benchmark asks its own questions only.
    """
    if compare:
        if settings:
            raise ValueError(f"--compare takes no settings, given {settings}; it compares what is finished")
        from mralign.comparison import runs

        display.result(runs.compare_runs(*compare, common=common, out=out))
        return
    wanted = configure(settings or (), model=model, adapter=adapter, suite=suite, data=data, benchmarks=benchmarks)
    config = template_dates.settle(wanted)
    check_run_directory(config)
    walk(config, dry_run=dry_run, take_over=take_over)


def configure(
    settings: Sequence[str],
    *,
    model: str | None = None,
    adapter: str | None = None,
    suite: str = "miniworld",
    data: str | None = None,
    benchmarks: Sequence[str] | None = None,
) -> RunConfig:
    """The suite with the model in it, its files under `data`, and only the benchmarks that are asked for."""
    wanted = listed(benchmarks, option="--benchmarks", of=str, allowed="names") if benchmarks else ()
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
