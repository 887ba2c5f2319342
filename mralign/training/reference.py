"""The reference: what pi_ref says of every example, and of every planned mismatched pair.

Examples and the plan enter; per-token fp32 log-probabilities of matched pairs and unweighted sums of mismatched ones
leave, on a shelf where each block lies under the digest of the model and of the token ids that it scores. pi_ref never
changes and weights are no part of it: new weights, more epochs or another objective score only what is new, and no
reference model is held while training.

Pairs are drawn anew in every epoch, so each epoch costs one forward pass of its mismatched pairs once in the life of a
run directory (`training.kl_every` divides it); tests/benchmarks/training.py tells the share.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from mralign.config import Model, Training, counted, resolve_path
from mralign.rows.schema import MATCHED_LOGPS, PAIR_SUMS
from mralign.run.digests import digest
from mralign.run.part_names import part_name
from mralign.run.store import StageDir
from mralign.training.batches import FORWARD_FACTOR, Pair, deal, layout, packs
from mralign.training.logprobs import TokenLogProbs
from mralign.training.pairs import Plan
from mralign.training.reader import Reader
from mralign.training.reference_model import OPTIMIZER, as_scored

_VERSION = 2  # raised when the same model scores otherwise

# Settings that change which pairs are scored, and nothing of their log-probabilities.
_PLAN = (
    *("training.datasets", "training.epochs", "training.max_steps", "training.batch_size"),
    *("training.pairs", "training.kl_every", "training.kl_pairs"),
)
_OTHER = ("training.reference",)  # `model` is the one that scores, whichever that is


@dataclass(frozen=True)
class Block:
    """What is scored and kept together. `name`: a part of the examples (matched), or a block of the plan (pairs)."""

    kind: str  # matched | pairs
    name: str
    address: str
    rows: int


def model_mark(model: Model, settings: Training) -> str:
    """A digest of all that a log-probability depends on besides the tokens."""
    read = counted({"model": model, "training": as_scored(settings)}, ignores=(*OPTIMIZER, *_PLAN, *_OTHER))
    files = {name: digest(resolve_path(path)) for name, path in model.inputs().items()}
    return hashlib.sha256(json.dumps([_VERSION, read, files], sort_keys=True).encode()).hexdigest()


def blocks(reader: Reader, plan: Plan, *, mark: str) -> Iterator[Block]:
    """Every block of the plan with its address: matched ones first. Reads no tokens."""
    index = reader.index
    order = np.lexsort((index.row_N, index.part_N))
    bounds = np.searchsorted(index.part_N[order], np.arange(len(index.parts) + 1))
    for name, first, last in zip(index.parts, bounds[:-1], bounds[1:], strict=True):
        places = order[first:last]
        if len(places):
            hashes = index.row_N[places], index.prompt_hash_N[places], index.completion_hash_N[places]
            yield Block("matched", name, _address(mark, *hashes), len(places))
    for name in plan.blocks():
        step_P, x_P, y_P = planned_pairs(plan, name)
        address = _address(mark, step_P, index.prompt_hash_N[x_P], index.completion_hash_N[y_P])
        yield Block("pairs", name, address, len(step_P))


def planned_pairs(plan: Plan, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mismatched pairs of a block: step within the block, x and y as places in the index, (P,) int64 each."""
    found = []
    for step in plan.steps_with_pairs(name):
        batch = plan.batch(step)
        has = batch.partners >= 0
        within = np.full(int(has.sum()), plan.block_of(step)[1])
        found.append((within, batch.examples[has], batch.partners[has]))
    step_P, x_P, y_P = (np.concatenate(columns).astype(np.int64) for columns in zip(*found, strict=True))
    return step_P, x_P, y_P


def _address(mark: str, *numbers: np.ndarray) -> str:
    hasher = hashlib.sha256(mark.encode())
    for values in numbers:
        hasher.update(np.ascontiguousarray(values, dtype=np.int64).tobytes() + b"|")
    return part_name(hasher.hexdigest()[:32])


def score_block(policy: TokenLogProbs, block: Block, *, reader: Reader, plan: Plan, settings: Training) -> pa.Table:
    """A table of schema.MATCHED_LOGPS (rows as in the part of the examples; empty where a row is not trained on) or of
    schema.PAIR_SUMS."""
    if block.kind == "matched":
        part = reader.index.parts.index(block.name)
        places = np.flatnonzero(reader.index.part_N == part)
        rows = reader.index.row_N[places]
        whole: list[np.ndarray] = [np.empty(0, np.float32)] * (int(rows.max()) + 1)  # rows that are not trained on
        for row, values in zip(rows, score(policy, reader.pairs(places, places), settings=settings), strict=True):
            whole[row] = values
        return pa.table({"logps": whole}, schema=MATCHED_LOGPS)
    step_P, x_P, y_P = planned_pairs(plan, block.name)
    logps = score(policy, reader.pairs(x_P, y_P), settings=settings)
    sums = [float(row.astype(np.float64).sum()) for row in logps]
    return pa.table({"step": step_P.astype(np.int32), "logp_sum": sums}, schema=PAIR_SUMS)


def put_on_shelf(
    shelf: StageDir, policy: TokenLogProbs, block: Block, *, reader: Reader, plan: Plan, settings: Training
) -> None:
    """Score a block with the base model and commit it, unless the shelf has it."""
    if not shelf.holds(block.address):
        schema = MATCHED_LOGPS if block.kind == "matched" else PAIR_SUMS
        found = score_block(policy, block, reader=reader, plan=plan, settings=settings)
        shelf.commit(block.address, found, schema=schema)


@torch.no_grad()
def score(policy: TokenLogProbs, pairs: Sequence[Pair], *, settings: Training) -> list[np.ndarray]:
    """fp32 log-probabilities (T,) of the completion tokens of each (prompt ids, completion ids) pair."""
    lengths = [len(prompt) + len(completion) for prompt, completion in pairs]
    found: list[np.ndarray] = [np.empty(0, np.float32)] * len(pairs)
    (micros,) = deal(lengths, workers=1, budget=FORWARD_FACTOR * settings.tokens_used, packing=packs(settings))
    for places in micros:
        chosen = [pairs[place] for place in places]
        logp_N = policy(layout(settings)(chosen)).cpu().numpy()
        if not np.isfinite(logp_N).all():
            raise ValueError(
                f"the reference model gives log-probabilities that are no numbers in {settings.dtype}; try "
                f"training.dtype=float32 or another training.attention, and check the model's weights"
            )
        cuts = np.cumsum([len(completion) for _, completion in chosen])[:-1]
        for place, row in zip(places, np.split(logp_N, cuts), strict=True):
            found[place] = row
    return found


def shelf_dir(run_dir: str) -> StageDir:
    """The shelf of a run directory. It may be deleted while no run works; the stage `reference` must then run again."""
    return StageDir(f"{run_dir}/reference_by_content", stage="reference")
