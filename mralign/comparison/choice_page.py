"""The page of a study of two parts: which candidate was chosen on some worlds, and how it did on others.

A plan and the rows of its finished worlds enter, the text of the page leaves. The choice is made again from the rows:
a plan that names another candidate as chosen is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from mralign.comparison.choice import choose, choose_method
from mralign.comparison.run_rows import RunRow
from mralign.comparison.run_sheets import (
    by_world,
    choice_sheet,
    cost_sheet,
    difference_sheet,
    differences,
    side_sheet,
)
from mralign.comparison.study_plan import CENTRE, CHOICE, StudyPlan
from mralign.report.sheets import to_markdown

REFERENCES = ("mralign", "kto")  # of the primary differences


def check_choice(plan: StudyPlan, rows: Sequence[RunRow]) -> None:
    """Raise ValueError where the plan has chosen another candidate than its rule does."""
    if not plan.chosen:
        return
    best = choose_method(_of(plan, rows, factor=CHOICE), candidates=plan.candidates)
    if best != plan.chosen:
        raise ValueError(
            f"the study {plan.name} says chosen: {plan.chosen}, its rule chooses {best}; write {best} into its file"
        )


def choice_text(plan: StudyPlan, rows: Sequence[RunRow]) -> str:
    """The page, from the rows of finished worlds."""
    check_choice(plan, rows)
    parts = [_head(plan, rows), *_chosen(plan, _of(plan, rows, factor=CHOICE))]
    test = _of(plan, rows, factor=CENTRE)
    if plan.chosen and test:
        parts += _tested(plan, test)
    return "\n".join(parts)


def _of(plan: StudyPlan, rows: Sequence[RunRow], *, factor: str) -> list[RunRow]:
    names = {world.name for world in plan.worlds if world.factor == factor}
    return [row for row in rows if row.world in names]


def _head(plan: StudyPlan, rows: Sequence[RunRow]) -> str:
    there = {row.world for row in rows}
    finished = []
    for factor, words in ((CHOICE, "of the choice"), (CENTRE, "of the test")):
        names = [world.name for world in plan.worlds if world.factor == factor]
        finished.append(f"{sum(name in there for name in names)} of {len(names)} worlds {words}")
    trainings = sum(row.steps is not None for row in rows)
    command = f"mralign study --plan {plan.name} --rows FILE --page DIR"
    drawn = f"Drawn from {len(rows)} rows, {trainings} of them trainings, by `{command}`."
    asked = "What was asked, and how, was [written before](../better-weights.md)."
    stands = f"{' and '.join(finished)} are finished, and only these count."
    return f"# The study {plan.name}: results\n\n{drawn} {asked} {stands}\n"


def _chosen(plan: StudyPlan, rows: Sequence[RunRow]) -> list[str]:
    """The part on which a candidate is chosen: no difference here is a result."""
    best = choose_method(rows, candidates=plan.candidates)
    tuned = [row for row in rows if row.split == "dev"]
    lead = f"Acc on the test questions of the worlds of the choice. The best of the candidates is `{best}`."
    return [
        "## The choice",
        "",
        f"{lead} Differences here chose it and prove nothing.",
        "",
        to_markdown(by_world(rows, measure="acc")),
        to_markdown(side_sheet(rows)),
        to_markdown(choice_sheet(list(choose(tuned).values()))),
    ]


def _tested(plan: StudyPlan, rows: Sequence[RunRow]) -> list[str]:
    """The part that was asked once, on worlds that no choice has seen."""
    found = differences(rows, method=plan.chosen, references=REFERENCES)
    tuned = [row for row in rows if row.split == "dev"]
    return [
        "## The test",
        "",
        to_markdown(by_world(rows, measure="acc")),
        to_markdown(difference_sheet(found, method=plan.chosen)),
        "What else the methods changed (means over worlds, ± half of the 95 % interval):",
        "",
        to_markdown(side_sheet(rows)),
        "Differences in these, with 95 % intervals and without a test:",
        "",
        to_markdown(cost_sheet(rows, method=plan.chosen, references=REFERENCES)),
        to_markdown(choice_sheet(list(choose(tuned).values()))),
    ]
