"""Short-answer evaluation: accuracy, and how often the thought and the answer disagree.

Enters: generations with their gold aliases. Leaves: one score per generation, and means with bootstrap intervals over
questions. All rates are shares in [0, 1]. A draw that cannot be judged (truncated, thought never closed, no answer) is
a wrong answer and stays in every mean: a model must not gain by answers that break off. METHOD.md section 6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mralign.chat.thought import FORMAT_FAULTS
from mralign.questions.matching import answer_matches, contains, thought_matches

_CHUNK = 256  # bootstrap samples held in memory at once


def score(rows: list[dict], *, match: str) -> list[dict]:
    """One score per response of `rows` (schema GENERATIONS and `method`), in their order, as a row of schema SCORES.

    `match` (exact | contains | paper) decides em_answer. Think-on: acc = EM_t and EM_a, mis = EM_t xor EM_a. Think-off:
    acc = EM_a, em_thought and mis are None. Where `invalid` holds a reason EM_a is False; EM_t still counts what was
    thought.
    """
    return [_score(row, match=match) for row in rows]


def metrics(scores: list[dict], *, level: float = 0.95, samples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Means over the draws of one method, with percentile bootstrap intervals over questions (shares, not percent).

    Keys: kind, acc, acc_contains, mis and mis_contains (null for think-off), each with its `_ci`, n (questions), draws,
    invalid_share and what it is made of (truncated_share: the token limit was met; format_failure_share: no answer
    could be told apart; the rest could not be asked), thought_tokens_mean (tokens; null for think-off). Raises
    ValueError if `scores` is empty or holds several methods.
    """
    methods = sorted({row["method"] for row in scores})
    if len(methods) != 1:
        raise ValueError(
            f"metrics need scores of one method, given {len(scores)} scores of methods {methods}; split them by method"
        )
    thinks = any(row["em_thought"] is not None for row in scores)
    questions = np.array([row["question_id"] for row in scores])

    def rate(key: str) -> dict[str, Any]:
        values = _values(scores, key=key)
        interval = bootstrap_interval(values, clusters=questions, level=level, samples=samples, seed=seed)
        return {key: float(values.mean()), f"{key}_ci": interval}

    reasons = [row["invalid"] for row in scores]
    return {
        "kind": "short_answer",
        **rate("acc"),
        **rate("acc_contains"),
        **_mis(rate, thinks=thinks),
        "n": len(np.unique(questions)),
        "draws": len(scores),
        "invalid_share": float(np.mean([reason is not None for reason in reasons])),
        "truncated_share": float(np.mean([reason == "truncated" for reason in reasons])),
        "format_failure_share": float(np.mean([reason in FORMAT_FAULTS for reason in reasons])),
        "thought_tokens_mean": float(_values(scores, key="thought_tokens").mean()) if thinks else None,
    }


def bootstrap_interval(
    values: np.ndarray,
    *,
    clusters: np.ndarray | None = None,
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values` (float, (N,)).

    `clusters` ((N,), default: each value its own) are resampled with replacement and bring all their values along:
    the draws of one question are not independent. The same seed gives the same interval. Raises ValueError for no
    values, or a level outside (0, 1).
    """
    if not len(values) or not 0 < level < 1:
        raise ValueError(f"an interval needs values and a level in (0, 1), given {len(values)} values, level {level}")
    labels = np.arange(len(values)) if clusters is None else clusters
    _, member = np.unique(labels, return_inverse=True)
    sums = np.bincount(member, weights=np.asarray(values, dtype=np.float64))
    sizes = np.bincount(member).astype(np.float64)
    rng = np.random.default_rng(seed)
    means = np.empty(samples)
    for first in range(0, samples, _CHUNK):
        picks = rng.integers(len(sums), size=(min(_CHUNK, samples - first), len(sums)))
        means[first : first + len(picks)] = sums[picks].sum(axis=1) / sizes[picks].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _score(row: dict, *, match: str) -> dict:
    judged = row["invalid"] is None
    thinking = row["mode"] != "off"
    em_answer = judged and answer_matches(row["answer"], row["answers"], mode=match, thinking=thinking)
    answer_contains = judged and contains(row["answer"], row["answers"])
    em_thought = _em_thought(row) if thinking else None
    return {
        "row_id": row["row_id"],
        "question_id": row["question_id"],
        "dataset": row["dataset"],
        "method": row["method"],
        "em_thought": em_thought,
        "em_answer": em_answer,
        "acc": em_answer and em_thought is not False,
        "acc_contains": answer_contains and em_thought is not False,
        "mis": None if em_thought is None else em_thought != em_answer,
        "mis_contains": None if em_thought is None else em_thought != answer_contains,
        "invalid": row["invalid"],
        "completion_tokens": row["completion_tokens"],
        "thought_tokens": row["thought_tokens"],
    }


def _em_thought(row: dict) -> bool:
    start, end = row["thought_start"], row["thought_end"]
    return start >= 0 and thought_matches(row["text"][start:end], row["answers"])


def _mis(rate: Callable[[str], dict[str, Any]], *, thinks: bool) -> dict[str, Any]:
    names = ("mis", "mis_contains")
    found = (rate(name) if thinks else {name: None, f"{name}_ci": None} for name in names)
    return {key: value for one in found for key, value in one.items()}


def _values(scores: list[dict], *, key: str) -> np.ndarray:
    return np.array([row[key] for row in scores], dtype=np.float64)
