"""The page of a study, drawn from the rows that are kept: tables, figures, and where it stands.

A plan and the rows of the table of runs enter; the page and its pictures leave. A plan of two parts has the page of
`choice_page.py`. Nothing is measured here, so the page
of a finished study can be drawn on any machine, and that of a running one from the worlds that are finished.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mralign.comparison.chart import Dot, Panel, draw
from mralign.comparison.choice import choose
from mralign.comparison.choice_page import choice_text
from mralign.comparison.differences import effect, latest, paired_values, values_of
from mralign.comparison.run_rows import RunRow
from mralign.comparison.run_sheets import (
    by_world,
    choice_sheet,
    cost_sheet,
    difference_sheet,
    differences,
    side_sheet,
    verdict,
)
from mralign.comparison.study_plan import CENTRE, StudyPlan, StudyWorld
from mralign.report.sheets import to_markdown

METHOD, REFERENCES = "mralign", ("kto", "mralign-shuffle", "mralign-mean", "mralign-opposite", "sft")
CURVE_REFERENCES = ("kto", "mralign-shuffle")
LEARNING = ("examples", "noise")  # factors whose curves are drawn as accuracies too


def write_page(plan: StudyPlan, rows: Sequence[RunRow], *, out: Path) -> str:
    """Write the page and its pictures into `out`; returns the text of the page."""
    named = {world.name for world in plan.worlds}
    there = [row for row in latest(rows) if row.world in named]
    finished = [world for world in plan.worlds if _finished(world, there)]
    if not finished:
        raise ValueError(f"no world of the study {plan.name} is finished; run mralign study --plan {plan.name} first")
    known = _of(finished, there)
    out.mkdir(parents=True, exist_ok=True)
    if plan.candidates:
        text = choice_text(plan, known)
        (out / plan.page).write_text(text, encoding="utf-8")
        return text
    centre = _of([world for world in plan.worlds if world.factor == CENTRE], known)
    parts = [_head(plan, there, finished=finished), *_centre(centre)]
    panels = curve_panels(plan, known)
    if panels:
        parts += ["## One knob at a time", "", _CURVES, "", "![differences](study-curves.svg)", ""]
        (out / "study-curves.svg").write_text(draw(panels, title="Differences in Acc by knob", zero=True))
        accuracies = accuracy_panels(plan, known)
        if accuracies:
            parts += ["![accuracies](study-learning.svg)", ""]
            (out / "study-learning.svg").write_text(draw(accuracies, title="Acc by knob", zero=False))
        parts += [_curve_table(panels), ""]
    text = "\n".join(parts)
    (out / plan.page).write_text(text, encoding="utf-8")
    return text


_CURVES = (
    "Points are means over the worlds of a level, bars 95 % intervals of Student's t over worlds (three worlds: they "
    "are wide, and are cut at the frame). The level of the centre is that of the same worlds there."
)


def _head(plan: StudyPlan, rows: Sequence[RunRow], *, finished: Sequence[StudyWorld]) -> str:
    begun = {row.world for row in rows} - {world.name for world in finished}
    trainings = sum(row.steps is not None for row in rows)
    unfinished = f"; begun: {', '.join(sorted(begun))}" if begun else ""
    command = f"mralign study --plan {plan.name} --rows FILE --page DIR"
    drawn = f"Drawn from {len(rows)} rows, {trainings} of them trainings, by `{command}`."
    asked = "What was asked, and how, was [written before](../study.md)."
    stands = f"{len(finished)} of {len(plan.worlds)} worlds are finished, and only these count{unfinished}."
    return f"# The study of small worlds: results\n\n{drawn} {asked} {stands}\n"


def _finished(world: StudyWorld, rows: Sequence[RunRow]) -> bool:
    there = [row for row in rows if row.world == world.name]
    return sum(row.steps is not None for row in there) >= world.grid.trainings


def _of(worlds: Sequence[StudyWorld], rows: Sequence[RunRow]) -> list[RunRow]:
    names = {world.name for world in worlds}
    return [row for row in rows if row.world in names]


def _centre(rows: Sequence[RunRow]) -> list[str]:
    if not any(row.split == "test" for row in rows):
        return ["No world of the centre has been tested yet.", ""]
    parts = ["## At the centre", "", to_markdown(by_world(rows, measure="acc"))]
    found = differences(rows, method=METHOD, references=REFERENCES)
    if found:
        parts += [to_markdown(difference_sheet(found, method=METHOD))]
    parts += ["What else the methods changed (means over worlds, ± half of the 95 % interval):", ""]
    parts += [to_markdown(side_sheet(rows))]
    parts += ["Differences in these, with 95 % intervals and without a test:", ""]
    parts += [to_markdown(cost_sheet(rows, method=METHOD, references=CURVE_REFERENCES))]
    tuned = [row for row in rows if row.split == "dev"]
    return [*parts, to_markdown(choice_sheet(list(choose(tuned).values())))]


def _levels(plan: StudyPlan, factor: str) -> dict[str, list[StudyWorld]]:
    """The worlds of each level of a factor, that of the centre among them, in the order of the levels."""
    turned = [world for world in plan.worlds if world.factor == factor]
    seeds = {world.knobs.seed for world in turned}
    centre = [world for world in plan.worlds if world.factor == CENTRE and world.knobs.seed in seeds]
    found: dict[str, list[StudyWorld]] = {}
    for world in turned:
        found.setdefault(world.level, []).append(world)
    if centre:
        value = getattr(centre[0].knobs, factor)
        found[f"{value}"] = [replace(world, grid=turned[0].grid) for world in centre]
    numbers = all(isinstance(getattr(world.knobs, factor), int | float) for world in turned)
    return dict(sorted(found.items(), key=lambda pair: float(pair[0]) if numbers else 0.0))


def _factors(plan: StudyPlan) -> list[str]:
    named = dict.fromkeys(world.factor for world in plan.worlds)
    return [name for name in named if name != CENTRE]


def _level_rows(worlds: Sequence[StudyWorld], rows: Sequence[RunRow]) -> list[RunRow]:
    """The test rows of a level, under the seeds of the curve alone."""
    seeds = set(worlds[0].grid.seeds)
    return [row for row in _of(worlds, rows) if row.split == "test" and row.seed in seeds]


def curve_panels(plan: StudyPlan, rows: Sequence[RunRow]) -> list[Panel]:
    """Differences in Acc of METHOD from each of CURVE_REFERENCES, a panel a factor that has been begun."""
    panels = []
    for factor in _factors(plan):
        levels = _levels(plan, factor)
        series: dict[str, tuple[Dot | None, ...]] = {}
        for reference in CURVE_REFERENCES:
            dots = []
            for worlds in levels.values():
                own = _level_rows(worlds, rows)
                dots.append(_dot(paired_values(own, method=METHOD, reference=reference, measure="acc")))
            series[f"{METHOD} − {reference}"] = tuple(dots)
        if _begun(plan, factor, rows):
            panels.append(Panel(factor, tuple(levels), series))
    return panels


def accuracy_panels(plan: StudyPlan, rows: Sequence[RunRow]) -> list[Panel]:
    """Acc of the methods of the curves, for the factors of LEARNING that have been begun."""
    panels = []
    for factor in (name for name in LEARNING if name in _factors(plan) and _begun(plan, name, rows)):
        levels = _levels(plan, factor)
        methods = next(iter(levels.values()))[0].grid.methods
        series = {}
        for method in methods:
            found = [values_of(_level_rows(w, rows), method=method, measure="acc") for w in levels.values()]
            series[method] = tuple(map(_dot, found))
        panels.append(Panel(factor, tuple(levels), series))
    return panels


def _begun(plan: StudyPlan, factor: str, rows: Sequence[RunRow]) -> bool:
    turned = [world for world in plan.worlds if world.factor == factor]
    return bool(_level_rows(turned, rows))


def _dot(by_world_values: Sequence[object]) -> Dot | None:
    if not by_world_values:
        return None
    one = effect(by_world_values)  # type: ignore[arg-type]
    return Dot(one.mean, one.low, one.high)


def _curve_table(panels: Sequence[Panel]) -> str:
    """The points of the panels as a table."""
    names = list(panels[0].series)
    lines = [f"| knob | level | {' | '.join(names)} | the first |", f"|---|---|{'---:|' * len(names)}---|"]
    for panel in panels:
        for place, level in enumerate(panel.names):
            cells = [_shown(panel.series[name][place]) for name in names]
            first = panel.series[names[0]][place]
            said = "–" if first is None or math.isnan(first.low) else verdict(first.low, first.high)
            lines.append(f"| {panel.title} | {level} | {' | '.join(cells)} | {said} |")
    return "\n".join(lines)


def _shown(dot: Dot | None) -> str:
    if dot is None:
        return "–"
    interval = "one world" if math.isnan(dot.low) else f"[{dot.low:+.3f}, {dot.high:+.3f}]"
    return f"{dot.value:+.3f} {interval}"
