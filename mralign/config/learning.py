"""From labels to a policy: transition matrices, step weights, examples, training."""

from __future__ import annotations

import math
import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from mralign.config.models import Model
from mralign.config.section import Alias, Section, Speed


class Transitions(Section):
    """Estimation of P, P+ and P- (method.md §3).

    `preset: converged` runs EM undamped until no entry moves by 1e-9 or more; values given beside a preset win.
    """

    preset: Alias[Literal["paper", "converged"]] = Field(
        "paper",
        description="Fills max_iter, tol and damping. paper: five damped iterations. converged: undamped, until no "
        "entry moves by 1e-9.",
    )
    estimator: Literal["em", "frequency"] = Field(
        "em",
        description="How P is estimated: by EM, or by frequencies, which spread every pair evenly over its edges (an "
        "ablation of the paper).",
    )
    labels: Literal["all", "single"] = Field(
        "all", description="Use all labels of a step, or only its most confident one (an ablation of the paper)."
    )
    em: Speed[Literal["reduced", "sharded"]] = Field(
        "reduced",
        description="Run EM on the summed table of counts, or on the table of each part. Take sharded only where the "
        "sum is too large for one task.",
    )
    bootstrap: int = Field(
        50,
        ge=0,
        description="Bootstrap replicates for the standard errors of P, ratios and weights; 0: no errors. Not 1.",
    )
    max_iter: int = Field(5, ge=1, description="Most iterations of EM.")
    tol: float = Field(1e-6, ge=0, description="EM ends when no entry of P moves by this much in an iteration.")
    damping: float = Field(
        0.6, gt=0, le=1, description="Share of the new P in an iteration; the rest is the last P. 1: undamped."
    )
    prior: float = Field(
        0.1,
        ge=0,
        description="Count that is added to every allowed transition, so that none has probability 0. Raise it for "
        "little data.",
    )

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("preset") == "converged":
            return {"max_iter": 1000, "tol": 1e-9, "damping": 1.0} | values
        return values

    @model_validator(mode="after")
    def _has_a_spread(self) -> Transitions:
        if self.bootstrap == 1:
            raise ValueError("transitions.bootstrap=1 has no spread; allowed are 0 (no standard errors) or 2 and more")
        return self


class Weights(Section):
    """Step weights (method.md §4)."""

    anchor: Literal["global", "opposite"] = Field(
        "global",
        description="Matrix by which a polarity's probability is divided: P of all thoughts (the paper), or that of "
        "the other polarity (an extension of ours).",
    )
    control: Literal["none", "shuffle", "mean", "uniform"] = Field(
        "none",
        description="Weights of a control experiment: shuffled within each thought, each polarity's mean everywhere, "
        "or 1 everywhere.",
    )
    rule: Literal["paper", "shrunk", "zero_floor", "normalised", "second_order", "held_out"] = Field(
        "paper",
        description="How a ratio becomes a weight: clipped (the paper), or one of our candidates: shrunk towards 1 by "
        "its standard error, down to 0 in negatives, mean 1 in each thought, with the step before, or only "
        "where it holds out of sample.",
        exclude_if=lambda rule: rule == "paper",
    )
    clip_min: float = Field(1 / math.e, gt=0, description="Smallest weight of a step; the paper's is 1/e.")
    clip_max: float = Field(math.e, gt=0, description="Largest weight of a step; the paper's is e.")

    @model_validator(mode="after")
    def _ordered(self) -> Weights:
        if self.clip_min > self.clip_max:
            raise ValueError(f"weights.clip_min={self.clip_min} is above weights.clip_max={self.clip_max}")
        return self


class Examples(Section):
    """Training examples; a longer sequence is a reject, never cut."""

    max_length: int = Field(
        4096,
        ge=2,
        description="Most tokens of prompt and completion together. Raise it where the report shows too_long.",
    )


class Lora(Section):
    """The adapter: its size, and what of the model it changes."""

    r: int = Field(32, ge=1, description="Rank of the adapter: its size.")
    alpha: int = Field(64, ge=1, description="Scale of the adapter: what it adds is multiplied by alpha / r.")
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the adapter's inputs that is dropped in training. Above 0 it trains slower.",
    )
    target_modules: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear",
        description="Linear layers that are adapted, by the end of their names ([q_proj, v_proj]); all-linear: all "
        "but the head. Experts that are fused into one tensor do not count as linear layers.",
        exclude_if=lambda names: names == "all-linear",
    )
    target_parameters: tuple[str, ...] = Field(
        (),
        description="Parameters outside linear layers that are adapted, by the end of their names, such as fused "
        "experts: [mlp.experts.gate_up_proj, mlp.experts.down_proj]. Not with dropout or tuning=dora.",
        exclude_if=lambda names: not names,
    )
    modules_to_save: tuple[str, ...] = Field(
        (),
        description="Modules that are trained whole and saved with the adapter, by the end of their names.",
        exclude_if=lambda names: not names,
    )

    @property
    def chooses(self) -> bool:
        """Whether the user has chosen which parts of the model are adapted."""
        return self.target_modules != "all-linear" or bool(self.target_parameters or self.modules_to_save)


Recomputation = bool | Literal["selective"]  # of activations, in the backward pass
_MICRO_BATCH_TOKENS = 4096
_SIZE = re.compile(r"[0-9]+(\.[0-9]+)? ?[GM]iB\Z")


class Training(Section):
    """KTO with token weights (method.md §5), or another objective by the same loop."""

    method: str = Field(
        "mralign",
        description="What the training minimises: mralign, kto, sft, apo_zero, or an objective of your own by the "
        "name of its file in mralign/training/objectives.",
    )
    datasets: tuple[str, ...] = Field(
        (),
        description="Data sets, by name, to train on and to estimate P from; empty: all.",
        exclude_if=lambda names: not names,  # where all are used, no fingerprint tells of it
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="Highest learning rate; null: the objective's own, 1e-4 for SFT, else 5e-6 (the paper's, for 8 B "
        "parameters). The first setting to try others of, on dev.",
    )
    epochs: int = Field(3, ge=1, description="How often every example is trained on.")
    max_steps: int | None = Field(
        None, ge=1, description="Stop after this many optimizer steps; null: after the last epoch. For quick tries."
    )
    warmup_ratio: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of the steps in which the learning rate rises; then it falls to 0 in a line.",
    )
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of AdamW.")
    max_grad_norm: float = Field(1.0, gt=0, description="Norm to which a larger gradient is scaled down.")
    batch_size: int = Field(
        64,
        ge=2,
        description="Examples in an optimizer step, over all workers together; the number of GPUs does not change it.",
    )
    memory: Speed[str | None] = Field(
        None,
        description="Memory of one worker, as 26GiB or 900MiB, by which micro_batch_tokens and gradient_checkpointing "
        "are chosen where they are null: short passes are measured when the training starts. auto: what is free then. "
        "null: nothing is measured.",
    )
    micro_batch_tokens: Speed[int | None] = Field(
        None,
        ge=1,
        description="Tokens in one forward and backward pass on one worker; a longer sequence goes alone. null: 4096, "
        "or what `memory` has room for. Lower it when memory runs out, raise it to fill a large GPU.",
    )
    packing: Speed[Literal["auto", "on", "off"]] = Field(
        "auto",
        description="Put sequences one after another into one row, without padding; auto: where attention is varlen "
        "or a flash attention.",
    )
    attention: str = Field(
        "auto",
        description="How attention is computed. varlen: torch's flash attention over packed sequences. sdpa, "
        "flash_attention_2, eager: transformers' own. auto: varlen on a GPU in bfloat16, else sdpa. Gemma 2 needs "
        "eager, and models with a state or with windows need sdpa.",
    )
    kernels: Literal["torch", "liger"] = Field(
        "torch",
        description="What computes norms, rotary embedding and gated MLP: torch, or Liger's faster kernels, which "
        "need a GPU and come with mralign[gpu].",
        exclude_if=lambda name: name == "torch",
    )
    rope_length: int | None = Field(
        None,
        ge=2,
        description="Length, in tokens, for which a rotary embedding is set that depends on the longest sequence "
        "(LongRoPE, dynamic NTK). Give it the value of engine.max_model_len; null, for other models: nothing is set.",
        exclude_if=lambda length: length is None,
    )
    beta: float = Field(
        0.1, gt=0, description="KTO's beta: a larger one keeps the policy closer to the untrained model."
    )
    reference: Model | None = Field(
        None,
        description="The reference pi_ref, where it is another model than the one that is trained: one with the same "
        "tokenizer. null: the model itself, as it was before. Later rounds with a fixed reference set it.",
        exclude_if=lambda model: model is None,
    )
    lambda_chosen: float = Field(1.0, gt=0, description="Weight of the loss of positive examples.")
    lambda_rejected: float = Field(
        1.5,
        gt=0,
        description="Weight of the loss of negative examples. Where it does not fit the sizes of the two classes, "
        "the run warns and names a range that does.",
    )
    pairs: Literal["batch", "trl", "none"] = Field(
        "batch",
        description="Mismatched pairs from which z0 is estimated: drawn anew in every batch, fixed as in TRL (for "
        "comparisons), or none (z0 is 0).",
    )
    kl_every: int = Field(
        1, ge=1, description="Estimate z0 once in this many steps and keep it between them. 4 trains faster."
    )
    kl_pairs: int | None = Field(
        None,
        ge=1,
        description="Mismatched pairs of a batch from which z0 is estimated, spread over polarities and lengths; null: "
        "all of them. The mean is the same and varies more; a quarter of the batch trains faster.",
        exclude_if=lambda pairs: pairs is None,
    )
    kl_ema: float = Field(0.0, ge=0, lt=1, description="Share of the last z0 in the next one; 0: no smoothing.")
    tuning: Literal["lora", "dora", "qlora", "full"] = Field(
        "lora",
        description="What is trained: a LoRA or DoRA adapter, an adapter on a base in 4 bits (qlora; a GPU and "
        "mralign[qlora]), or the whole model.",
    )
    lora: Lora = Field(Lora(), description="Size and place of the adapter.")
    dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="Number format in which the trainer and the reference compute."
    )
    workers: Speed[int] = Field(
        2,
        ge=1,
        description="Training processes: one a GPU where gpu is true, so set it to the number of GPUs.",
    )
    min_workers: Speed[int | None] = Field(
        None,
        ge=1,
        description="The fewest workers with which a training begins, and goes on when some are lost; it takes up to "
        "`workers` as nodes come. null: all of them, so that it waits until a lost node is replaced.",
    )
    gpu: bool = Field(False, description="Train and score the reference on GPUs; false: on CPUs.")
    threads_per_worker: Speed[int] = Field(1, ge=1, description="Threads of a worker that trains on a CPU.")
    zero_stage: Literal[0, 1, 2, 3] = Field(
        2,
        description="What DeepSpeed cuts up among the workers: nothing (0, float32 only), the optimizer's state (1), "
        "gradients too (2), parameters too (3). Raise it when memory runs out.",
    )
    offload: Literal["none", "optimizer", "all"] = Field(
        "none",
        description="What is kept in the host's memory to spare the GPU's: the optimizer (ZeRO 1 to 3), or the "
        "parameters as well (all; ZeRO 3). Slower.",
    )
    gradient_checkpointing: Speed[Recomputation | None] = Field(
        None,
        description="Recompute activations in the backward pass: less memory, more time. selective: all but what "
        "attention put out, the dearest to compute again. null: false, or what `memory` asks for. Turn it on when "
        "memory runs out.",
    )
    checkpoint_every: Speed[int] = Field(
        20, ge=1, description="Optimizer steps between two checkpoints; what a kill can cost."
    )
    log_every: Speed[int] = Field(1, ge=1, description="Optimizer steps between two rows of metrics.jsonl.")
    trackers: Speed[tuple[Literal["tensorboard", "wandb", "mlflow"], ...]] = Field(
        (), description="Where metrics go besides metrics.jsonl; wandb and mlflow come with mralign[trackers]."
    )
    max_failures: Speed[int] = Field(
        3, ge=0, description="How often a training whose worker died is started again from its last checkpoint."
    )
    push_to: Speed[str | None] = Field(
        None,
        description="Repository on the hub, OWNER/NAME, to which the adapter (under tuning=full the model) and its "
        "card are uploaded when the training ends; null: nowhere.",
    )
    push_token_env: Speed[str] = Field(
        "HF_TOKEN", description="Name of the environment variable that holds the hub's token."
    )

    @field_validator("memory", mode="before")
    @classmethod
    def _memory_is_some(cls, given: Any) -> Any:
        if given in (None, "auto") or (isinstance(given, str) and _SIZE.match(given) and float(given[:-3])):
            return given
        raise ValueError(f"{given!r} is no size: give a number above 0 with GiB or MiB, as 26GiB, or auto, or null")

    @property
    def tokens_used(self) -> int:
        """`micro_batch_tokens`, or what null stands for until a choice is made."""
        return self.micro_batch_tokens or _MICRO_BATCH_TOKENS

    @property
    def recomputation_used(self) -> Recomputation:
        """`gradient_checkpointing`, or what null stands for until a choice is made."""
        return self.gradient_checkpointing or False

    @property
    def memory_bytes(self) -> float | None:
        """The size that `memory` names; None for null and auto."""
        if self.memory is None or self.memory == "auto":
            return None
        number, unit = self.memory[:-3], self.memory[-3:]
        return float(number) * {"MiB": 2**20, "GiB": 2**30}[unit]

    @property
    def attention_used(self) -> str:
        """`attention`, or what `auto` stands for."""
        if self.attention != "auto":
            return self.attention
        return "varlen" if self.gpu and self.dtype == "bfloat16" and self.packing != "off" else "sdpa"

    @property
    def resolved(self) -> Training:
        """These settings with `auto` replaced by what it stands for; `packing` counts by the attention it leads to."""
        return self.model_copy(update={"attention": self.attention_used})

    @property
    def fewest_workers(self) -> int:
        """The fewest workers that may train."""
        return self.workers if self.min_workers is None else self.min_workers

    @model_validator(mode="after")
    def _fits_together(self) -> Training:
        if self.fewest_workers > self.workers:
            raise ValueError(f"min_workers={self.min_workers} is above workers={self.workers}; give at most that")
        if self.zero_stage == 0 and self.dtype == "bfloat16":
            raise ValueError("zero_stage=0 trains in float32 only (DeepSpeed); use zero_stage=1, or dtype=float32")
        if self.offload == "optimizer" and self.zero_stage == 0:
            raise ValueError("offload=optimizer needs zero_stage 1, 2 or 3; given is 0")
        if self.offload == "all" and self.zero_stage != 3:
            raise ValueError(f"offload=all needs zero_stage=3; given is {self.zero_stage}")
        if self.attention == "varlen" and self.packing == "off":
            raise ValueError("attention=varlen takes packed sequences; give packing auto or on, or attention=sdpa")
        if self.kernels == "liger" and not self.gpu:
            raise ValueError("kernels=liger needs a GPU (gpu=true); leave training.kernels out on a CPU")
        if self.tuning == "full" and self.lora.chooses:
            raise ValueError(
                "tuning=full trains everything; leave out lora.target_modules, target_parameters and modules_to_save"
            )
        if self.lora.target_parameters and (self.lora.dropout or self.tuning == "dora"):
            raise ValueError("lora.target_parameters is for lora.dropout=0 and tuning lora or qlora (PEFT)")
        if self.tuning == "qlora" and self.zero_stage == 3:
            raise ValueError("tuning=qlora needs zero_stage 0, 1 or 2: ZeRO-3 cannot cut a base of 4 bits")
        return self
