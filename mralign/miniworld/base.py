"""The base: a Qwen3 of about half a million parameters, trained on the lessons of a world.

Lessons and the settings go in, the trained model and its training record come out. The head is untied, because vLLM
reloads tied ones wrongly. Only positions that carry loss pass through the head, and rows are batched by length, so a
training takes minutes on one thread. Axes: B rows, T positions, D hidden, N positions with loss, V words.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from mralign.miniworld.lessons import Lesson

LESSONS_PER_SHUFFLE = 2048
STEPS_PER_LOG = 100


@dataclass(frozen=True)
class ModelParams:
    """The sizes of the model; `max_length` in tokens."""

    hidden: int = 128
    layers: int = 2
    heads: int = 4
    key_value_heads: int = 2
    feed_forward: int = 384
    max_length: int = 256


@dataclass(frozen=True)
class TrainingParams:
    """How the base is trained: AdamW with a warm-up and a cosine down to `final_lr_share` of `lr`."""

    epochs: int = 8
    tokens_per_batch: int = 2048
    lr: float = 4e-3
    warmup_steps: int = 100
    final_lr_share: float = 0.02
    weight_decay: float = 0.01
    clip_norm: float = 1.0


@dataclass(frozen=True)
class TrainingRecord:
    """What a training did. Losses are weighted means over the first and the last logged stretch."""

    steps: int
    tokens: int
    first_loss: float
    last_loss: float
    seconds: float
    parameters: int


def make_model(tokenizer: PreTrainedTokenizerFast, *, params: ModelParams) -> Qwen3ForCausalLM:
    """An untrained model for the tokenizer's vocabulary."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=params.hidden,
        num_hidden_layers=params.layers,
        num_attention_heads=params.heads,
        num_key_value_heads=params.key_value_heads,
        head_dim=params.hidden // params.heads,
        intermediate_size=params.feed_forward,
        max_position_embeddings=params.max_length,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def train_base(
    lessons: Callable[[random.Random], Iterable[Lesson]],
    *,
    seed: int,
    tokenizer: PreTrainedTokenizerFast,
    model_params: ModelParams,
    params: TrainingParams,
    log: Callable[[str], None],
) -> tuple[Qwen3ForCausalLM, TrainingRecord]:
    """Train a base from scratch on what `lessons` writes for each epoch; the same seed, lessons and settings on one
    thread give the same model."""
    torch.manual_seed(seed)
    model = make_model(tokenizer, params=model_params)
    rng = random.Random(f"{seed} lessons")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=params.lr, betas=(0.9, 0.98), weight_decay=params.weight_decay, fused=True
    )
    started, tokens = time.perf_counter(), 0
    losses: list[float] = []
    model.train()
    for epoch in range(params.epochs):
        batches = make_batches(list(lessons(rng)), tokens_per_batch=params.tokens_per_batch, rng=rng)
        for index, batch in enumerate(batches):
            share_done = (epoch + index / len(batches)) / params.epochs
            lr = learning_rate(step=len(losses), share_done=share_done, params=params)
            losses.append(_step(model, optimizer, batch, lr=lr, clip_norm=params.clip_norm))
            tokens += sum(len(lesson.ids) for lesson in batch)
            if len(losses) % STEPS_PER_LOG == 0:
                seconds = time.perf_counter() - started
                log(f"step {len(losses)} done {share_done:.0%} loss {_mean(losses[-100:]):.3f} {seconds:.0f} s")
    model.requires_grad_(False).train(False)
    record = TrainingRecord(
        steps=len(losses),
        tokens=tokens,
        first_loss=_mean(losses[:10]),
        last_loss=_mean(losses[-50:]),
        seconds=round(time.perf_counter() - started, 1),
        parameters=sum(p.numel() for p in model.parameters()),
    )
    return model, record


def learning_rate(*, step: int, share_done: float, params: TrainingParams) -> float:
    """Linear warm-up times a cosine from `lr` down to `final_lr_share` of it."""
    cosine = 0.5 * (1 + math.cos(math.pi * share_done))
    return params.lr * min(1.0, (step + 1) / params.warmup_steps) * max(params.final_lr_share, cosine)


def make_batches(lessons: Sequence[Lesson], *, tokens_per_batch: int, rng: random.Random) -> list[list[Lesson]]:
    """Shuffled lessons in batches of like length, at most `tokens_per_batch` padded tokens each."""
    order = list(lessons)
    rng.shuffle(order)
    batches: list[list[Lesson]] = []
    for start in range(0, len(order), LESSONS_PER_SHUFFLE):
        chunk = sorted(order[start : start + LESSONS_PER_SHUFFLE], key=lambda lesson: len(lesson.ids))
        batches += _cut(chunk, tokens_per_batch=tokens_per_batch)
    rng.shuffle(batches)
    return batches


def _cut(sorted_lessons: Sequence[Lesson], *, tokens_per_batch: int) -> Iterator[list[Lesson]]:
    batch: list[Lesson] = []
    for lesson in sorted_lessons:
        if batch and (len(batch) + 1) * len(lesson.ids) > tokens_per_batch:
            yield batch
            batch = []
        batch.append(lesson)
    if batch:
        yield batch


def _step(
    model: Qwen3ForCausalLM, optimizer: torch.optim.Optimizer, batch: Sequence[Lesson], *, lr: float, clip_norm: float
) -> float:
    loss = batch_loss(model, batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def batch_loss(model: Qwen3ForCausalLM, batch: Sequence[Lesson]) -> torch.Tensor:
    """Weighted mean cross-entropy. Rows are padded on the right, where causal attention cannot see the padding."""
    width = max(len(lesson.ids) for lesson in batch)
    ids_BT = torch.tensor([lesson.ids + (0,) * (width - len(lesson.ids)) for lesson in batch])
    weights_BT = torch.tensor([lesson.weights + (0.0,) * (width - len(lesson.ids)) for lesson in batch])
    hidden_BTD = model.model(input_ids=ids_BT[:, :-1], use_cache=False).last_hidden_state
    kept_BT = weights_BT[:, 1:] > 0
    logits_NV = model.lm_head(hidden_BTD[kept_BT])
    nll_N = functional.cross_entropy(logits_NV, ids_BT[:, 1:][kept_BT], reduction="none")
    weights_N = weights_BT[:, 1:][kept_BT]
    return (nll_N * weights_N).sum() / weights_N.sum()


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)
