"""How far two annotations of the same steps agree (method.md §2c).

How often each pair of label sets (X, Y) stands at one step enters, shares and chance-corrected kappas leave; the same
at macro level, and the distance between the transition matrices that each annotator's labels give. Counts add up: of
any corpus, parts are counted one by one, and the result depends on nothing but the steps. Numbers for a report: nothing
downstream computes with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mralign.annotation.consensus import DISTILLED
from mralign.annotation.taxonomy import Taxonomy

LabelSet = frozenset[str]
Pairs = Mapping[tuple[LabelSet, LabelSet], int]  # how many steps have labels X from one annotator and Y from the other

_SEPARATOR = "\x1f"  # between the labels of a set while Arrow counts: it has no groups by lists


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
    """Strict and entailment agreement of label sets x[i], y[i] of the same step i, and both kappas.

    docs/method.md §2c, equations 2.1 and 2.2. Raises ValueError if the lists are empty or of different length.

    >>> import mralign
    >>> found = mralign.agreement([{"framing"}, {"retrieval"}], y=[{"framing"}, {"retrieval", "comparison"}])
    >>> found.strict, found.entail, round(found.kappa_strict, 3)
    (0.5, 1.0, 0.333)
    """
    if len(x) != len(y) or not x:
        raise ValueError(
            f"{len(x)} and {len(y)} steps given; allowed are two equally long lists of at least one step: "
            f"compare two annotations of the same steps"
        )
    return agreement_of(Counter((frozenset(left), frozenset(right)) for left, right in zip(x, y, strict=True)))


def agreement_of(pairs: Pairs) -> Agreement:
    """Strict and entailment agreement of counted pairs of label sets (method.md §2c); ValueError if there are none."""
    steps = sum(pairs.values())
    if not steps:
        raise ValueError("0 steps given; allowed is at least one: compare annotations that have a trajectory in common")
    marginal_x, marginal_y = Counter[LabelSet](), Counter[LabelSet]()
    for (x, y), n in pairs.items():
        marginal_x[x] += n
        marginal_y[y] += n
    strict = sum(n for (x, y), n in pairs.items() if x == y) / steps
    entail = sum(n for (x, y), n in pairs.items() if x <= y or y <= x) / steps
    # p_e = sum over label sets s of P_X(s) P_Y(s)
    chance = sum(n * marginal_y[labels] for labels, n in marginal_x.items()) / steps**2
    return Agreement(
        steps=steps,
        unlabelled=sum(n for (x, y), n in pairs.items() if not x or not y),
        strict=strict,
        entail=entail,
        chance=chance,
        kappa_strict=kappa(strict, chance=chance),
        kappa_entail=kappa(entail, chance=chance),
    )


def kappa(observed: float, *, chance: float) -> float:
    """(observed - p_e) / (1 - p_e); nan where p_e = 1 (method.md §2c)."""
    return (observed - chance) / (1 - chance) if chance < 1 else float("nan")


def to_macro(label_sets: Sequence[Collection[str]], *, taxonomy: Taxonomy) -> list[LabelSet]:
    """Each label set as the set of its macro-strategies; ValueError on a label the taxonomy does not hold."""
    for labels in label_sets:
        for label in labels:
            if label not in taxonomy.macro:
                taxonomy.index(label)  # raises with the allowed labels
    return [frozenset(map(taxonomy.macro.__getitem__, labels)) for labels in label_sets]


def macro_pairs(pairs: Pairs, *, taxonomy: Taxonomy) -> Counter[tuple[LabelSet, LabelSet]]:
    """Counted pairs of label sets as counted pairs of macro sets; ValueError as in `to_macro`."""
    joined = Counter[tuple[LabelSet, LabelSet]]()
    for pair, n in pairs.items():
        x, y = to_macro(pair, taxonomy=taxonomy)
        joined[x, y] += n
    return joined


def count_pairs(table: pa.Table, *, x: str, y: str) -> Counter[tuple[LabelSet, LabelSet]]:
    """How often each pair of label sets stands at one step of `table` (schema.ANNOTATIONS or schema.HUMAN_STEPS).

    `x` and `y` name two fields of a step, such as labels_a and labels_b. No step becomes a Python object.
    """
    steps = table.column("steps").combine_chunks().flatten()
    if steps.type.get_field_index("rule") >= 0:  # of what the panel was not asked, no annotator has said anything
        steps = steps.filter(pc.not_equal(pc.fill_null(pc.struct_field(steps, "rule"), ""), DISTILLED))
    names = {side: pc.binary_join(pc.struct_field(steps, field), _SEPARATOR) for side, field in (("x", x), ("y", y))}
    counted = pa.table(names).group_by(["x", "y"]).aggregate([([], "count_all")])
    found = Counter[tuple[LabelSet, LabelSet]]()
    for row in counted.to_pylist():  # one row a pair of ORDERED label lists: several may be one pair of sets
        found[_label_set(row["x"]), _label_set(row["y"])] += row["count_all"]
    return found


def _label_set(joined: str | None) -> LabelSet:
    return frozenset(joined.split(_SEPARATOR)) if joined else frozenset()


def mean_l1(p: np.ndarray, *, other: np.ndarray) -> float:
    """(1/K^2) sum |P_ij - P'_ij| of two transition matrices (K, K) (method.md §2c)."""
    if p.shape != other.shape or p.ndim != 2 or p.shape[0] != p.shape[1]:
        raise ValueError(f"matrices of shape {p.shape} and {other.shape}; allowed are two square ones of one taxonomy")
    return float(np.abs(p - other).mean())
