"""The annotators of a run, and how far they agree, become rows of text.

What the stages `annotation` and `agreement` wrote into their manifests enters, strings for the page leave. Shares are
in [0, 1] when they enter and percent when they leave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mralign.report.wording import DASH, figure, number, percent

# method.md §2c: the paper's Table 10 at macro level (share, kappa), and its l1 between matrices. To look at.
PUBLISHED = (
    ("strict, macro", "48.4 %", "κ 0.294"),
    ("entail, macro", "97.8 %", "κ 0.970"),
    ("mean ℓ1 between matrices", "1.0–1.3 %", ""),
)
_COUNTED = ("requests", "repaired", "rejected", "prompt_tokens", "completion_tokens")


def agreement_rows(pairs: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """(pair, level, steps, unlabelled, strict, entail, p_e, kappa strict, kappa entail, mean l1): two rows a pair.

    Shares and l1 in percent, kappas with three decimals; what the macro level has in common with the labels is blank.
    """
    rows = []
    for entry in pairs:
        x, y = entry["pair"]
        common = (number(entry["steps"]), number(entry["unlabelled"]))
        rows.append((f"{x} – {y}", "labels", *common, *_agreement_cells(entry), percent(entry["mean_l1"], digits=2)))
        rows.append(("", "macro", "", "", *_agreement_cells(entry["macro"]), ""))
    return rows


def _agreement_cells(found: Mapping[str, Any]) -> tuple[str, ...]:
    kappas = (found["kappa_strict"], found["kappa_entail"])
    return (
        percent(found["strict"]),
        percent(found["entail"]),
        f"{found['chance']:.3f}",
        *(DASH if kappa is None else f"{kappa:.3f}".replace("-", "−") for kappa in kappas),
    )


def annotator_rows(annotators: Mapping[str, Mapping[str, float]]) -> list[tuple[str, ...]]:
    """(name, requests, repaired, rejected, prompt tokens, completion tokens, money), one row an annotator."""
    rows = []
    for name, counts in annotators.items():
        counted = [number(counts.get(key, 0)) for key in _COUNTED]  # cue phrases send no requests
        rows.append((name, *counted, figure(counts["money"])))
    return rows


def label_rows(by_label: Mapping[str, Mapping[str, int]]) -> list[tuple[str, ...]]:
    """(label, proposed by the first annotator, by the second, final, escalated), one row a label."""
    rows = []
    for label, found in by_label.items():
        counted = [number(found[key]) for key in ("proposed_first", "proposed_second", "final", "escalated")]
        rows.append((label, *counted))
    return rows
