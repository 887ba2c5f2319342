"""Examples: from labelled candidates to tokens that know their step.

A candidate and its annotation enter; prompt and completion token ids with the step index of every completion token
leave (-1 for the answer). Weights are looked up later by that index, so a changed weight setting makes no new example
and no new reference. A sequence longer than the limit is a reject, never cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mralign.chat.model_files import load_tokenizer, tokenizer_path
from mralign.config import Model
from mralign.rows.schema import EXAMPLES
from mralign.run.rejects import Reject
from mralign.training.rope import local_config, positions_of
from mralign.training.tokens import token_offsets, token_steps


@dataclass(frozen=True)
class Example:
    """One training example in memory. Arrays over completion tokens have length T."""

    row_id: str
    polarity: int  # +1 | -1
    prompt_ids: np.ndarray  # int32 (P,)
    completion_ids: np.ndarray  # int32 (T,)
    weights_T: np.ndarray  # float32 (T,): w_t of each completion token
    reference_T: np.ndarray | None  # float32 (T,): log pi_ref of each completion token


def of_datasets(table: pa.Table, *, datasets: Sequence[str]) -> pa.Table:
    """The rows of `table` whose `dataset` is one of `datasets`; all of them where none is named."""
    wanted = pa.array(datasets, pa.string())
    return table.filter(pc.is_in(table.column("dataset"), value_set=wanted)) if datasets else table


def example_rows(
    annotated: pa.Table, *, model: Model, max_length: int, datasets: Sequence[str] = ()
) -> tuple[pa.Table, list[Reject]]:
    """Examples (schema EXAMPLES) of annotated candidates, and the rejects: too_long, tokens_do_not_spell_text."""
    tokenizer = load_tokenizer(tokenizer_path(model), model=model)
    known = local_config(model)
    positions = None if known is None else positions_of(known)
    rows, rejects = [], []
    for row in of_datasets(annotated, datasets=datasets).to_pylist():
        reject = too_long(row, max_length=max_length, positions=positions)
        if reject:
            rejects.append(reject)
            continue
        try:
            offsets = token_offsets(tokenizer, token_ids=row["token_ids"], text=row["text"])
        except ValueError as error:
            rejects.append(Reject(row["row_id"], "tokens_do_not_spell_text", str(error), row["text"]))
            continue
        rows.append(_example_row(row, offsets=offsets))
    return pa.Table.from_pylist(rows, schema=EXAMPLES), rejects


def _example_row(row: dict[str, Any], *, offsets: list[tuple[int, int]]) -> dict[str, Any]:
    spans = list(zip(row["segment_start"], row["segment_end"], strict=True))
    owner = segment_steps(row["steps"], segments=len(spans))
    token_step = token_steps(offsets, segment_spans=spans, segment_steps=owner, thought_end=row["thought_end"])
    return example_row(row, token_step=token_step)


def example_row(candidate: dict[str, Any], *, token_step: Sequence[int]) -> dict[str, Any]:
    """A row of schema.EXAMPLES from a row of schema.CANDIDATES and the step of each of its completion tokens."""
    names = ("row_id", "question_id", "dataset", "polarity", "prompt_token_ids", "token_ids")
    prompt, completion = candidate["prompt_token_ids"], candidate["token_ids"]
    return {
        **{name: candidate[name] for name in names},
        "token_step": token_step,
        "prompt_tokens": len(prompt),
        "completion_tokens": len(completion),
        "prompt_hash": content_hash(np.asarray(prompt, dtype=np.int32).tobytes()),
        "completion_hash": content_hash(np.asarray(completion, dtype=np.int32).tobytes()),
    }


def content_hash(data: bytes) -> int:
    """A signed 64-bit number for `data`, the same in every process."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


def token_weights(token_step: Sequence[int] | np.ndarray, step_weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """w_t of each completion token, float32 (T,): its step's weight, 1 for the answer (docs/method.md §4).

    `token_step`: (T,) integers, the index of each token's step, -1 for the answer. `step_weights`: (S,) numbers.
    Raises ValueError if a token points at a step that has no weight.

    >>> import mralign
    >>> mralign.token_weights([0, 0, 1, -1], [0.5, 2.0]).tolist()
    [0.5, 0.5, 2.0, 1.0]
    """
    steps = np.asarray(token_step, dtype=np.int64)
    if steps.size and steps.max() >= len(step_weights):
        raise ValueError(
            f"a token belongs to step {steps.max()}, but there are weights for {len(step_weights)} steps; "
            f"weights and examples must come from the same annotation"
        )
    table = np.append(np.asarray(step_weights, dtype=np.float32), np.float32(1.0))  # index -1 is the answer
    return table[steps]


def segment_steps(steps: Sequence[dict[str, Any]], *, segments: int) -> list[int]:
    """The step index of every segment; `steps` are schema.STEP rows that cover 0..segments-1."""
    owner = [-1] * segments
    for index, step in enumerate(steps):
        for segment in range(step["first_segment"], step["last_segment"] + 1):
            owner[segment] = index
    if -1 in owner:
        raise ValueError(f"segment {owner.index(-1)} of {segments} belongs to no step; the annotation is incomplete")
    return owner


def too_long(row: dict[str, Any], *, max_length: int, positions: int | None = None) -> Reject | None:
    """A reject if prompt and completion together exceed `max_length` tokens, or the model's positions if it has such a
    limit."""
    length = len(row["prompt_token_ids"]) + len(row["token_ids"])
    if positions is not None and positions < min(length, max_length):
        detail = f"{length} tokens, the model has positions for {positions}"
    elif length > max_length:
        detail = f"{length} tokens, examples.max_length is {max_length}"
    else:
        return None
    return Reject(row["row_id"], "too_long", detail, row["text"])
