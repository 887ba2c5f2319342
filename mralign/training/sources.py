"""Where a training process finds what it trains on.

Committed stages enter (examples, weights, reference); a `Task` in memory leaves, the same in every process: rows are
taken in the order of their ids. KTO reads no weights, SFT neither weights nor reference nor negatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mralign.config import Model, Training, resolve_path
from mralign.schema import EXAMPLES, REFERENCE, WEIGHTS
from mralign.store import StageDir
from mralign.training.examples import Example, token_weights
from mralign.training.worker import Reference, Task


@dataclass(frozen=True)
class Sources:
    """Where a worker finds what it trains on; loaded in the same order everywhere."""

    settings: Training
    model: Model
    seed: int
    examples: StageDir
    weights: StageDir | None  # None: every token weighs 1
    reference: StageDir | None  # None: SFT

    def load(self) -> Task:
        rows = self.examples.read(schema=EXAMPLES).sort_by("row_id").to_pylist()
        steps = self._step_weights()
        examples = [_example(row, steps) for row in rows if self.settings.method != "sft" or row["polarity"] > 0]
        return Task(
            model_path=resolve_path(self.model.path),
            adapter=resolve_path(self.model.adapter) if self.model.adapter else None,
            trust_remote_code=self.model.trust_remote_code,
            settings=self.settings,
            seed=self.seed,
            examples=examples,
            reference=self._reference(),
        )

    def _step_weights(self) -> dict[str, list[float]] | None:
        if self.weights is None:
            return None
        rows = self.weights.read(schema=WEIGHTS).to_pylist()
        return {row["row_id"]: row["step_weights"] for row in rows}

    def _reference(self) -> Reference | None:
        if self.reference is None:
            return None
        rows = self.reference.read(schema=REFERENCE).to_pylist()
        return Reference(
            logps={r["prompt_row"]: np.array(r["logps"], np.float32) for r in rows if r["logps"]},
            sums={(r["prompt_row"], r["completion_row"]): r["logp_sum"] for r in rows},
        )


def _example(row: dict[str, Any], steps: dict[str, list[float]] | None) -> Example:
    uniform = np.ones(len(row["token_ids"]), np.float32)
    return Example(
        row_id=row["row_id"],
        question_id=row["question_id"],
        polarity=row["polarity"],
        prompt_ids=np.array(row["prompt_token_ids"], np.int64),
        completion_ids=np.array(row["token_ids"], np.int64),
        weights_T=uniform if steps is None else token_weights(row["token_step"], steps[row["row_id"]]),
    )
