"""The training loop of one worker: DeepSpeed ZeRO around a LoRA policy, KTO or SFT.

The examples of the run, the reference and the plan enter; a LoRA adapter and one metrics row an optimizer step leave.
All workers hold the same plan; the examples of a step are dealt to ranks and micro-batches, losses are sums divided by
the whole batch, so that neither the number of workers nor the cut changes the result (METHOD 5).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mralign.config import Training
from mralign.training.examples import Example
from mralign.training.logprobs import CHUNK, Padded, TokenLogProbs, pad
from mralign.training.loss import KtoSettings, kl_estimate, kto_loss, reward, sft_loss
from mralign.training.pairs import Batch, plan
from mralign.training.reference import load_model


@dataclass(frozen=True)
class Reference:
    """log pi_ref: per-token arrays float32 (T,) by row, and sums by (prompt row, completion row)."""

    logps: Mapping[str, np.ndarray]
    sums: Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class Task:
    """What a run trains, the same on every worker."""

    model_path: str
    trust_remote_code: bool
    settings: Training
    seed: int
    examples: Sequence[Example]
    reference: Reference | None  # None for SFT
    adapter: str | None = None  # merged into the model before anything else

    def batches(self) -> list[Batch]:
        owners = [example.question_id for example in self.examples]
        s = self.settings
        return plan(owners, seed=self.seed, epochs=s.epochs, batch_size=s.batch_size, max_steps=s.max_steps)


@dataclass(frozen=True)
class World:
    """This worker's place."""

    rank: int = 0
    size: int = 1


@dataclass
class State:
    """What a checkpoint must remember besides DeepSpeed's own."""

    step: int = 0
    z0: float | None = None
    history: list[dict[str, float]] = field(default_factory=list)


def prepare_process(*, gpu: bool, threads: int) -> None:
    """Environment of a worker process; must run before DeepSpeed is imported."""
    if not gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
        torch.set_num_threads(threads)


def build_policy(task: Task) -> TokenLogProbs:
    """The base model with a fresh LoRA on all linear layers (head excluded); B = 0, so it equals pi_ref."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(task.seed)
    base = load_model(
        task.model_path,
        dtype=task.settings.dtype,
        adapter=task.adapter,
        trust_remote_code=task.trust_remote_code,
    )
    lora = task.settings.lora
    config = LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    # ZeRO-3 gathers the head at every call: all ranks must call it equally often, so it gets one chunk.
    chunk = 2**62 if task.settings.zero_stage == 3 else CHUNK
    return TokenLogProbs(get_peft_model(base, config), chunk=chunk)


def deepspeed_config(settings: Training, *, world: World) -> dict[str, Any]:
    """DeepSpeed's configuration; micro-batches and the learning rate are driven by the loop."""
    return {
        "train_batch_size": settings.batch_size,
        "train_micro_batch_size_per_gpu": settings.micro_batch_size,
        "gradient_accumulation_steps": settings.batch_size // (settings.micro_batch_size * world.size),
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": settings.rate,
                "weight_decay": settings.weight_decay,
                "torch_adam": not settings.gpu,
            },
        },
        "gradient_clipping": settings.max_grad_norm,
        "zero_optimization": {"stage": settings.zero_stage},
        "bf16": {"enabled": settings.dtype == "bfloat16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }


def start_engine(task: Task, *, world: World) -> Any:
    """The DeepSpeed engine around the policy. The process group must exist or be described by the environment."""
    import deepspeed

    deepspeed.init_distributed("nccl" if task.settings.gpu else "gloo", verbose=False)
    policy = build_policy(task)
    trainable = [p for p in policy.parameters() if p.requires_grad]
    engine, *_ = deepspeed.initialize(
        model=policy, model_parameters=trainable, config=deepspeed_config(task.settings, world=world)
    )
    return engine


def learning_rate(step: int, *, total: int, settings: Training) -> float:
    """Linear warm-up over `warmup_ratio` of the steps, then linear decay to zero after the last one."""
    warm = settings.warmup_ratio * total
    if step < warm:
        return settings.rate * (step + 1) / (math.ceil(warm) + 1)
    return settings.rate * (total - step) / max(total - warm, 1.0)


def deal(batch: Batch, *, world: World, micro: int) -> list[np.ndarray]:
    """This rank's micro-batches: places in the batch, int64 (micro,), -1 where the deal does not come out even."""
    size = len(batch.examples)
    rounds = math.ceil(size / (world.size * micro))
    places = np.full(rounds * world.size * micro, -1)
    places[:size] = np.arange(size)
    return list(places.reshape(rounds, world.size, micro)[:, world.rank])


def train(
    engine: Any,
    task: Task,
    *,
    world: World,
    state: State,
    save: Callable[[State], None],
    log: Callable[[dict[str, float]], None] = lambda row: None,
) -> State:
    """Run the plan from `state.step` on; `save` is called every `checkpoint_every` steps and after the last."""
    batches = task.batches()
    for step in range(state.step, len(batches)):
        began = time.monotonic()
        rate = learning_rate(step, total=len(batches), settings=task.settings)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        figures, z0 = optimizer_step(engine, task, batches[step], world=world, previous_z0=state.z0)
        if step == 0:
            check_first_step(figures, task, batches[step])
        row = {"step": step + 1, "of": len(batches), "epoch": batches[step].epoch, "learning_rate": rate, **figures}
        row["seconds"] = round(time.monotonic() - began, 3)
        state = replace(state, step=step + 1, z0=z0, history=[*state.history, row])
        log(row)
        if state.step % task.settings.checkpoint_every == 0 or state.step == len(batches):
            save(state)
    return state


def optimizer_step(
    engine: Any, task: Task, batch: Batch, *, world: World, previous_z0: float | None
) -> tuple[dict[str, float], float | None]:
    """One optimizer step over the whole batch: z0 without gradient, then the micro-batches, then the update."""
    settings = task.settings
    micros = deal(batch, world=world, micro=settings.micro_batch_size)
    z0 = None if settings.method == "sft" else batch_z0(engine, task, batch, micros, previous=previous_z0)
    divisor = batch_divisor(task, batch)
    total = torch.zeros(6, dtype=torch.float64)
    for number, places in enumerate(micros):
        loss, sums = micro_loss(engine, task, batch, places, z0=z0)
        engine.set_gradient_accumulation_boundary(number == len(micros) - 1)
        # DeepSpeed averages gradients over ranks; the sum over the batch is wanted.
        engine.backward(loss * world.size / divisor, scale_wrt_gas=False)
        total += sums
    engine.step()
    return _figures(all_sum(total), divisor=divisor, z0=z0, grad_norm=_grad_norm(engine)), z0


def batch_divisor(task: Task, batch: Batch) -> float:
    """What the summed loss is divided by: sequences of the batch (KTO) or completion tokens (SFT)."""
    if task.settings.method == "sft":
        return float(sum(len(task.examples[i].completion_ids) for i in batch.examples))
    return float(len(batch.examples))


def batch_z0(engine: Any, task: Task, batch: Batch, micros: Sequence[np.ndarray], *, previous: float | None) -> float:
    """z0 over the mismatched pairs of all ranks, without gradient."""
    assert task.reference is not None
    total = torch.zeros(2, dtype=torch.float64)
    for places in micros:
        pairs = [(batch.examples[p], batch.partners[p]) for p in places if p >= 0 and batch.partners[p] >= 0]
        chosen = [(task.examples[i], task.examples[j]) for i, j in pairs]
        with torch.no_grad():
            logp_BT = engine(_padded([(x.prompt_ids, y.completion_ids) for x, y in chosen] or [_blank(task)]))
        sums = logp_BT.double().sum(1).tolist()
        for (x, y), policy_sum in zip(chosen, sums, strict=False):
            total += torch.tensor([policy_sum - task.reference.sums[x.row_id, y.row_id], 1.0], dtype=torch.float64)
    ratio_sum, pairs_total = all_sum(total).tolist()
    return kl_estimate(ratio_sum, int(pairs_total), previous=previous, ema=task.settings.kl_ema)


def micro_loss(engine: Any, task: Task, batch: Batch, places: np.ndarray, *, z0: float | None) -> tuple[Tensor, Tensor]:
    """Summed loss of a micro-batch with gradient, and what is logged of it (6 float64 sums).

    An empty micro-batch runs a blank sequence at weight 0: every rank makes the same number of forward passes.
    """
    examples = [task.examples[batch.examples[p]] for p in places if p >= 0]
    logp_BT = engine(_padded([(e.prompt_ids, e.completion_ids) for e in examples] or [_blank(task)]))
    if not examples:
        return logp_BT.sum() * 0.0, torch.zeros(6, dtype=torch.float64)
    tokens = float(sum(len(e.completion_ids) for e in examples))
    if task.settings.method == "sft":
        loss = sft_loss(logp_BT).sum()
        return loss, torch.tensor([float(loss.detach()), 0, 0, 0, 0, tokens], dtype=torch.float64)
    assert task.reference is not None and z0 is not None
    reward_B = reward(
        logp_BT,
        reference_BT=_rows([task.reference.logps[e.row_id] for e in examples], like=logp_BT),
        weights_BT=_rows([e.weights_T for e in examples], like=logp_BT),
    )
    polarity_B = torch.tensor([e.polarity for e in examples], dtype=torch.float32, device=logp_BT.device)
    s = task.settings
    settings = KtoSettings(s.beta, s.lambda_chosen, s.lambda_rejected)
    z0_tensor = torch.tensor(z0, device=logp_BT.device)
    loss = kto_loss(reward_B, polarity_B=polarity_B, z0=z0_tensor, settings=settings).sum()
    seen = reward_B.detach().double()
    chosen = (polarity_B > 0).double()
    sums = [
        loss.detach().double(),
        (seen * chosen).sum(),
        chosen.sum(),
        (seen * (1 - chosen)).sum(),
        (1 - chosen).sum(),
    ]
    return loss, torch.stack([*(value.cpu() for value in sums), torch.tensor(tokens, dtype=torch.float64)])


def check_first_step(figures: Mapping[str, float], task: Task, batch: Batch) -> None:
    """A fresh LoRA must equal the reference: r = 0 and loss = mean lambda / 2 at step 0.

    Exact where the shapes of the passes agree; padding alone moves a log-probability by rounding, so the mean reward
    is judged by the token: 1e-3 in float32, 0.1 in bfloat16. Raises ValueError beyond that: reference and policy are
    then not the same model, code or dtype.
    """
    if task.settings.method == "sft":
        return
    tokens = figures["tokens"] / len(batch.examples)
    worst = max(abs(figures["reward_chosen"]), abs(figures["reward_rejected"])) / tokens
    allowed = 1e-3 if task.settings.dtype == "float32" else 0.1
    if worst > allowed:
        raise ValueError(
            f"at step 0 the mean reward is {worst:.4g} a token, expected is 0, allowed {allowed}: the reference "
            f"was not computed with this model, code and dtype; delete the run's reference/ directory and run again"
        )


def save_checkpoint(engine: Any, state: State, directory: Path, *, rank: int, zero_stage: int) -> None:
    """DeepSpeed's shards from every rank; adapter and state from rank 0. Call on all ranks."""
    import deepspeed

    engine.save_checkpoint(str(directory / "deepspeed"), exclude_frozen_parameters=True)
    policy = engine.module
    trainable = [p for p in policy.parameters() if p.requires_grad]
    with deepspeed.zero.GatheredParameters(trainable, enabled=zero_stage == 3):
        if rank == 0:
            policy.model.save_pretrained(directory / "adapter")
            (directory / "state.json").write_text(json.dumps(asdict(state)))


def load_checkpoint(engine: Any, directory: Path) -> State:
    """Restore engine and state saved by the same number of workers."""
    engine.load_checkpoint(str(directory / "deepspeed"), load_module_strict=False)
    return State(**json.loads((directory / "state.json").read_text()))


def all_sum(values: Tensor) -> Tensor:
    """Sum over ranks."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        moved = values.cuda() if torch.distributed.get_backend() == "nccl" else values
        torch.distributed.all_reduce(moved)
        return moved.cpu()
    return values


def _figures(total: Tensor, *, divisor: float, z0: float | None, grad_norm: float | None) -> dict[str, float]:
    loss, chosen, n_chosen, rejected, n_rejected, tokens = total.tolist()
    figures = {"loss": loss / divisor, "tokens": tokens}
    if grad_norm is not None:
        figures["grad_norm"] = grad_norm
    if z0 is None:
        return figures
    means = {"reward_chosen": chosen / max(n_chosen, 1), "reward_rejected": rejected / max(n_rejected, 1)}
    return figures | means | {"margin": means["reward_chosen"] - means["reward_rejected"], "z0": z0}


def _grad_norm(engine: Any) -> float | None:
    """The norm before clipping; DeepSpeed's plain float32 engine (ZeRO 0) does not tell it."""
    norm = engine.get_global_grad_norm()
    return None if norm is None else float(norm)


def _padded(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Padded:
    return pad(pairs, pad_id=0)


def _blank(task: Task) -> tuple[np.ndarray, np.ndarray]:
    example = task.examples[0]
    return example.prompt_ids[:1], example.completion_ids[:1]


def _rows(rows: Sequence[np.ndarray], *, like: Tensor) -> Tensor:
    padded = torch.zeros(like.shape, dtype=torch.float32)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = torch.from_numpy(np.asarray(row, dtype=np.float32))
    return padded.to(like.device)
