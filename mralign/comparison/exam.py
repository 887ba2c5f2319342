"""A small model is examined in this process: its completions are sampled with torch and scored as an evaluation does.

A prepared world enters once, then one model after another; figures leave. Requests, prompts, rows and scores are those
of the product; only the engine is another: it samples all questions of one prompt length at once, exactly from the
model's own probabilities, which for a model of half a million parameters takes less than an engine takes to start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mralign.chat.prompts import Prompt
from mralign.config import RunConfig
from mralign.evaluation.benchmarks import short_answer
from mralign.miniworld.sampling import SamplerParams, sample
from mralign.rows import Generation, Mode, Request, from_table
from mralign.serving.requests import build_requests, renderer_of, sampling_of_evaluation
from mralign.training.batches import layout
from mralign.training.logprobs import TokenLogProbs

BINS = 10  # of the calibration error
_ROWS = 128  # completions whose log-probabilities are computed at once
_ANSWER = -2  # the place of a world's answer in its completion: one token, then the end


class Exam:
    """Questions of a world with their prompts, made once. `tables`: schema QUESTIONS by the name of the split."""

    def __init__(self, config: RunConfig, *, path: str, tables: Mapping[str, pa.Table]) -> None:
        decoding = config.evaluation.decoding
        if decoding.top_p < 1 or decoding.top_k:
            raise ValueError(f"an exam samples from all tokens; give top_p=1 and no top_k, not {decoding}")
        sampling = sampling_of_evaluation(config, model=config.model, methods=("think_on", "think_off"))
        self.config, self.tables = config, tables
        self.renderer = renderer_of(sampling, path=path)
        self.end: int = self.renderer.tokenizer.eos_token_id
        self._asked: dict[tuple[str, Mode, int], list[tuple[Request, Prompt]]] = {}

    def ask(self, model: Any, split: str, *, mode: Mode = Mode.ON, draws: int = 1, seed: int = 0) -> list[Generation]:
        """A completion of every question and draw, from the model's own probabilities."""
        asked = self._requests(split, mode=mode, draws=draws)
        decoding = self.config.evaluation.decoding
        params = SamplerParams(decoding.temperature, draws, decoding.max_tokens, seed)
        found = sample(model, [list(prompt.token_ids) for _, prompt in asked], eos=self.end, params=params)
        texts = self.renderer.tokenizer.batch_decode(found, skip_special_tokens=True)
        rows = []
        for (request, prompt), ids, text in zip(asked, found, texts, strict=True):
            reason = "stop" if ids[-1] == self.end else "length"
            rows.append(self.renderer.row(request, prompt, text=text, token_ids=ids, finish_reason=reason))
        return rows

    def _requests(self, split: str, *, mode: Mode, draws: int) -> list[tuple[Request, Prompt]]:
        key = (split, mode, draws)
        if key not in self._asked:
            table = build_requests(self.tables[split], modes=[mode], draws=draws, seed=0)
            pairs = []
            for request in from_table(table, Request):
                prompt = self.renderer.prepare(request)
                assert isinstance(prompt, Prompt), prompt
                pairs.append((request, prompt))
            self._asked[key] = pairs
        return self._asked[key]

    def figures(self, rows: Sequence[Generation]) -> dict[str, float]:
        """acc, mis, em_thought, thought_tokens and unclosed of thinking rows; acc alone matters without a thought."""
        settings = self.config.evaluation
        scores = [short_answer.score(vars(row), {}, settings) for row in rows]
        found = {}
        for name in ("acc", "mis", "em_thought"):
            found[name] = _mean([score[name] for score in scores])
        found["thought_tokens"] = _mean([row.thought_tokens for row in rows])
        found["unclosed"] = _mean([row.invalid is not None for row in rows])
        return found


def _mean(values: Sequence[float | None]) -> float:
    known = [float(value) for value in values if value is not None]
    return float(np.mean(known)) if known else math.nan


@torch.no_grad()
def own_logps(policy: TokenLogProbs, rows: Sequence[Generation], *, config: RunConfig) -> list[Tensor]:
    """log pi of every token of the rows' completions, one tensor (T,) a row."""
    found: list[Tensor] = []
    build = layout(config.training)
    for start in range(0, len(rows), _ROWS):
        batch = rows[start : start + _ROWS]
        pairs = [(np.array(row.prompt_token_ids), np.array(row.token_ids)) for row in batch]
        found += policy(build(pairs)).split([len(row.token_ids) for row in batch])
    return found


def divergence(policy_rows: Sequence[Tensor], base_rows: Sequence[Tensor]) -> float:
    """Mean over completions of log pi - log pi_ref, in nats: KL to the reference where the policy wrote them."""
    ratios = [float((own - other).sum()) for own, other in zip(policy_rows, base_rows, strict=True)]
    return float(np.mean(ratios))


def calibration_error(rows: Sequence[Generation], logps: Sequence[Tensor], *, config: RunConfig) -> float:
    """Expected calibration error: |share of right answers - mean probability of the answer| over BINS equal bins of
    that probability, weighted by their rows. Rows without a judged answer do not count."""
    judged = [(row, logp) for row, logp in zip(rows, logps, strict=True) if row.invalid is None and len(logp) > 1]
    if not judged:
        return math.nan
    probability_N = np.array([math.exp(float(logp[_ANSWER])) for _, logp in judged])
    right_N = np.array([bool(short_answer.score(vars(row), {}, config.evaluation)["em_answer"]) for row, _ in judged])
    return expected_calibration_error(probability_N, right_N=right_N)


def expected_calibration_error(probability_N: np.ndarray, *, right_N: np.ndarray) -> float:
    """The error from probabilities (N,) and whether each answer was right (N,)."""
    bin_N = np.minimum((probability_N * BINS).astype(int), BINS - 1)
    gap_B = np.bincount(bin_N, weights=right_N - probability_N, minlength=BINS)
    return float(np.abs(gap_B).sum() / len(probability_N))
