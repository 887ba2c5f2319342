"""Gain by stratum: where the base model thought and answered right, wrong, or not alike (method.md §6).

Scores of the base model thinking and of other methods on the same questions enter; the gain of each method in Acc and
Mis within each stratum of questions leaves, with paired bootstrap intervals over questions. The strata are made from
the very answers that the gain is counted from: the base sampled a second time would also lose in both_correct and win
in both_wrong. Compare methods within a stratum, not a stratum's gain with zero.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mralign.evaluation.benchmarks import measures
from mralign.evaluation.intervals import bootstrap_interval

STRATA = ("both_correct", "both_wrong", "inconsistent")

_Draws = dict[str, list[Mapping[str, Any]]]  # question id -> scores of its draws


def stratum(draws: Sequence[Mapping[str, Any]]) -> str:
    """The stratum of a question by the base model's draws of it (schema SCORES, em_thought and em_answer).

    both_correct: thought and answer hold a gold answer in all draws; both_wrong: neither does in any draw; else
    inconsistent, so also where one draw is right in both and another wrong in both.
    """
    verdicts = [verdict for row in draws for verdict in (row["em_thought"], row["em_answer"])]
    if all(verdicts):
        return "both_correct"
    return "inconsistent" if any(verdicts) else "both_wrong"


def strata_figures(
    base_scores: Iterable[Mapping[str, Any]],
    other_scores: Iterable[Mapping[str, Any]],
    *,
    level: float = 0.95,
    samples: int = 2000,
) -> dict[str, Any]:
    """{dataset: {"n": {stratum: questions}, "methods": {method: {stratum: gain}}}}, strata in the order of `STRATA`.

    `base_scores`: the base model thinking, schema SCORES, one method; `other_scores`: any other methods. A gain is
    {acc, acc_ci, mis, mis_ci, n}: the method minus the base, as shares, draws averaged within a question first. mis is
    null for a method that does not think, both are null where n is 0. Rows without em_answer are left out: their
    benchmark has no gold answers. A question that a method has no score of (its search failed) is left out of that
    method's gain, as its n says. Raises ValueError if the base is several methods or one that does not think.
    """
    base, others = _by_question(base_scores), _by_question(other_scores)
    names = sorted({method for _, method in base})
    if len(names) > 1 or not all(_think(draws) for draws in base.values()):
        raise ValueError(f"strata are made by one method that thinks, given {names}; give the base model thinking")
    found: dict[str, Any] = {}
    for (dataset, _), draws in base.items():
        members: dict[str, list[str]] = {name: [] for name in STRATA}
        for question in sorted(draws):
            members[stratum(draws[question])].append(question)
        gains: dict[str, Any] = {}
        for (there, method), own in others.items():
            if there == dataset:
                gains[method] = _gains(own, draws, members=members, level=level, samples=samples)
        found[dataset] = {"n": {name: len(questions) for name, questions in members.items()}, "methods": gains}
    return found


def _think(draws: _Draws) -> bool:
    return all(row["em_thought"] is not None for rows in draws.values() for row in rows)


def _by_question(scores: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], _Draws]:
    """Scores that have a verdict on the answer, by (data set, method) and question."""
    found: dict[tuple[str, str], _Draws] = defaultdict(lambda: defaultdict(list))
    for row in scores:
        if row["em_answer"] is not None:
            found[row["dataset"], row["method"]][row["question_id"]].append(row)
    return found


def _gains(
    own: _Draws, base: _Draws, *, members: Mapping[str, Sequence[str]], level: float, samples: int
) -> dict[str, Any]:
    keys = [measure.key for measure in measures().values() if measure.gain]
    found: dict[str, Any] = {}
    for name, everyone in members.items():
        questions = [question for question in everyone if question in own]
        gains: dict[str, Any] = {}
        for key in keys:
            gains[key], gains[f"{key}_ci"] = _gain(own, base, questions, key=key, level=level, samples=samples)
        found[name] = {**gains, "n": len(questions)}
    return found


def _gain(
    own: _Draws, base: _Draws, questions: Sequence[str], *, key: str, level: float, samples: int
) -> tuple[float | None, tuple[float, float] | None]:
    """The mean over questions of what the method has more than the base, and its interval."""
    measured = all(row[key] is not None for draws in own.values() for row in draws)
    if not questions or not measured:
        return None, None
    gains = np.array([_mean(own[question], key=key) - _mean(base[question], key=key) for question in questions])
    return float(gains.mean()), bootstrap_interval(gains, level=level, samples=samples)


def _mean(draws: Sequence[Mapping[str, Any]], *, key: str) -> float:
    return float(np.mean([row[key] for row in draws]))
