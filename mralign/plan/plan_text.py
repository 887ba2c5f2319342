"""The plan of a run as text, for `--dry-run`: what runs, what is skipped, and what can be known of its size and cost.

A configuration and its planned stages enter; lines for a terminal leave. Nothing is started, and nothing is written.
What the settings get wrong is told elsewhere (checks.py): a line that cannot be made of them is left out here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

from mralign.chat.model_files import weight_files
from mralign.config import RunConfig
from mralign.evaluation.judge_costs import ASSUMED
from mralign.plan import expected, places, sizes
from mralign.plan.hours import Hours, expected_hours
from mralign.plan.money import money_lines
from mralign.plan.pipeline import Planned, lacking, runs_anew
from mralign.plan.shipped_run import shipped_run
from mralign.questions.counting import SourceCount, count_questions
from mralign.run import capacity, reach
from mralign.run.placement import describe as describe_workers
from mralign.run.store import absolute

_WAITS = "-"  # in place of a fingerprint


def describe(config: RunConfig, planned: Sequence[Planned]) -> str:
    """The plan as text: what runs, what is skipped, and the sizes that can be known before anything starts."""
    head = f"run directory: {reach.shown(absolute(config.run.dir))}"
    lines = [f"  {item.stage.name:<25} {_mark(item):<16}  {_status(item)}" for item in planned]
    if not all(item.settled for item in planned):
        lines.append(f"  {_WAITS}: its directory is named when the questions are known")
    todo = [item for item in planned if item.manifest is None]
    reachable = all(item.reachable for item in planned)
    parts: list[Callable[[], list[str]]] = []
    if reachable:
        parts.append(partial(runs_anew, planned))
    if todo:
        parts += [partial(forecast, config, planned), partial(_told, config, todo), partial(_gpus, config, todo)]
        parts.append(partial(_cluster, config, todo))
    else:
        spent = sum(item.manifest.seconds for item in planned if item.manifest is not None)
        parts.append(lambda: [f"time: {_duration(spent)} spent on finished stages; nothing is left to do"])
    parts += [partial(_by_stage, todo), partial(_lacks, config, planned)]
    told: list[str] = []
    for part in parts:
        told += _made(part)
    return "\n".join([head, "", *lines, "", *told])


def _mark(item: Planned) -> str:
    """The name of its directory, as far as it is known."""
    return item.out.fingerprint if item.settled else _WAITS


def _made(part: Callable[[], list[str]]) -> list[str]:
    """Lines that can be made of these settings and files, none where these are wrong."""
    try:
        return part()
    except (ValueError, OSError):
        return []


def _status(item: Planned) -> str:
    if item.manifest is not None:
        return f"skip: done, {item.manifest.rows_out} rows in {item.manifest.seconds:.0f} s"
    parts = len(item.out.parts()) if item.reachable else 0
    return f"run: goes on from {parts} committed parts" if parts else "run"


def forecast(config: RunConfig, planned: Sequence[Planned]) -> list[str]:
    """Questions, model, tokens, memory, time and money of what is left."""
    reachable = all(item.reachable for item in planned)
    sources = [] if planned[0].manifest is not None else count_questions(config)
    counts = expected.counts_of(config, planned, sources=sources)
    model = sizes.model_of(config)
    shipped = shipped_run(config, parameters=model.parameters)
    length = expected.lengths(planned, shipped=shipped) if reachable else expected.assumed_lengths(shipped)
    examples = expected.examples_expected(config, counts=counts, shipped=shipped, length=length)
    lines = _made(partial(_questions, planned, sources=sources))
    lines += _made(partial(sizes.lines, config, model, planned=planned))
    lines += _made(partial(_tokens, config, planned, counts=counts, length=length, examples=examples))
    if reachable:
        hours = expected_hours(config, planned, counts=counts, shape=model.shape, examples=examples)
        lines.append(_time(planned, hours=hours))
    train = expected.by_dataset(planned, sources=sources, split="train")
    held_out = expected.by_dataset(planned, sources=sources, split=config.evaluation.split)
    return lines + _made(partial(money_lines, config, planned, train=train, held_out=held_out))


def _questions(planned: Sequence[Planned], *, sources: Sequence[SourceCount]) -> list[str]:
    """How many there are, by split."""
    manifest = planned[0].manifest
    if manifest is not None:
        shown = [
            f"{split} {manifest.figures[split]:,}" for split in ("train", "dev", "test") if split in manifest.figures
        ]
        return [f"questions: {', '.join(shown)}"]
    by_split: dict[str, list[SourceCount]] = {}
    for one in sources:
        by_split.setdefault(one.split, []).append(one)
    shown = [f"{split} {', '.join(map(str, found))}" for split, found in by_split.items()]
    return [f"questions: {'; '.join(shown)} (records in the files; repeats and leaks are still among them)"]


def _tokens(
    config: RunConfig,
    planned: Sequence[Planned],
    *,
    counts: expected.KnownCounts,
    length: expected.Lengths,
    examples: expected.ExpectedExamples,
) -> list[str]:
    """Requests and tokens of the stages that ask the model, and of the training."""
    todo = {item.stage.name for item in planned if item.manifest is None}
    asked: dict[str, expected.ExpectedRequests] = {}
    if "rollouts" in todo and not config.rollouts.import_on and counts.train is not None:
        asked["rollouts"] = expected.of_rollouts(config, questions=counts.train, length=length)
    asks = config.evaluation.predictions is None
    for name, trained in (("responses_base", False), ("responses", True)):
        if asks and name in todo and counts.held_out is not None:
            asked[name] = expected.of_responses(config, questions=counts.held_out, length=length, trained=trained)
    lines = [f"  {name}: {one}" for name, one in asked.items()]
    if asks and todo & {"responses_base", "responses"} and counts.held_out is None:
        lines.append("  evaluation: unknown until questions is finished")
    assumed = [length.source] if asked else []
    if "training" in todo and examples.number:
        size = expected.in_words(examples.number * examples.tokens * config.training.epochs)
        epochs = config.training.epochs
        lines.append(f"  training: {examples.number:,.0f} examples, about {size} tokens in {epochs} epochs")
        assumed += filter(None, [examples.source])
    if any(name.startswith("judgements") for name in todo):
        assumed.append(ASSUMED)
    lines += [f"  assumed: {text}" for text in assumed]
    return ["tokens, expected:", *lines] if lines else []


def _time(planned: Sequence[Planned], *, hours: Hours) -> str:
    spent = sum(item.manifest.seconds for item in planned if item.manifest is not None)
    before = f"{_duration(spent)} spent on finished stages; " if spent else ""
    if not hours.sources:
        return f"time: {before}the rest is unknown: nothing was measured yet"
    of = ", ".join(hours.stages) if hours.unknown else "what is left"
    unknown = f"; unknown, for nothing was measured yet: {', '.join(hours.unknown)}" if hours.unknown else ""
    span = f"{_duration(hours.low_s)} to {_duration(hours.high_s)}"
    return f"time: {before}{span} for {of} (by {'; '.join(hours.sources)}){unknown}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _told(config: RunConfig, todo: Sequence[Planned]) -> list[str]:
    """What the stages say of themselves."""
    lines: list[str] = []
    for item in todo:
        if item.stage.tell is not None:
            lines += item.stage.tell(config)
    return lines


def _gpus(config: RunConfig, todo: Sequence[Planned]) -> list[str]:
    wanted = {item.stage.name: describe_workers(item.stage.workers(config)) for item in todo}
    return [f"GPUs: {name} takes {text}" for name, text in wanted.items() if text]


def _cluster(config: RunConfig, todo: Sequence[Planned]) -> list[str]:
    """What the cluster has that the environment names, and what it lacks for the stages that are left."""
    address = os.environ.get("RAY_ADDRESS", "")
    if ":" not in address or "://" in address or places.cluster_fault():
        return []
    found = capacity.capacity(address)
    workers = {item.stage.name: item.stage.workers(config) for item in todo}
    lacks = capacity.lacks_by_stage(workers, found)
    return [f"cluster: {found}", *(f"lacking on the cluster: {line}" for line in lacks)]


def _by_stage(planned: Sequence[Planned]) -> list[str]:
    """Each warning once, with the stages that it is of."""
    stages: dict[str, list[str]] = {}
    for item in planned:
        for text in item.warnings:
            stages.setdefault(text, []).append(item.stage.name)
    return [
        f"warning: {', '.join(names)}: {text} (only the machines that run this need it)"
        for text, names in stages.items()
    ]


def _lacks(config: RunConfig, planned: Sequence[Planned]) -> list[str]:
    return [f"lacking on this machine: {line}" for line in lacking(config, planned)]


def model_bytes(path: str) -> int | None:
    """Bytes of the weights in a local directory, None where there are none."""
    return sum(file.stat().st_size for file in weight_files(path)) or None
