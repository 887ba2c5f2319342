"""Examples by their place in the index, read when their step comes.

Committed examples, step weights and reference values enter; examples in memory leave, in the order asked for. A part is
kept, in Arrow's columns, until newer ones need its room, so what is held does not grow with the corpus.

Axes: T completion tokens of an example.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from mralign.rows.schema import EXAMPLES, MATCHED_LOGPS, PAIR_SUMS, WEIGHTS
from mralign.run.store import StageDir
from mralign.training.batches import Pair
from mralign.training.examples import Example, token_weights
from mralign.training.index import Index

CACHE_BYTES = 512 * 2**20
READERS = 4  # threads that read ahead
_COLUMNS = ["row_id", "prompt_token_ids", "token_ids", "token_step"]


@dataclass(frozen=True, eq=False)
class Shelf:
    """Committed reference values, and the address of each block (schema.REFERENCE)."""

    where: StageDir
    matched: dict[str, str]  # part of the examples -> address
    pairs: dict[str, str]  # block of steps -> address
    latest: dict[str, pa.Table] = field(default_factory=dict)  # the block of the step before: a step reads its own next

    def pair_sums(self, block: str, *, step: int) -> np.ndarray:
        """log pi_ref(y_j | x_i) of the pairs of a step of the block, float64, in the order of its batch."""
        table = self.latest.get(block)
        if table is None:
            table = self.where.read_parts([self.pairs[block]], schema=PAIR_SUMS)
            self.latest.clear()
            self.latest[block] = table
        return table.column("logp_sum").to_numpy()[table.column("step").to_numpy() == step]


class _Lists:
    """A list column as one flat array and its offsets: a row is a view."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        whole = column.combine_chunks()
        self.values, self.offsets = whole.values.to_numpy(), whole.offsets.to_numpy()

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]


@dataclass(frozen=True, eq=False)
class _Part:
    """One part of the examples with what belongs to it."""

    row_ids: list[str]
    prompts: _Lists
    completions: _Lists
    steps: _Lists
    weights: dict[str, np.ndarray] | None
    logps: _Lists | None
    nbytes: int


class Reader:
    """Examples of one training. `weights` None: every token weighs 1. `shelf` None: there is no reference."""

    def __init__(
        self,
        index: Index,
        *,
        examples: StageDir,
        weights: StageDir | None = None,
        shelf: Shelf | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.index, self.examples, self.weights, self.shelf = index, examples, weights, shelf
        self.cache_bytes, self._kept = cache_bytes, OrderedDict[str, _Part]()
        self._lock = threading.Lock()  # of `_kept`
        self._ahead: ThreadPoolExecutor | None = None

    def fetch(self, places: Sequence[int] | np.ndarray) -> list[Example]:
        """The examples at these places of the index. Each part is looked at once."""
        found: dict[int, Example] = {}
        for n in sorted({int(p) for p in places}, key=lambda n: int(self.index.part_N[n])):
            part = self._part(self.index.parts[self.index.part_N[n]])
            found[n] = _example(part, int(self.index.row_N[n]), polarity=int(self.index.polarity_N[n]))
        return [found[int(place)] for place in places]

    def pairs(self, x_P: np.ndarray, y_P: np.ndarray) -> list[Pair]:
        """The prompt of x and the completion of y for each pair of places in the index."""
        prompts, completions = self.fetch(x_P), self.fetch(y_P)
        return [(x.prompt_ids, y.completion_ids) for x, y in zip(prompts, completions, strict=True)]

    def prefetch(self, places: np.ndarray) -> None:
        """Read the parts of these places in other threads, so that a later `fetch` finds them."""
        if self._ahead is None:
            self._ahead = ThreadPoolExecutor(READERS, thread_name_prefix="prefetch")
        for place in np.unique(self.index.part_N[places]):
            self._ahead.submit(self._part, self.index.parts[place])

    def _part(self, name: str) -> _Part:
        with self._lock:
            part = self._kept.get(name)
        if part is None:
            part = self._read(name)
        with self._lock:
            self._kept[name] = part
            self._kept.move_to_end(name)
            while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > self.cache_bytes:
                self._kept.popitem(last=False)
        return part

    def _read(self, name: str) -> _Part:
        table = self.examples.read_parts([name], schema=EXAMPLES, columns=_COLUMNS)
        weights, logps, nbytes = None, None, table.nbytes
        if self.weights is not None:
            rows = self.weights.read_parts([name], schema=WEIGHTS)
            values = _Lists(rows.column("step_weights"))
            weights = {row_id: values[place] for place, row_id in enumerate(rows.column("row_id").to_pylist())}
            nbytes += rows.nbytes
        if self.shelf is not None:
            scored = self.shelf.where.read_parts([self.shelf.matched[name]], schema=MATCHED_LOGPS)
            logps = _Lists(scored.column("logps"))
            nbytes += scored.nbytes
        prompts, completions, steps = (_Lists(table.column(column)) for column in _COLUMNS[1:])
        return _Part(table.column("row_id").to_pylist(), prompts, completions, steps, weights, logps, nbytes)


def _example(part: _Part, row: int, *, polarity: int) -> Example:
    row_id, completion = part.row_ids[row], part.completions[row]
    weights_T = np.ones(len(completion), dtype=np.float32)
    if part.weights is not None:
        weights_T = token_weights(part.steps[row], part.weights[row_id])
    reference_T = part.logps[row] if part.logps is not None else None
    return Example(row_id, polarity, part.prompts[row], completion, weights_T, reference_T)
