"""The plan of a training run: which examples meet in a batch, and whose completion is whose mismatched partner.

Question ids, a seed and sizes enter; one `Batch` an optimizer step leaves. The plan is a pure function of them: it
does not depend on ranks or micro-batches, so the reference of every planned pair can be computed before training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Batch:
    """One optimizer step: examples i and partners j(i), both int64 (B,); partner -1 where there is none."""

    epoch: int
    examples: np.ndarray
    partners: np.ndarray


def plan(
    question_ids: Sequence[str], *, seed: int, epochs: int, batch_size: int, max_steps: int | None = None
) -> list[Batch]:
    """Batches of every epoch: a permutation cut into batches, a derangement by question inside each.

    A last batch smaller than half of `batch_size` is joined to the one before it, so that no step rests on a handful
    of examples. Raises ValueError without examples.
    """
    if not question_ids:
        raise ValueError("there is no example to train on; see the funnel of the stage `candidates`")
    batches: list[Batch] = []
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(question_ids))
        for chunk in _chunks(order, batch_size):
            owners = [question_ids[i] for i in chunk]
            partners = derange(owners, rng=np.random.default_rng([seed, epoch, len(batches)]))
            batches.append(Batch(epoch, chunk, np.where(partners >= 0, chunk[partners], -1)))
    return batches[:max_steps]


def derange(owners: Sequence[str], *, rng: np.random.Generator) -> np.ndarray:
    """For each place i a place j(i) with owners[j] != owners[i], each j used at most once; int64 (B,), -1 for none.

    Places are shuffled, grouped by owner, and rotated by the size of the largest group: a derangement whenever no
    owner holds more than half of the places; else the places that would meet their own owner get no partner.
    """
    size = len(owners)
    names = {name: rank for rank, name in enumerate(rng.permutation(sorted(set(owners))))}
    shuffled = rng.permutation(size)
    grouped = shuffled[np.argsort([names[owners[i]] for i in shuffled], kind="stable")]
    largest = np.unique(np.asarray(owners, dtype=object).astype(str), return_counts=True)[1].max()
    partners = np.full(size, -1, dtype=np.int64)
    for place, other in zip(grouped, np.roll(grouped, -largest), strict=True):
        if owners[place] != owners[other]:
            partners[place] = other
    return partners


def _chunks(order: np.ndarray, size: int) -> list[np.ndarray]:
    cuts = list(range(size, len(order), size))
    if cuts and len(order) - cuts[-1] < size / 2:
        cuts.pop()
    return np.split(order, cuts)
