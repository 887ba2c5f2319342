"""The last lines of a run: its result, where everything lies, and what to do next.

The stages and the merged metrics enter, plain text for a terminal leaves.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from mralign.config import RunConfig
from mralign.report.findings import METRIC_STAGES, Act, figures, finished
from mralign.report.results import Metrics, result_text
from mralign.report.wording import aligned, funnel_text, source_rows
from mralign.run.store import absolute


@dataclass(frozen=True)
class Places:
    """Absolute paths or URIs of what the report wrote, and of the resolved configuration."""

    report: str
    metrics: str | None
    config: str


def closing_text(config: RunConfig, *, acts: Mapping[str, Act], metrics: Metrics, places: Places) -> str:
    """The text that ends the run, paragraphs in order: result or stages done, places, next."""
    settings = config.evaluation
    result = result_text(metrics, level=settings.level, label=settings.label) if metrics else _stages_done(acts)
    training = finished(acts, "training")
    found = [("report", places.report)]
    if places.metrics:
        found.append(("metrics", places.metrics))
    if training is not None:
        adapter = [] if config.training.tuning == "full" else [("adapter", f"{training.uri}/adapter")]
        found += [*adapter, ("model", f"{training.uri}/model")]
    steps = [("next", step) if not i else ("", step) for i, step in enumerate(_next(config, acts=acts, places=places))]
    return "\n\n".join(["", result, aligned(found), aligned(steps)]).lstrip("\n")


def _stages_done(acts: Mapping[str, Act]) -> str:
    done = [act.name for act in acts.values() if act.manifest is not None]
    text = [f"no evaluation yet; stages done: {', '.join(done) or 'none'}"]
    if sources := figures(acts, "questions").get("funnel"):
        head = ("split", "data set", "read", "put aside", "kept")
        text.append(aligned([head, *source_rows(sources)]))
    if funnel := figures(acts, "candidates").get("funnel"):
        text.append(funnel_text(funnel))
    return "\n\n".join(text)


def serving(model: str) -> list[str]:
    """How the trained model is served: vLLM takes a directory, so one in a store is fetched first."""
    if "://" not in model:
        return [f"vllm serve {shlex.quote(model)}"]
    return [f"mralign fetch {shlex.quote(model)} model", "vllm serve ./model"]


def _next(config: RunConfig, *, acts: Mapping[str, Act], places: Places) -> list[str]:
    steps = [f"mralign view {shlex.quote(absolute(config.run.dir))}"]
    training = finished(acts, "training")
    if training is not None:
        steps += serving(f"{training.uri}/model")
    evaluates = bool(config.questions.test or config.questions.dev)
    command = "align --preset" if config.trains else "evaluate --suite"
    wanted = [
        *(["training"] if config.trains else []),
        *(METRIC_STAGES[: 2 if config.trains else 1] if evaluates else []),
    ]
    if any(finished(acts, name) is None for name in wanted):
        steps.append(f"mralign {command} {shlex.quote(places.config)}   (goes on with the stages that are left)")
    elif not evaluates:
        steps.append("give questions.test and run again to evaluate; finished stages are skipped")
    return steps
