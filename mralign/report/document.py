"""A run as one document: views of sections of blocks, and the shelves of its trajectories.

Configuration, stages and merged metrics enter; a `RunDocument` leaves. A section whose stage is missing is left out,
and says why. Nothing is drawn here: the page draws the blocks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mralign.config import RunConfig, to_yaml
from mralign.report import analyses, headline, ratios, sections, wording
from mralign.report.blocks import Bar, Bars, Block, Facts, Grid, Listing, Passage, Text, View
from mralign.report.findings import METRIC_STAGES, Act, finished, merged_metrics, read_macros
from mralign.report.record_shelves import Shelves, shelve
from mralign.report.record_tables import read_records
from mralign.report.results import Metrics
from mralign.report.rounds import rounds_blocks
from mralign.report.spending import spending
from mralign.run.store import absolute

MOST = 60_000  # trajectories of a run that a page holds
_NO_STRATA = "the untrained model was not asked to think on a benchmark with gold answers"
_NO_POSITIONS = "no method was asked to think on a benchmark with gold answers"


@dataclass(frozen=True)
class RunDocument:
    """A run to look at. `macros`: the macro-strategy of each label; `bounds`: where weights are clipped."""

    name: str
    summary: str
    views: Sequence[View]
    macros: Mapping[str, str]
    bounds: tuple[float, float]
    shelves: Shelves
    footer: str


@dataclass(frozen=True)
class RunFindings:
    """What is known of a run: its name, its configuration and its stages, finished or not."""

    name: str
    config: RunConfig
    acts: Mapping[str, Act]
    metrics: Metrics


def findings_of(config: RunConfig, acts: Mapping[str, Act]) -> RunFindings:
    """A run with the metrics of its finished evaluations."""
    return RunFindings(absolute(config.run.dir).rsplit("/", 1)[-1], config, acts, merged_metrics(acts))


def document_of(run: RunFindings) -> RunDocument:
    """The whole document of a run; its trajectories are read from the committed tables."""
    done = [act.manifest for act in run.acts.values() if act.manifest is not None]
    seconds = wording.duration(sum(manifest.seconds for manifest in done))
    versions = done[-1].versions if done else {}
    return RunDocument(
        name=run.name,
        summary=f"mralign run: {len(done)} of {len(run.acts)} planned stages finished, {seconds} of work",
        views=_views(run),
        macros=read_macros(run.acts),
        bounds=(run.config.weights.clip_min, run.config.weights.clip_max),
        shelves=shelve(read_records(run.config, acts=run.acts), most=MOST),
        footer=" · ".join(f"{package} {number}" for package, number in versions.items()),
    )


def _views(run: RunFindings) -> list[View]:
    config, acts = run.config, run.acts

    def passage(
        anchor: str, title: str, stage: str, fill: Callable[[], Sequence[Block] | None], *, none: str = ""
    ) -> Passage:
        """`none`: why a finished stage may have nothing to show."""
        if finished(acts, stage) is not None:
            return Passage(anchor, title, fill(), none)
        why = "is not finished yet" if stage in acts else "is not part of this plan"
        return Passage(anchor, title, None, f"stage {stage} {why}")

    last = next((name for name in METRIC_STAGES if finished(acts, name)), METRIC_STAGES[0])
    unread = next((name for name in analyses.CHANGE_STAGES if not finished(acts, name)), analyses.CHANGE_STAGES[0])
    rounds = rounds_blocks(config.run.dir)
    result = [
        *([] if rounds is None else [Passage("rounds", "Rounds", rounds)]),
        passage("result", "Result", last, lambda: headline.result(config, metrics=run.metrics, acts=acts)),
        passage("strata", "Gain by stratum", METRIC_STAGES[1], lambda: analyses.strata(acts), none=_NO_STRATA),
    ]
    thinking = [
        passage("change", "How thinking changed", unread, lambda: analyses.change(acts)),
        passage("positions", "Positions", last, lambda: analyses.positions(acts), none=_NO_POSITIONS),
        passage("transitions", "Transitions", "matrices", lambda: ratios.transitions(config, acts=acts)),
        passage("weights", "Weights", "weights", lambda: ratios.weights(config, acts=acts)),
    ]
    story = [
        passage("questions", "Questions", "questions", lambda: sections.questions(acts)),
        passage("candidates", "Candidates", "candidates", lambda: sections.candidates(acts)),
        passage("annotation", "Annotation", "annotation", lambda: sections.annotation(acts)),
        passage("signal", "Signal", "signal", lambda: sections.signal(acts)),
        passage("agreement", "Agreement", "agreement", lambda: sections.agreement(acts)),
        passage("training", "Training", "training", lambda: sections.training(acts)),
        Passage("costs", "Costs", spending(acts), "no finished stage has counted any"),
        Passage("rejects", "Rejects", sections.rejects(acts)),
    ]
    return [
        View("outcome", "Result", result),
        View("trajectories", "Trajectories", []),
        View("thinking", "Thinking", thinking),
        View("story", "Story of the run", story),
        View("run", "Run", list(_run(run))),
    ]


def _run(run: RunFindings) -> Iterator[Passage]:
    """What ran, how long it took, and what it was told."""
    lead = "What ran. A fingerprint changes when anything that matters to its stage changes."
    head = ("Stage", "Fingerprint", "Rows in", "Rows out", "Rejects", "Time")
    acts = list(run.acts.values())
    blocks: list[Block] = [Text(lead), Facts("This run", facts(run.config)), Grid("Stages", head, _stage_rows(acts))]
    bars = [_time_bar(act) for act in acts if act.manifest is not None]
    if bars:
        blocks.append(Bars("Time of each stage", bars))
    told = [act for act in acts if act.manifest is not None and act.manifest.figures]
    blocks += map(_figures_of, told)
    yield Passage("stages", "Stages", blocks)
    resolved = "Resolved: defaults, preset and overrides together, as in config.yaml."
    yield Passage("configuration", "Configuration", [Text(resolved), Listing("config.yaml", to_yaml(run.config))])


def _figures_of(act: Act) -> Listing:
    assert act.manifest is not None
    return Listing(f"Figures of {act.name}", json.dumps(act.manifest.figures, indent=1))


def _time_bar(act: Act) -> Bar:
    assert act.manifest is not None
    return Bar(act.name, act.manifest.seconds, wording.duration(act.manifest.seconds), "plain")


def _stage_rows(acts: Sequence[Act]) -> list[tuple[str, ...]]:
    rows = []
    for act in acts:
        found = act.manifest
        if found is None:
            rows.append((f"{act.name} (not finished)", act.out.fingerprint, *[wording.DASH] * 4))
            continue
        counts = (found.rows_in, found.rows_out, sum(found.rejects.values()))
        numbers = map(wording.number, counts)
        rows.append((act.name, act.out.fingerprint, *numbers, wording.duration(found.seconds)))
    return rows


def facts(config: RunConfig) -> list[tuple[str, str]]:
    """What a run is about, in a few lines."""
    weights = f"rule {config.weights.rule}, anchor {config.weights.anchor}, control {config.weights.control}"
    bounds = f"[{config.weights.clip_min:.3g}, {config.weights.clip_max:.3g}]"
    train = ", ".join(source.name for source in config.questions.train)
    trained = [
        ("Method", config.training.method),
        ("Weights", f"{weights}, clipped to {bounds}"),
        ("Trained on", train or config.rollouts.import_name),
    ]
    evaluated: list[Any] = [source.name for source in getattr(config.questions, config.evaluation.split)]
    return [
        *(trained if config.trains else []),
        ("Model", config.model.path),
        ("Evaluated on", f"{', '.join(evaluated) or wording.DASH} ({config.evaluation.split})"),
        ("Seed", str(config.run.seed)),
        ("Directory", absolute(config.run.dir)),
    ]
