"""From labels to a policy: transition matrices, step weights, examples, training."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from mralign.config.section import Alias, Section, Speed


class Transitions(Section):
    """Estimation of P, P+ and P- (method.md §3).

    `preset: converged` runs EM undamped until no entry moves by 1e-9 or more; values given beside a preset win.
    """

    preset: Alias[Literal["paper", "converged"]] = "paper"
    estimator: Literal["em", "frequency"] = "em"
    labels: Literal["all", "single"] = "all"
    em: Speed[Literal["reduced", "sharded"]] = Field(
        "reduced", description="E-step on the summed count table, or on the table of each part, once an iteration."
    )
    bootstrap: int = Field(50, ge=0, description="Replicates for the standard errors; 0 is none, 1 is no spread.")
    max_iter: int = Field(5, ge=1)
    tol: float = Field(1e-6, ge=0)
    damping: float = Field(0.6, gt=0, le=1)
    prior: float = Field(0.1, ge=0)

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

    anchor: Literal["global", "opposite"] = "global"
    control: Literal["none", "shuffle", "mean", "uniform"] = "none"
    clip_min: float = Field(1 / math.e, gt=0)
    clip_max: float = Field(math.e, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Weights:
        if self.clip_min > self.clip_max:
            raise ValueError(f"weights.clip_min={self.clip_min} is above weights.clip_max={self.clip_max}")
        return self


class Examples(Section):
    """Training examples; a longer sequence is a reject, never cut."""

    max_length: int = Field(4096, ge=2, description="Tokens of prompt and completion together.")


class Lora(Section):
    """The adapter: its size, and what of the model it changes."""

    r: int = Field(32, ge=1)
    alpha: int = Field(64, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear",
        description="Linear layers that are adapted, by the end of their names ([q_proj, v_proj]); all-linear: all of "
        "them, the head left out. Experts that lie fused in one tensor are no linear layers.",
        exclude_if=lambda names: names == "all-linear",
    )
    target_parameters: tuple[str, ...] = Field(
        (),
        description="Parameters that are adapted though no linear layer holds them, by the end of their names: fused "
        "experts, [mlp.experts.gate_up_proj, mlp.experts.down_proj]. Not with dropout, nor under tuning=dora.",
        exclude_if=lambda names: not names,
    )
    modules_to_save: tuple[str, ...] = Field(
        (),
        description="Modules that are trained whole and saved with the adapter, by the end of their names.",
        exclude_if=lambda names: not names,
    )

    @property
    def chooses(self) -> bool:
        """Whether it says what of the model is adapted."""
        return self.target_modules != "all-linear" or bool(self.target_parameters or self.modules_to_save)


class Training(Section):
    """KTO with token weights (method.md §5), or another objective by the same loop."""

    method: str = Field("mralign", description="An objective by the name of its file in mralign/training/objectives.")
    datasets: tuple[str, ...] = Field(
        (),
        description="Train, and estimate P, on these data sets only; empty: on all.",
        exclude_if=lambda names: not names,  # where all are used, no fingerprint tells of it
    )
    learning_rate: float | None = Field(None, gt=0, description="null is the objective's own: 1e-4 for SFT, else 5e-6.")
    epochs: int = Field(3, ge=1)
    max_steps: int | None = Field(None, ge=1, description="Stop after so many optimizer steps.")
    warmup_ratio: float = Field(0.1, ge=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    batch_size: int = Field(64, ge=2, description="Examples an optimizer step, over all workers.")
    micro_batch_tokens: Speed[int] = Field(
        4096, ge=1, description="Tokens a forward and backward pass on one worker; a longer sequence goes alone."
    )
    packing: Speed[Literal["auto", "on", "off"]] = Field(
        "auto",
        description="Sequences one after another in one row; auto: where attention is varlen or a flash attention.",
    )
    attention: str = Field(
        "auto",
        description="varlen (packed sequences, by torch's flash attention on a GPU in bfloat16, elsewhere one by one), "
        "or transformers' name: sdpa, flash_attention_2, eager; auto: varlen on a GPU in bfloat16, else sdpa.",
    )
    kernels: Literal["torch", "liger"] = Field(
        "torch",
        description="liger: norms, rotary embedding and gated MLP by Liger's kernels (GPU, liger-kernel).",
        exclude_if=lambda name: name == "torch",
    )
    rope_length: int | None = Field(
        None,
        ge=2,
        description="Length for which a rotary embedding that depends on the longest sequence (LongRoPE, dynamic NTK) "
        "is set in every micro-batch: engine.max_model_len, for which the server sets it; null: nothing is set.",
        exclude_if=lambda length: length is None,
    )
    beta: float = Field(0.1, gt=0)
    lambda_chosen: float = Field(1.0, gt=0)
    lambda_rejected: float = Field(1.5, gt=0)
    pairs: Literal["batch", "trl", "none"] = Field(
        "batch", description="Mismatched pairs of z0: anew in every batch, as TRL fixes them, or none (z0 = 0)."
    )
    kl_every: int = Field(1, ge=1, description="Estimate z0 at every so many-th step and keep it between.")
    kl_ema: float = Field(0.0, ge=0, lt=1, description="Share of the last z0 in the next.")
    tuning: Literal["lora", "dora", "qlora", "full"] = Field(
        "lora", description="What is trained: an adapter (qlora: on a base in 4 bits, needs bitsandbytes), or all."
    )
    lora: Lora = Lora()
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    workers: Speed[int] = Field(2, ge=1)
    gpu: bool = False
    threads_per_worker: Speed[int] = Field(1, ge=1, description="Torch threads of a CPU worker.")
    zero_stage: Literal[0, 1, 2, 3] = 2
    offload: Literal["none", "optimizer", "all"] = Field(
        "none", description="Keep in the memory of the host: the optimizer (ZeRO 1 to 3), with the parameters (ZeRO 3)."
    )
    gradient_checkpointing: Speed[bool] = Field(
        False, description="Recompute activations in the backward pass: less memory, more time."
    )
    checkpoint_every: Speed[int] = Field(20, ge=1, description="Optimizer steps between checkpoints.")
    log_every: Speed[int] = Field(1, ge=1, description="Optimizer steps between rows of metrics.")
    trackers: Speed[tuple[Literal["tensorboard", "wandb", "mlflow"], ...]] = Field(
        (), description="Where metrics go besides metrics.jsonl."
    )
    max_failures: Speed[int] = Field(3, ge=0)
    resume: Speed[Literal["exact", "adapter"]] = Field(
        "exact", description="adapter: a checkpoint of another number of workers gives its weights, not its optimizer."
    )
    push_to: Speed[str | None] = Field(
        None, description="Repository on the hub, OWNER/NAME, for adapter and card when training ends."
    )
    push_token_env: Speed[str] = Field("HF_TOKEN", description="Environment variable that holds the hub's token.")

    @property
    def attention_used(self) -> str:
        """`attention`, or what `auto` stands for."""
        if self.attention != "auto":
            return self.attention
        return "varlen" if self.gpu and self.dtype == "bfloat16" and self.packing != "off" else "sdpa"

    @property
    def resolved(self) -> Training:
        """These settings with `auto` replaced by what it stands for; `packing` counts by what it makes of attention."""
        return self.model_copy(update={"attention": self.attention_used})

    @model_validator(mode="after")
    def _fits_together(self) -> Training:
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
            raise ValueError("tuning=full trains everything; leave lora.target_modules and its like out")
        if self.lora.target_parameters and (self.lora.dropout or self.tuning == "dora"):
            raise ValueError("lora.target_parameters is for lora.dropout=0 and tuning lora or qlora (PEFT)")
        if self.tuning == "qlora" and self.zero_stage == 3:
            raise ValueError("tuning=qlora needs zero_stage 0, 1 or 2: ZeRO-3 cannot cut a base of 4 bits")
        return self
