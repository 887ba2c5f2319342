"""The DeepSpeed engine around a policy.

Settings and a policy enter; an engine leaves whose micro-batches, gradient scale and learning rate are driven by the
loop (`loop.py`). DeepSpeed is imported here, after the process was told what it runs on.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from mralign.config import Model, Training
from mralign.training.guards import TrainingStopped
from mralign.training.logprobs import TokenLogProbs

GROWING = "expandable_segments:True"
_BUCKET = 500_000_000  # numbers, DeepSpeed's own size
_BUCKETS = 8  # that are sent one after another in a backward pass


@dataclass(frozen=True)
class World:
    """This worker's place."""

    rank: int = 0
    size: int = 1


def prepare_process(settings: Training) -> None:
    """Environment of a worker process; must run before DeepSpeed is imported.

    Raises TrainingStopped where the settings want a GPU and torch finds none.
    """
    os.environ["DS_ACCELERATOR"] = "cuda" if settings.gpu else "cpu"
    if settings.gpu:
        missing = missing_device(settings)
        if missing:
            raise TrainingStopped(missing)
        _let_segments_grow()
        return
    torch.set_num_threads(settings.threads_per_worker)
    _keep_freed_memory()


def _let_segments_grow() -> None:
    """Ask torch's allocator for segments that grow: sequences of many lengths leave gaps in segments of fixed sizes.
    Nothing is asked where the user has configured it."""
    if any(name in os.environ for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")):
        return
    os.environ["PYTORCH_ALLOC_CONF"] = GROWING  # for what this process starts
    torch._C._accelerator_setAllocatorSettings(GROWING)  # the variable may have been read already


def missing_device(settings: Training) -> str | None:
    """What to tell the user where `training.gpu` wants a GPU that torch does not find in this process."""
    if not settings.gpu or torch.cuda.is_available():
        return None
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
    return (
        f"training.gpu=true, but torch {torch.__version__} finds no CUDA device (CUDA_VISIBLE_DEVICES: {seen!r}); "
        f"install the CUDA build of torch and check nvidia-smi, or train on CPUs with training.gpu=false"
    )


def _keep_freed_memory() -> None:
    """Ask glibc to keep what large tensors leave instead of giving every one back: else each new activation is paid for
    by page faults (a tenth of a training's time on two cores). Other C libraries are left alone."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_mmap_max, m_trim_threshold, m_top_pad = -4, -1, -2  # malloc.h
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_top_pad, 64 * 2**20)


def deepspeed_config(settings: Training, *, rate: float, world: World) -> dict[str, Any]:
    """DeepSpeed's configuration. The batch sizes in it are formal: the loop says where an optimizer step ends."""
    zero: dict[str, Any] = {"stage": settings.zero_stage}
    if settings.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": settings.gpu}
    if settings.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": settings.gpu}
    return {
        "train_batch_size": world.size,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "optimizer": {
            "type": "AdamW",
            "params": {"lr": rate, "weight_decay": settings.weight_decay, "torch_adam": True},  # nothing to compile
        },
        "gradient_clipping": settings.max_grad_norm,
        "zero_optimization": zero,
        "bf16": {"enabled": settings.dtype == "bfloat16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


def start_engine(policy: TokenLogProbs, settings: Training, *, rate: float, world: World) -> Any:
    """The engine. The process group must exist or be described by the environment."""
    import deepspeed

    _join_ranks(settings)
    trainable = [p for p in policy.parameters() if p.requires_grad]
    config = deepspeed_config(settings, rate=rate, world=world)
    sizes = [getattr(p, "ds_numel", p.numel()) for p in trainable]
    config["zero_optimization"] |= gradient_buckets(sizes, zero_stage=settings.zero_stage, workers=world.size)
    engine, *_ = deepspeed.initialize(model=policy, model_parameters=trainable, config=config)
    return engine


def gradient_buckets(sizes: Sequence[int], *, zero_stage: int, workers: int) -> dict[str, Any]:
    """How ZeRO collects gradients to be summed over workers; `sizes`: numbers in each trained parameter.

    A bucket is allocated whole, and is of no use beyond what is trained: DeepSpeed's own, of 5e8 numbers, would take
    nearly a GiB beside an adapter. Several workers under ZeRO 2 send a bucket while the backward pass fills the next.
    """
    whole = min(_BUCKET, sum(sizes))
    if zero_stage != 2 or workers == 1:
        return {"reduce_bucket_size": whole}
    return {"reduce_bucket_size": max(whole // _BUCKETS, *sizes), "overlap_comm": True}


@contextmanager
def cut_while_loading(model: Model, settings: Training, *, rate: float, world: World) -> Iterator[None]:
    """A context in which transformers cuts parameters among the ranks as it loads them, where ZeRO-3 trains: no GPU
    ever holds the whole model. Call on all ranks.

    What computes with whole weights before the training (a merge, DoRA's norms) or copies them gets them whole.
    """
    copied = settings.lora.target_parameters or settings.lora.modules_to_save
    plain = settings.tuning in ("lora", "full") and not model.adapter and not copied
    if settings.zero_stage < 3 or not plain:
        yield
        return
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    _join_ranks(settings)
    # transformers keeps a weak reference to it, and asks for it while it loads
    asked = HfDeepSpeedConfig(deepspeed_config(settings, rate=rate, world=world))
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del asked


def _join_ranks(settings: Training) -> None:
    """Make the process group, from the environment if there is none."""
    import deepspeed

    # Else DeepSpeed compiles its shared-memory all-reduce when a CPU worker starts, which needs a compiler and a while.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    _import_muon()
    deepspeed.init_distributed("nccl" if settings.gpu else "gloo", verbose=False)


def _import_muon() -> None:
    """DeepSpeed imports Muon to compare optimizers by type, which decorates three functions with torch.compile and so
    loads Inductor: over a second for every worker, and nothing here uses it. Imported first, undecorated."""
    with mock.patch.dict(os.environ, TORCHDYNAMO_DISABLE="1"):
        import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401


def gathered(policy: TokenLogProbs, *, trainable: bool = True) -> Any:
    """A context in which the trainable (or all) parameters are whole on every rank, whatever ZeRO has cut."""
    import deepspeed

    chosen = [p for p in policy.parameters() if p.requires_grad or not trainable]
    return deepspeed.zero.GatheredParameters(chosen, enabled=policy.sharded)


def all_sum(values: Tensor) -> Tensor:
    """Sum over ranks."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        moved = values.cuda() if torch.distributed.get_backend() == "nccl" else values
        torch.distributed.all_reduce(moved)
        return moved.cpu()
    return values


def all_gather(value: Any) -> list[Any]:
    """The small Python values of all ranks, by rank."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        values: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(values, value)
        return values
    return [value]


def grad_norm(engine: Any) -> float | None:
    """The norm before clipping; DeepSpeed's plain float32 engine (ZeRO 0) does not tell it."""
    norm = engine.get_global_grad_norm()
    return None if norm is None else float(norm)


def parameter_sum(policy: TokenLogProbs) -> float:
    """A number that changes when any trainable parameter moves: the sum over ranks of what this rank holds, fp64."""
    total = 0.0
    for place, parameter in enumerate(p for p in policy.parameters() if p.requires_grad):
        held = getattr(parameter, "ds_tensor", parameter).detach().double()  # ZeRO-3: this rank's piece
        total += float((held.abs() * (1 + place % 7)).sum())
    return float(all_sum(torch.tensor([total], dtype=torch.float64)))
