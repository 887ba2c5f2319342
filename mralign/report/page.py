"""The page: what was read from a run becomes one self-contained HTML file.

Configuration, stages and merged metrics enter, HTML leaves. A section whose stage is missing is left out, and the page
says which. Texts of questions and trajectories are untrusted: the template escapes everything except the drawings of
`figures.py`, which escape their own texts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from mralign.config import RunConfig, to_yaml
from mralign.report import analyses, results, sections, wording
from mralign.report.findings import METRIC_STAGES, Act, figures, finished
from mralign.report.results import Metrics
from mralign.report.sections import Content
from mralign.run.store import absolute

_NO_STRATA = "the untrained model was not asked to think on a benchmark with gold answers"
_NO_POSITIONS = "no method was asked to think on a benchmark with gold answers"


@dataclass(frozen=True)
class PageSection:
    """One part of the page; `content` is None when it is left out, `absence` then says why."""

    anchor: str
    title: str
    content: Content | None
    absence: str


def render(config: RunConfig, *, acts: Mapping[str, Act], metrics: Metrics) -> str:
    """The whole page."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files(__package__).joinpath("page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        name=absolute(config.run.dir).rsplit("/", 1)[-1],
        run=_run(config, acts=acts),
        cards=_cards(config, acts=acts, metrics=metrics),
        sections=_sections(config, acts=acts, metrics=metrics),
        configuration=to_yaml(config),
    )


def _sections(config: RunConfig, *, acts: Mapping[str, Act], metrics: Metrics) -> list[PageSection]:
    def section(
        anchor: str, title: str, stage: str, fill: Callable[[], Content | None], *, none: str = ""
    ) -> PageSection:
        """`none`: why a finished stage may have nothing to show."""
        if finished(acts, stage) is not None:
            return PageSection(anchor, title, fill(), none)
        why = "is not finished yet" if stage in acts else "is not part of this plan"
        return PageSection(anchor, title, None, f"stage {stage} {why}")

    last = next((name for name in METRIC_STAGES if finished(acts, name)), METRIC_STAGES[0])
    unread = next((name for name in analyses.CHANGE_STAGES if not finished(acts, name)), analyses.CHANGE_STAGES[0])
    return [
        section("result", "Result", last, lambda: sections.result(config, metrics=metrics)),
        section("strata", "Gain by stratum", METRIC_STAGES[1], lambda: analyses.strata(acts), none=_NO_STRATA),
        section("positions", "Positions", last, lambda: analyses.positions(acts), none=_NO_POSITIONS),
        section("change", "How thinking changed", unread, lambda: analyses.change(acts)),
        section("questions", "Questions", "questions", lambda: sections.questions(acts)),
        section("candidates", "Candidates", "candidates", lambda: sections.candidates(acts)),
        section("annotation", "Annotation", "annotation", lambda: sections.annotation(acts)),
        section("agreement", "Agreement", "agreement", lambda: sections.agreement(acts)),
        section("transitions", "Transitions", "matrices", lambda: sections.transitions(config, acts=acts)),
        section("weights", "Weights", "weights", lambda: sections.weights(config, acts=acts)),
        section("training", "Training", "training", lambda: sections.training(acts)),
        section("trajectories", "Trajectories", "candidates", lambda: sections.trajectories(config, acts=acts)),
        PageSection("rejects", "Rejects", sections.rejects(acts), ""),
    ]


def _run(config: RunConfig, *, acts: Mapping[str, Act]) -> dict[str, Any]:
    rows = [
        {
            "name": act.name,
            "fingerprint": act.out.fingerprint,
            "manifest": act.manifest,
            "seconds": wording.duration(act.manifest.seconds) if act.manifest else wording.DASH,
            "rows_in": wording.number(act.manifest.rows_in if act.manifest else None),
            "rows_out": wording.number(act.manifest.rows_out if act.manifest else None),
            "rejects": wording.number(sum(act.manifest.rejects.values()) if act.manifest else None),
            "figures": json.dumps(act.manifest.figures, indent=1) if act.manifest and act.manifest.figures else "",
        }
        for act in acts.values()
    ]
    done = [act.manifest for act in acts.values() if act.manifest is not None]
    return {
        "facts": _facts(config),
        "stages": rows,
        "done": len(done),
        "seconds": wording.duration(sum(m.seconds for m in done)),
        "versions": done[-1].versions if done else {},
    }


def _facts(config: RunConfig) -> list[tuple[str, str]]:
    weights = f"anchor {config.weights.anchor}, control {config.weights.control}"
    bounds = f"[{config.weights.clip_min:.3g}, {config.weights.clip_max:.3g}]"
    train = ", ".join(source.name for source in config.questions.train)
    trained = [
        ("Method", config.training.method),
        ("Weights", f"{weights}, clipped to {bounds}"),
        ("Trained on", train or config.rollouts.import_name),
    ]
    return [
        *(trained if config.questions.train or config.rollouts.import_on else []),
        ("Model", config.model.path),
        ("Evaluated on", f"{', '.join(sections.evaluated(config)) or wording.DASH} ({config.evaluation.split})"),
        ("Seed", str(config.run.seed)),
        ("Directory", absolute(config.run.dir)),
    ]


def _cards(config: RunConfig, *, acts: Mapping[str, Act], metrics: Metrics) -> list[tuple[str, str, str]]:
    """Headline figures: (name, figure, note)."""
    cards = []
    gains = results.gains(metrics, label=config.evaluation.label)
    for gain in (gain for gain in gains if gain.method == gains[0].method):
        place = "" if len(gains) == 1 else f", {gain.benchmark}"
        for change in gain.changes:
            if change.points is not None:
                now = metrics[gain.method][gain.benchmark][change.measure.key]
                note = f"{wording.signed(change.points)} points against {gain.base}"
                cards.append((f"{change.measure.gain}{place}", f"{wording.percent(now)} %", note))
    act = acts.get("candidates")
    if act is not None and act.manifest is not None:
        cards.append(("Trajectories", wording.number(act.manifest.rows_out), "candidates kept"))
    steps = figures(acts, "training").get("steps")
    if steps is not None:
        cards.append(("Training", wording.number(steps), f"optimizer steps, {config.training.method}"))
    return cards
