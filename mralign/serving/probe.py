"""Does an engine serve what was trained? Its log-probabilities of a few examples beside the trainer's.

A probe (rows of token ids with the trainer's log-probabilities, and those from before the training) and an engine's own
values enter; the mean difference a token leaves, or the reason why this is not the model that was trained: wrong
weights, or, as when an adapter was silently left out, still the old ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mralign.config import Model, resolve_path
from mralign.run.store import Directory, absolute

# Mean absolute difference of a log-probability that rounding may make between two implementations.
# `4bit`: a policy trained on a quantised base, whose merged model is not quantised.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.08, "float16": 0.03, "4bit": 0.3}

Row = Mapping[str, Any]  # prompt_ids, completion_ids, logps, before (or None), dtype of the training


def read_probe(directory: str, *, longest: int) -> list[Row]:
    """Rows of `probe.json` in `directory` that an engine of `longest` tokens can score; none if there is no file."""
    text = Directory(directory).find_text("probe.json")
    rows = [] if text is None else json.loads(text)
    return [row for row in rows if len(row["prompt_ids"]) + len(row["completion_ids"]) < longest]


def probe_beside(model: Model) -> str:
    """The directory of the probe of a model that we have trained, which lies beside it; empty where there is none."""
    home, _, name = absolute(resolve_path(model.path)).rpartition("/")
    ours = name == "model" and model.adapter is None and "://" not in model.path
    return home if ours and Directory(home).holds("probe.json") else ""


def mean_difference(served: Sequence[np.ndarray], expected: Sequence[Sequence[float]]) -> float:
    """Mean absolute difference over all tokens; nan if any value is."""
    pairs = [(found, np.asarray(wanted)) for found, wanted in zip(served, expected, strict=True)]
    assert all(found.shape == wanted.shape for found, wanted in pairs), [(f.shape, w.shape) for f, w in pairs]
    return float(np.mean(np.concatenate([np.abs(found - wanted) for found, wanted in pairs])))


def fault(served: Sequence[np.ndarray], rows: Sequence[Row], *, dtype: str) -> str | None:
    """Why an engine that tells `served` does not serve what was trained, or None if it does.

    Where the training has moved the probe by less than the tolerance, the old model cannot be told from the new one.
    """
    kind = max(dtype, *(row.get("dtype", dtype) for row in rows), key=TOLERANCE.__getitem__)
    allowed = TOLERANCE[kind]
    trained = [row["logps"] for row in rows]
    away = mean_difference(served, trained)
    if all(row["before"] is not None for row in rows):
        before = [row["before"] for row in rows]
        moved = mean_difference([np.asarray(values) for values in trained], before)
        from_before = mean_difference(served, before)
        near = from_before <= allowed < moved or 4 * from_before + 1e-5 < moved
        if near and from_before < away:
            return (
                f"the engine serves the model from before the training: its log-probabilities differ from that one's "
                f"by {from_before:.3g} a token and from the trained one's by {away:.3g}. The adapter is not applied: "
                f"serve the stage's model/ directory, or check how the engine was given adapter/"
            )
    if not away <= allowed:  # nan is a fault as well
        return (
            f"the engine's log-probabilities differ from the trainer's by {away:.3g} a token (allowed for {kind}: "
            f"{allowed:g}): it does not serve what was trained. Check model.dtype against training.dtype, and that "
            f"model/ is complete"
        )
    return None
