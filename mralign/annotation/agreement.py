"""How far two annotations of the same steps agree (METHOD.md §2c).

Two lists of label sets for the same steps enter, shares and chance-corrected kappas leave; the same at macro level, and
the distance between the transition matrices that each annotator's labels give. Numbers for a report: nothing downstream
computes with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mralign.annotation.taxonomy import Taxonomy


@dataclass(frozen=True)
class Agreement:
    """Agreement of two annotations X, Y over `steps` steps, of which `unlabelled` have an empty set on a side."""

    steps: int
    unlabelled: int  # an empty set is a subset of every set: these count as entailed
    strict: float  # share with X = Y
    entail: float  # share with X <= Y or Y <= X
    chance: float  # p_e, the same for both kappas
    kappa_strict: float  # nan where p_e = 1: both annotators always gave one and the same set
    kappa_entail: float


def agreement(x: Sequence[Collection[str]], *, y: Sequence[Collection[str]]) -> Agreement:
    """Strict and entailment agreement of label sets x[i], y[i] of the same step i (METHOD.md §2c).

    Raises ValueError if the lists are empty or of different length.
    """
    if len(x) != len(y) or not x:
        raise ValueError(
            f"{len(x)} and {len(y)} steps given; allowed are two equally long lists of at least one step: "
            f"compare two annotations of the same steps"
        )
    sets_x, sets_y = [frozenset(labels) for labels in x], [frozenset(labels) for labels in y]
    pairs = list(zip(sets_x, sets_y, strict=True))
    strict = sum(left == right for left, right in pairs) / len(pairs)
    entail = sum(left <= right or right <= left for left, right in pairs) / len(pairs)
    # p_e = sum over label sets s of P_X(s) P_Y(s)
    marginal_x, marginal_y = Counter(sets_x), Counter(sets_y)
    chance = sum(count * marginal_y[labels] for labels, count in marginal_x.items()) / len(pairs) ** 2
    return Agreement(
        steps=len(pairs),
        unlabelled=sum(not left or not right for left, right in pairs),
        strict=strict,
        entail=entail,
        chance=chance,
        kappa_strict=kappa(strict, chance=chance),
        kappa_entail=kappa(entail, chance=chance),
    )


def kappa(observed: float, *, chance: float) -> float:
    """(observed - p_e) / (1 - p_e); nan where p_e = 1 (METHOD.md §2c)."""
    return (observed - chance) / (1 - chance) if chance < 1 else float("nan")


def to_macro(label_sets: Sequence[Collection[str]], *, taxonomy: Taxonomy) -> list[frozenset[str]]:
    """Each label set as the set of its macro-strategies; ValueError on a label the taxonomy does not hold."""
    for labels in label_sets:
        for label in labels:
            if label not in taxonomy.macro:
                taxonomy.index(label)  # raises with the allowed labels
    return [frozenset(taxonomy.macro[label] for label in labels) for labels in label_sets]


def label_sets(annotations: pa.Table, *, field: str) -> list[frozenset[str]]:
    """Label sets of every step of a schema.ANNOTATIONS table, row by row; `field` is labels, labels_a or labels_b."""
    return [frozenset(step[field] or ()) for steps in annotations.column("steps").to_pylist() for step in steps]


def mean_l1(p: np.ndarray, *, other: np.ndarray) -> float:
    """(1/K^2) sum |P_ij - P'_ij| of two transition matrices (K, K) (METHOD.md §2c)."""
    if p.shape != other.shape or p.ndim != 2 or p.shape[0] != p.shape[1]:
        raise ValueError(f"matrices of shape {p.shape} and {other.shape}; allowed are two square ones of one taxonomy")
    return float(np.abs(p - other).mean())
