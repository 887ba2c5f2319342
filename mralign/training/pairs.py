"""The plan of a training run: which examples meet in a batch, and whose completion is whose mismatched partner.

The questions of the examples, a seed and sizes enter; one `Batch` an optimizer step leaves. The plan is a pure function
of them: it does not depend on ranks, micro-batches or packing, so the reference of every planned pair can be computed
before training. Only one epoch's order is in memory at a time.

Axes: N examples in the order of the index, B examples of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import Literal

import numpy as np

PAIRS_OF_BLOCK = 512
PairKind = Literal["batch", "trl", "none"]


@dataclass(frozen=True)
class Batch:
    """One optimizer step: examples i and partners j(i), both int64 (B,); partner -1 where there is none."""

    epoch: int
    examples: np.ndarray
    partners: np.ndarray


@dataclass(frozen=True, eq=False)
class Plan:
    """Batches of every epoch: a permutation cut into batches, a derangement by question inside each.

    `question_N` int64 tells which examples are of the same question. A last batch smaller than half of `batch_size` is
    joined to the one before it, so that no step rests on a handful of examples. An epoch's plan does not depend on how
    many there are. `pairs`:

    * batch: a derangement by question among the batch, drawn anew every step;
    * trl: the order of the index in every epoch and the completion of the place before, rotated inside the batch,
      whatever its question: what TRL's KTOTrainer does (on one process without accumulation), for comparisons only;
    * none: no partner at all (z0 = 0).

    Only every `kl_every`-th step has partners. With `kl_pairs` so many examples of a batch keep theirs, spread evenly
    over the pairs by the rank of the partner's `kind_N` (`spread`). Raises ValueError without examples.
    """

    question_N: np.ndarray
    seed: int
    epochs: int
    batch_size: int
    max_steps: int | None = None
    pairs: PairKind = "batch"
    kl_every: int = 1
    kl_pairs: int | None = None
    kind_N: np.ndarray | None = None  # int64: examples whose log-ratios are likely alike are near to one another

    def __post_init__(self) -> None:
        if not len(self.question_N):
            raise ValueError("there is no example to train on; see the funnel of the stage `candidates`")

    def __len__(self) -> int:
        steps = self.epochs * len(self._cuts)
        return steps if self.max_steps is None else min(steps, self.max_steps)

    @cached_property
    def _cuts(self) -> list[tuple[int, int]]:
        """Where an epoch's order is cut."""
        size, rest = len(self.question_N), self.batch_size
        starts = list(range(0, size, rest))
        if len(starts) > 1 and size - starts[-1] < rest / 2:
            starts.pop()
        return list(zip(starts, [*starts[1:], size], strict=True))

    def has_pairs(self, step: int) -> bool:
        """Whether z0 is estimated at this step."""
        return self.pairs != "none" and step % self.kl_every == 0

    def batch(self, step: int) -> Batch:
        """The batch of a step, 0 to len(self) - 1."""
        epoch, place = divmod(step, len(self._cuts))
        first, last = self._cuts[place]
        if self.pairs == "trl":
            chosen = np.arange(first, last)
            partners = np.roll(chosen, 1) if len(chosen) > 1 else np.array([-1])
        else:
            chosen = self._order(epoch)[first:last]
            rng = np.random.default_rng([self.seed, epoch, step])
            places = derange(self.question_N[chosen], rng=rng)
            partners = np.where(places >= 0, chosen[places], -1)
        if self.kl_pairs is not None:
            partners = self._thinned(partners, rng=np.random.default_rng([self.seed, epoch, step, self.kl_pairs]))
        return Batch(epoch, chosen, partners if self.has_pairs(step) else np.full(len(chosen), -1))

    def _thinned(self, partners: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
        """The partners of the pairs that z0 is estimated from, -1 elsewhere."""
        assert self.kl_pairs is not None and self.kind_N is not None
        placed = np.flatnonzero(partners >= 0)
        ordered = placed[np.argsort(self.kind_N[partners[placed]], kind="stable")]
        kept = spread(ordered, count=self.kl_pairs, rng=rng)
        thinned = np.full_like(partners, -1)
        thinned[kept] = partners[kept]
        return thinned

    @property
    def _steps_of_block(self) -> int:
        return max(1, PAIRS_OF_BLOCK // self.batch_size)

    def block_of(self, step: int) -> tuple[str, int]:
        """The block of steps whose pairs are scored together with this step's, and its place in it. A block ends with
        its epoch: a longer run has the same blocks and more."""
        epoch, place = divmod(step, len(self._cuts))
        block, within = divmod(place, self._steps_of_block)
        return f"{epoch}-{block * self._steps_of_block:06d}", within

    def blocks(self) -> list[str]:
        """The blocks that have pairs."""
        starts = range(0, len(self._cuts), self._steps_of_block)
        names = [f"{epoch}-{first:06d}" for epoch, first in product(range(self.epochs), starts)]
        return [name for name in names if self.steps_with_pairs(name)]

    def steps_with_pairs(self, block: str) -> list[int]:
        """The steps of a block in which z0 is estimated."""
        epoch, first = map(int, block.split("-"))
        last = min(first + self._steps_of_block, len(self._cuts))
        steps = range(epoch * len(self._cuts) + first, min(epoch * len(self._cuts) + last, len(self)))
        return [step for step in steps if self.has_pairs(step)]

    def _order(self, epoch: int) -> np.ndarray:
        return _permutation(self.seed, epoch, len(self.question_N))


@lru_cache(maxsize=2)  # a step may look into the next epoch
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(size)


def derange(owners: Sequence[int] | np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """For each place i a place j(i) with owners[j] != owners[i], each j used at most once; int64 (B,), -1 for none.

    Places are shuffled, grouped by owner, and rotated by the size of the largest group: a derangement whenever no
    owner holds more than half of the places; else the places that would meet their own owner get no partner.
    """
    _, owner_B, sizes = np.unique(np.asarray(owners), return_inverse=True, return_counts=True)
    shuffled = rng.permutation(owner_B.size)
    turn = rng.permutation(sizes.size)[owner_B]  # the order in which the owners follow one another
    grouped = shuffled[np.argsort(turn[shuffled], kind="stable")]
    others = np.roll(grouped, -int(sizes.max()))
    partners = np.full(owner_B.size, -1, dtype=np.int64)
    differ = owner_B[grouped] != owner_B[others]
    partners[grouped[differ]] = others[differ]
    return partners


def spread(ordered: np.ndarray, *, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of `ordered`, one from each of `count` equal stretches; all of them if there are no more.

    Systematic sampling (Cochran, Sampling Techniques, ch. 8): every element is chosen with the same probability, so the
    mean over the chosen has the mean over all as its expectation. Where neighbours are alike, it varies less than that
    of a simple random sample.
    """
    if count >= len(ordered):
        return ordered
    stretch = len(ordered) / count
    points = (rng.random() + np.arange(count)) * stretch
    return ordered[np.minimum(points.astype(np.int64), len(ordered) - 1)]
