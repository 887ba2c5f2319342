"""Where the gold answer stands in a thought: first and last hit, under right and wrong answers (method.md §6, Fig. 1).

Generations and their scores enter; histograms, means and counts by benchmark, method and verdict leave. A position is
counted in TOKENS of the normalised thought (`questions.normalisation`), not in characters of the text: the index of the
hit's first token divided by the number of tokens, in [0, 1). Having a position is the same as EM_t.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mralign.questions.matching import token_places

BINS = 20


def hit_positions(thought: str, answers: Sequence[str]) -> tuple[float, float] | None:
    """Relative positions, in [0, 1), of the first and of the last hit of a gold alias in `thought`; None without one.

    A hit is where `matching.thought_matches` finds an alias: a run of whole tokens. Its place is its first token's.
    """
    found = token_places(thought, answers)
    if found is None:
        return None
    first, last, tokens = found
    return first / tokens, last / tokens


def position_figures(rows: Iterable[Mapping[str, Any]], scores: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """{dataset: {method: {"right": side, "wrong": side, "invalid": n}}} of the responses that were asked to think.

    `rows`: schema GENERATIONS and `method`; `scores`: schema SCORES of the same (method, row_id). Right is em_answer.
    A side: `thoughts`, `without_hit`, and for `first` and `last` hit: `mean` (null without a hit) and `histogram`, hits
    in each of 20 equal bins of [0, 1). A draw that cannot be judged is counted as `invalid` and nowhere else: a thought
    that broke off has no end to measure from. A response without em_thought (think-off, no gold answers) is left out.
    Raises ValueError for a valid score without its row.
    """
    generations = {(row["method"], row["row_id"]): row for row in rows}
    found: dict[str, dict[str, dict[str, list[Any]]]] = defaultdict(dict)
    for score in scores:
        if score["em_thought"] is None or score["em_answer"] is None:
            continue
        empty: dict[str, list[Any]] = {"right": [], "wrong": [], "invalid": []}
        sides = found[score["dataset"]].setdefault(score["method"], empty)
        if score["invalid"] is not None:
            sides["invalid"].append(None)
            continue
        row = generations.get((score["method"], score["row_id"]))
        if row is None:
            raise ValueError(
                f"score {score['row_id']} of {score['method']} has no generation; give the rows that were scored"
            )
        thought = row["text"][row["thought_start"] : row["thought_end"]]
        sides["right" if score["em_answer"] else "wrong"].append(hit_positions(thought, row["answers"]))
    figures: dict[str, Any] = {}
    for dataset, methods in found.items():
        figures[dataset] = {name: _figures(sides) for name, sides in methods.items()}
    return figures


def _figures(sides: Mapping[str, list[Any]]) -> dict[str, Any]:
    return {"right": _side(sides["right"]), "wrong": _side(sides["wrong"]), "invalid": len(sides["invalid"])}


def _side(found: Sequence[tuple[float, float] | None]) -> dict[str, Any]:
    hits = [pair for pair in found if pair is not None]
    return {
        "thoughts": len(found),
        "without_hit": len(found) - len(hits),
        "first": _place([first for first, _ in hits]),
        "last": _place([last for _, last in hits]),
    }


def _place(values: Sequence[float]) -> dict[str, Any]:
    return {"mean": sum(values) / len(values) if values else None, "histogram": _histogram(values)}


def _histogram(values: Sequence[float]) -> list[int]:
    counts = [0] * BINS
    for value in values:
        counts[int(value * BINS)] += 1
    return counts
