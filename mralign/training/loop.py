"""The training loop of one worker: DeepSpeed ZeRO around a policy, any objective.

A task (where the examples lie, their plan, the settings) enters; trained weights and one row of figures an optimizer
step leave. All workers hold the same plan; the sequences of a step are dealt to them and cut by tokens, losses are sums
divided by the whole batch, so that neither the number of workers nor the cut changes the result (method.md §5).

Axes: B sequences of a micro-batch, N their completion tokens.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mralign.config import Model, Training
from mralign.training.batches import FORWARD_FACTOR, Pair, deal, layout, packs
from mralign.training.checkpoint import State
from mralign.training.engine import World, all_gather, all_sum, grad_norm, parameter_sum
from mralign.training.examples import Example
from mralign.training.guards import check_first_step, check_moved, not_finite
from mralign.training.kl import kl_estimate
from mralign.training.logprobs import TokenLogProbs
from mralign.training.objectives import find
from mralign.training.objectives.objective import Objective, Sums
from mralign.training.out_of_memory import with_less
from mralign.training.pairs import Batch, Plan
from mralign.training.reader import Reader
from mralign.training.step_figures import Tally, figures_of, mfu, model_flops, peak_memory

logger = logging.getLogger("mralign")


@dataclass(frozen=True, eq=False)
class Task:
    """What a run trains, the same on every worker."""

    model: Model
    settings: Training
    seed: int
    reader: Reader
    plan: Plan

    @property
    def objective(self) -> Objective:
        return find(self.settings.method)

    @property
    def rate(self) -> float:
        """The learning rate in use: the given one, or the objective's."""
        return self.settings.learning_rate or self.objective.rate


def learning_rate(step: int, *, total: int, rate: float, settings: Training) -> float:
    """Linear warm-up over `warmup_ratio` of the steps, then linear decay to zero after the last one."""
    warm = settings.warmup_ratio * total
    if step < warm:
        return rate * (step + 1) / (math.ceil(warm) + 1)
    return rate * (total - step) / max(total - warm, 1.0)


def train(
    engine: Any,
    task: Task,
    *,
    world: World,
    state: State,
    save: Callable[[State], None],
    log: Callable[[dict[str, float]], None] = lambda row: None,
    warn: Callable[[str], Any] = logger.warning,
) -> State:
    """Run the plan from `state.step` on; `save` is called every `checkpoint_every` steps and after the last."""
    settings, total = task.settings, len(task.plan)
    for step in range(state.step, total):
        began = time.monotonic()
        rate = learning_rate(step, total=total, rate=task.rate, settings=settings)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(hash((task.seed, step, world.rank)) % 2**63)  # dropout goes on after a resume as it would
        before = parameter_sum(engine.module) if step == 0 else 0.0
        read_ahead(task, step + 1, world=world)
        task, tally, z0 = step_within_memory(engine, task, step, world=world, state=state, warn=warn)
        figures = figures_of(tally, z0=z0, objective=task.objective)
        if step == 0:
            polarities = task.reader.index.polarity_N[task.plan.batch(0).examples].tolist()
            check_first_step(figures, polarities=polarities, settings=settings, objective=task.objective)
            check_moved(before, parameter_sum(engine.module), rate=rate, dtype=settings.dtype)
        norm = grad_norm(engine)
        if norm is not None and not math.isfinite(norm):
            ids = [e.row_id for e in task.reader.fetch(task.plan.batch(step).examples)]
            raise not_finite(ids, step=step + 1, what="gradient")
        state = replace(state, step=step + 1, z0=z0)
        if state.step % settings.log_every == 0 or state.step == total:
            row = {"step": state.step, "of": total, "epoch": task.plan.batch(step).epoch, "learning_rate": rate}
            row |= {**figures, **({} if norm is None else {"grad_norm": norm})}
            row |= _speed(engine, task, step, seconds=time.monotonic() - began, world=world)
            row |= {"micro_batch_tokens": task.settings.tokens_used} if state.memory else {}
            state.history.append(row)
            log(row)
        if state.step % settings.checkpoint_every == 0 or state.step == total:
            save(state)
    return state


def step_within_memory(
    engine: Any, task: Task, step: int, *, world: World, state: State, warn: Callable[[str], Any]
) -> tuple[Task, Tally, float | None]:
    """`optimizer_step`, begun again with smaller micro-batches where memory runs out, and the task with their size.

    `state` and `warn` are told of it. Raises MemoryRanOut where this try of the training must end for it.
    """
    while True:
        try:
            return task, *optimizer_step(engine, task, step, world=world, previous_z0=state.z0)
        except torch.OutOfMemoryError as error:
            said = str(error)
        # here, and not above, nothing holds the tensors of the failed pass any more
        index, batch = task.reader.index, task.plan.batch(step)
        lengths_N = index.prompt_tokens_N + index.completion_tokens_N
        most = int(lengths_N.max()) * len(batch.examples)
        shortest = int(lengths_N.min())
        less = with_less(engine, task.settings, world=world, shortest=shortest, most=most, said=said)
        task = replace(task, settings=less)
        warn(f"memory ran out in step {step + 1}: it begins again with micro-batches of {less.tokens_used} tokens")
        state.memory |= {"micro_batch_tokens": less.tokens_used, "ran_out_at_step": step + 1}


def read_ahead(task: Task, step: int, *, world: World) -> None:
    """Let the examples that this worker will need in a later step be read while it computes. Nothing after the last."""
    if step >= len(task.plan):
        return
    batch = task.plan.batch(step)
    own = [batch.examples[places] for places in _deal(task, batch.examples, batch.examples, world=world)]
    placed = batch.partners >= 0
    x_P, y_P = batch.examples[placed], batch.partners[placed]
    for places in _deal(task, x_P, y_P, world=world, factor=FORWARD_FACTOR) if len(x_P) else []:
        own += [x_P[places], y_P[places]]
    task.reader.prefetch(np.concatenate(own).astype(np.int64))


def optimizer_step(
    engine: Any, task: Task, step: int, *, world: World, previous_z0: float | None
) -> tuple[Tally, float | None]:
    """One optimizer step over the whole batch: z0 without gradient, then the micro-batches, then the update.

    Raises TrainingStopped, on every rank and before anything is updated, if a sequence's loss is not finite.
    """
    batch, objective = task.plan.batch(step), task.objective
    z0 = batch_z0(engine, task, step, world=world, previous=previous_z0) if objective.pairs else None
    divisor = batch_divisor(task, batch)
    micros = _deal(task, batch.examples, batch.examples, world=world)
    tally, broken = Tally(), list[str]()
    for number, places in enumerate(micros):
        examples = task.reader.fetch(batch.examples[places])
        loss, part, bad = micro_loss(engine, task, examples, z0=z0 or 0.0)
        engine.set_gradient_accumulation_boundary(number == len(micros) - 1)
        # DeepSpeed averages gradients over ranks; the sum over the batch is wanted.
        engine.backward(loss * world.size / divisor, scale_wrt_gas=False)
        tally, broken = tally + part, broken + bad
    tally = Tally.of(all_sum(tally.tensor()))
    if tally.broken:
        raise not_finite(list(chain.from_iterable(all_gather(broken))), step=step + 1, what="loss")
    engine.step()
    return replace(tally, divisor=divisor), z0


def batch_divisor(task: Task, batch: Batch) -> float:
    """What the summed loss is divided by: sequences of the batch, or its completion tokens (SFT)."""
    if task.objective.per_token:
        return float(task.reader.index.completion_tokens_N[batch.examples].sum())
    return float(len(batch.examples))


def batch_z0(engine: Any, task: Task, step: int, *, world: World, previous: float | None) -> float:
    """z0 over the mismatched pairs of all ranks, without gradient; the last one where this step has no pairs."""
    if not task.plan.has_pairs(step):
        return previous or 0.0
    batch = task.plan.batch(step)
    placed = np.flatnonzero(batch.partners >= 0)
    x_P, y_P = batch.examples[placed], batch.partners[placed]
    reference_P = pair_sums(task, step)
    assert len(reference_P) == len(placed), (len(reference_P), len(placed))
    total = torch.zeros(1, dtype=torch.float64)
    for places in _deal(task, x_P, y_P, world=world, factor=FORWARD_FACTOR):
        pairs = task.reader.pairs(x_P[places], y_P[places])
        micro = layout(task.settings)(pairs or [_blank(task)])
        with torch.no_grad():
            sums_B = micro.sum(engine(micro).cpu().double())
        if pairs:
            total += sums_B.sum() - float(reference_P[places].sum())
    (ratio_sum,) = all_sum(total).tolist()
    if not math.isfinite(ratio_sum):
        ids = [example.row_id for example in task.reader.fetch(batch.examples)]
        raise not_finite(ids, step=step + 1, what="log-probability of a mismatched pair")
    return kl_estimate(ratio_sum, len(placed), previous=previous, ema=task.settings.kl_ema)


def pair_sums(task: Task, step: int) -> np.ndarray:
    """log pi_ref(y_j | x_i) of the planned pairs of a step, float64, in the order of its batch."""
    assert task.reader.shelf is not None
    block, within = task.plan.block_of(step)
    return task.reader.shelf.pair_sums(block, step=within)


def micro_loss(engine: Any, task: Task, examples: Sequence[Example], *, z0: float) -> tuple[Tensor, Tally, list[str]]:
    """Summed loss of a micro-batch with gradient, what is logged of it, and the ids of examples without a finite loss.

    An empty micro-batch runs a blank sequence at weight 0: every rank makes the same number of forward passes.
    """
    micro = layout(task.settings)([(e.prompt_ids, e.completion_ids) for e in examples] or [_blank(task)])
    logp_N = engine(micro)
    if not examples:
        return logp_N.sum() * 0.0, Tally(), []
    device = logp_N.device
    micro = micro.to(device)
    ratio_N = torch.zeros_like(logp_N)
    if task.objective.reference:
        ratio_N = logp_N - _flat([e.reference_T for e in examples]).to(device)
    weights_N = _flat([e.weights_T for e in examples]).to(device)
    sums = Sums(
        logp_B=micro.sum(logp_N),
        reward_B=micro.sum(weights_N * ratio_N),
        plain_B=micro.sum(ratio_N.detach()),
        polarity_B=torch.tensor([float(e.polarity) for e in examples], device=device),
        z0=torch.tensor(z0, device=device),
    )
    loss_B = task.objective.losses(sums, task.settings)
    finite_B = torch.isfinite(loss_B.detach()).cpu()
    broken = [e.row_id for e, finite in zip(examples, finite_B.tolist(), strict=True) if not finite]
    return loss_B.sum(), Tally.of_micro(loss_B, sums, micro=micro, broken=len(broken)), broken


def _deal(task: Task, x_P: np.ndarray, y_P: np.ndarray, *, world: World, factor: int = 1) -> list[np.ndarray]:
    """This rank's micro-batches of sequences (prompt of x, completion of y)."""
    index, settings = task.reader.index, task.settings
    lengths_P = index.prompt_tokens_N[x_P] + index.completion_tokens_N[y_P]
    budget = factor * settings.tokens_used
    return deal(lengths_P, workers=world.size, budget=budget, packing=packs(settings))[world.rank]


def _blank(task: Task) -> Pair:
    (example,) = task.reader.fetch([0])
    return example.prompt_ids[:1], example.completion_ids[:1]


def _flat(rows: Sequence[Any]) -> Tensor:
    return torch.from_numpy(np.concatenate(rows).astype(np.float32))


def _speed(engine: Any, task: Task, step: int, *, seconds: float, world: World) -> dict[str, float]:
    """Seconds, completion tokens a second over all workers, peak memory and, on a GPU whose peak is known, MFU."""
    index, gpu = task.reader.index, task.settings.gpu
    tokens = float(index.completion_tokens_N[task.plan.batch(step).examples].sum())
    row = {"seconds": round(seconds, 3), "tokens_per_s": tokens / seconds, "memory_gib": peak_memory(gpu=gpu)}
    if gpu and task.settings.tuning != "qlora":  # whose weights hide their number
        share = mfu(step_flops(engine.module, task, step), seconds=seconds, workers=world.size, device=_device())
        row |= {} if share is None else {"mfu": share}
    return row


def step_flops(policy: TokenLogProbs, task: Task, step: int) -> float:
    """Useful floating-point operations of an optimizer step: no padding, nothing computed twice, the head for
    completion tokens only."""
    index, batch, causal = task.reader.index, task.plan.batch(step), policy.causal
    embedding, head = (part.weight for part in (causal.get_input_embeddings(), causal.get_output_embeddings()))
    body = sum(getattr(p, "ds_numel", p.numel()) for p in policy.parameters() if p is not embedding and p is not head)

    def forward(x_P: np.ndarray, y_P: np.ndarray) -> float:
        prompts, completions = index.prompt_tokens_N[x_P], index.completion_tokens_N[y_P]
        heads = 2.0 * getattr(head, "ds_numel", head.numel()) * float(completions.sum())
        return heads + model_flops(causal.config, parameters=body, lengths=prompts + completions)

    placed = batch.partners >= 0
    pairs = forward(batch.examples[placed], batch.partners[placed])
    return pairs + (3 if task.settings.tuning == "full" else 2) * forward(batch.examples, batch.examples)


def _device() -> str:
    return torch.cuda.get_device_name()
