"""The model of a run and the memory that it takes on a GPU, as lines of the plan.

A configuration enters; the model's number of parameters, what serving and training take on one GPU, and whether that
fits, leave. Which memory a GPU is taken to have is said with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mralign.config import Engine, Model, RunConfig, Training
from mralign.plan import memory
from mralign.plan.gpus import memory_gib
from mralign.plan.memory import GIB, Shape, shape_of
from mralign.plan.model_config import known_config
from mralign.plan.node_memory import memory_verdict
from mralign.plan.placing import Planned
from mralign.training.modules import count_parameters, of_run


@dataclass(frozen=True)
class KnownModel:
    """The model of the run, as far as its configuration is known."""

    model: Model
    parameters: int | None = None
    shape: Shape | None = None
    unknown: str = ""  # why nothing is known


def model_of(config: RunConfig) -> KnownModel:
    """What is known of the model of the run."""
    found, why = known_config(config.model)
    if found is None:
        return KnownModel(config.model, unknown=why)
    try:
        trained = of_run(config) if config.trains else None
        whole = trained.model if trained else count_parameters(found, trust_remote_code=config.model.trust_remote_code)
    except (ValueError, OSError, ImportError) as error:  # the checks of the plan say it as well
        return KnownModel(config.model, unknown=str(error))
    shape = shape_of(found, parameters=whole, trained=trained.parameters if trained else 0)
    return KnownModel(config.model, whole, shape)


def lines(config: RunConfig, known: KnownModel, *, planned: Sequence[Planned]) -> list[str]:
    """The models, and what they take of a GPU where stages that use them are left."""
    todo = {item.stage.name for item in planned if item.manifest is None and item.stage.workers(config)}
    others = _others(config, asked=any(name.startswith(_ASKING) for name in todo))
    if known.shape is None:
        return [_head(known), *others]
    told = [_head(known)]
    if todo & {"rollouts", "responses_base", "responses"}:
        told.append(_serving(config, "", known.shape, model=config.model, engine=config.engine))
    if "training" in todo:
        told.append(_training(config, known.shape))
    return told + others


_ASKING = ("annotation", "thoughts_annotation", "judgements")  # beginnings of stages that ask other models


def _head(known: KnownModel) -> str:
    if known.parameters is None:
        return f"model: size unknown ({known.unknown})"
    dtype = known.model.dtype
    size = _bytes(known.parameters * memory.ITEM[dtype])
    head = f"model: {known.model.path}, {_count(known.parameters)} parameters, {size} of weights in {dtype}"
    return head if known.shape is not None else f"{head}; its memory is unknown for a model of this kind"


def _others(config: RunConfig, *, asked: bool) -> list[str]:
    """What annotators and judges take that bring models of their own, each model and engine once."""
    judges = (config.evaluation.judge, config.evaluation.extractor, config.evaluation.verifier)
    found: dict[str, str] = {}
    for one in (*config.annotation.annotators, config.annotation.adjudicator, *judges):
        if not asked or one is None or one.engine != "vllm" or one.model is None:
            continue
        engine = one.serving or config.engine
        key = f"{one.model.model_dump_json()} {engine.model_dump_json()}"
        found.setdefault(key, _other(config, one.name, model=one.model, engine=engine))
    return list(found.values())


def _other(config: RunConfig, name: str, *, model: Model, engine: Engine) -> str:
    known, why = known_config(model)
    if known is None:
        return f"serving of {name!r}: size unknown ({why})"
    parameters = count_parameters(known, trust_remote_code=model.trust_remote_code)
    shape = shape_of(known, parameters=parameters, trained=0)
    if shape is None:
        return f"serving of {name!r}: its memory is unknown for a model of this kind"
    return _serving(config, f" of {name!r}", shape, model=model, engine=engine)


def _serving(config: RunConfig, whose: str, shape: Shape, *, model: Model, engine: Engine) -> str:
    held = memory.weights(shape, dtype=model.dtype, engine=engine)
    sequence = memory.cache_of_a_token(shape, dtype=model.dtype, engine=engine) * engine.max_model_len
    needs = (
        f"{_bytes(held)} of weights, {_bytes(sequence)} of key-value cache for one sequence of "
        f"{engine.max_model_len:,} tokens, {_bytes(sequence * engine.max_num_seqs)} for {engine.max_num_seqs} of them"
    )
    if not engine.gpus_per_replica:
        verdict = _verdict(float(engine.cpu_kv_cache_gib * GIB), sequence, engine.max_num_seqs)
        whole = shape.parameters * memory.ITEM[model.dtype] + engine.cpu_kv_cache_gib * GIB
        fits = memory_verdict(whole, workers=engine.min_replicas)
        return f"serving{whose}, on a CPU: {needs}; engine.cpu_kv_cache_gib gives the cache {verdict}; {fits}"
    size, source = memory_gib(config)
    room = size * GIB * engine.gpu_memory_utilization * min(1.0, engine.gpus_per_replica) - held
    return (
        f"serving{whose}, per GPU of {size:.0f} GiB ({source}): {needs}; engine.gpu_memory_utilization="
        f"{engine.gpu_memory_utilization:g} leaves the cache {_verdict(room, sequence, engine.max_num_seqs)}"
    )


def _verdict(room: float, sequence: float, most: int) -> str:
    """Whether the cache holds one sequence, without which an engine does not start, and how many at once."""
    if room < sequence:
        return (
            f"{_bytes(max(room, 0))}: does NOT fit. Give more GPUs to an engine (engine.tensor_parallel), or a smaller "
            f"engine.max_model_len"
        )
    together = int(room // sequence)
    if together >= most:
        return f"{_bytes(room)}: fits"
    return f"{_bytes(room)}: fits, {together} of full length at once, the others wait"


def _training(config: RunConfig, shape: Shape) -> str:
    settings = least(config.training)
    need = memory.training(shape, settings, longest=config.examples.max_length)
    tokens = max(settings.tokens_used, config.examples.max_length)
    workers = f"{settings.workers} workers"
    if settings.fewest_workers < settings.workers:
        workers = f"{settings.fewest_workers} of {workers}, the fewest (training.min_workers)"
    said = f"{need}; a micro-batch of {tokens:,} tokens, ZeRO-{settings.zero_stage} over {workers}"
    if settings.memory is not None:
        said += f", the least of what training.memory={settings.memory} chooses from"
    given = settings.memory_bytes
    if given is not None and need.total > given:
        return (
            f"training, per worker: {said}: does NOT fit. Raise training.memory, or give a smaller "
            "examples.max_length, training.zero_stage=3, or tuning=qlora"
        )
    if not settings.gpu:
        return f"training, per worker on a CPU: {said}; {memory_verdict(need.total, workers=settings.workers)}"
    size, source = memory_gib(config)
    head = f"training, per GPU of {size:.0f} GiB ({source}): {said}"
    if need.total <= size * GIB:
        return f"{head}: fits"
    if settings.memory is not None:
        return f"{head}: does NOT fit. Give a smaller examples.max_length, training.zero_stage=3, or tuning=qlora"
    return (
        f"{head}: does NOT fit. Give training.gradient_checkpointing=true, a smaller training.micro_batch_tokens (and "
        f"examples.max_length), or tuning=qlora"
    )


def least(settings: Training) -> Training:
    """The settings with what takes the least memory, where `training.memory` leaves it open."""
    if settings.memory is None:
        return settings
    open_fields = {"micro_batch_tokens": 1, "gradient_checkpointing": True}
    return settings.model_copy(update={n: v for n, v in open_fields.items() if getattr(settings, n) is None})


def _count(number: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(number)


def _bytes(size: float) -> str:
    return f"{size / GIB:,.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:,.1f} MiB"
