"""Short texts become vectors, by vLLM's pooling runner or by sentence-transformers.

Texts enter, float32 rows leave in their order, whatever the engine. A few thousand short texts take a CPU a minute, so
the model runs in this process and only for the length of one call; with a GPU it runs in a task where a GPU is, which
this machine may lack (`embed_where_it_fits`).

Axes: N texts, D dimensions.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from mralign.config import Embedding, Engine, resolve_path
from mralign.run.placement import NodeFault, NotInstalled, Workers, actor_options


def embed(texts: Sequence[str], *, settings: Embedding) -> np.ndarray:
    """float32 (N, D), a row a text.

    Raises ValueError if the engine is not installed, the model cannot be loaded, or a vector is not finite.
    """
    check_embedding(settings)
    asked = [settings.prefix + text for text in texts]
    run = {"vllm": _vllm, "sentence_transformers": _sentence_transformers}[settings.engine]
    vector_ND = np.asarray(run(asked, settings=settings), dtype=np.float32)
    if vector_ND.ndim != 2 or len(vector_ND) != len(asked) or not np.isfinite(vector_ND).all():
        raise ValueError(
            f"discovery.embedding.path={settings.path} gave vectors of shape {vector_ND.shape} for {len(asked)} texts, "
            f"or some that are not finite; try discovery.embedding.dtype=float32 or another model"
        )
    return vector_ND


def embed_where_it_fits(texts: Sequence[str], *, settings: Embedding) -> np.ndarray:
    """`embed` in this process, or with `settings.gpu` in a Ray task that holds a GPU: Ray must then be started."""
    (workers,) = embedding_workers(settings) or (None,)
    if workers is None:
        return embed(texts, settings=settings)
    import ray

    environment = {"env_vars": _environment(settings)}
    task: Any = ray.remote(_embed_remotely).options(**actor_options(workers), runtime_env=environment)
    found: np.ndarray = ray.get(task.remote(list(texts), settings))
    return found


def _embed_remotely(texts: Sequence[str], settings: Embedding) -> np.ndarray:
    return embed(texts, settings=settings)


def embedding_workers(settings: Embedding) -> tuple[Workers, ...]:
    """What embedding takes of the cluster; nothing where it needs no GPU."""
    return (Workers("embedding models", "discovery.embedding.gpu", gpus=1),) if settings.gpu else ()


def embedding_faults(settings: Embedding) -> list[NodeFault]:
    """What a node with a GPU lacks for embedding there."""
    if not settings.gpu:
        return []
    name, _ = _package(settings)
    if find_spec(name) is None:
        return [NodeFault(f"discovery.embedding.engine={settings.engine} is not installed there")]
    if settings.engine == "sentence_transformers":
        import torch

        if not torch.cuda.is_available():
            return [
                NodeFault(f"discovery.embedding.gpu=true, but torch {torch.__version__} finds no CUDA device there")
            ]
    return []


def _package(settings: Embedding) -> tuple[str, str]:
    """The module of the engine, and the extra that brings it."""
    return {"vllm": ("vllm", "gpu"), "sentence_transformers": ("sentence_transformers", "discovery")}[settings.engine]


def check_embedding(settings: Embedding) -> None:
    """Raise ValueError, before anything is loaded, for a path without a model, and NotInstalled for an engine that is
    not installed on this machine although it would run here."""
    _check_path(settings)
    module, extra = _package(settings)
    if find_spec(module) is None and not settings.gpu:
        raise NotInstalled(
            f"discovery.embedding.engine={settings.engine} is not installed: pip install 'mralign[{extra}]', or choose "
            f"the other of vllm and sentence_transformers"
        )


def _check_path(settings: Embedding) -> None:
    path = resolve_path(settings.path)
    if not (Path(path) / "config.json").is_file() and (Path(path).exists() or _looks_local(path)):
        raise ValueError(
            f"discovery.embedding.path={settings.path} holds no config.json, so no model; give a model directory or a "
            f"hub name"
        )


def _looks_local(path: str) -> bool:
    """Whether a path can be no hub name, which is NAME or OWNER/NAME."""
    return path.startswith((".", "/")) or path.count("/") > 1


def _sentence_transformers(texts: Sequence[str], *, settings: Embedding) -> Any:
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = SentenceTransformer(
        resolve_path(settings.path),
        device="cuda" if settings.gpu else "cpu",
        model_kwargs={"dtype": settings.dtype},
    )
    if settings.max_model_len is not None:
        model.max_seq_length = settings.max_model_len
    vectors = model.encode(list(texts), batch_size=settings.batch_size, show_progress_bar=False, convert_to_tensor=True)
    return vectors.float().cpu().numpy()


def _vllm(texts: Sequence[str], *, settings: Embedding) -> Any:
    with mock.patch.dict(os.environ, _environment(settings)):  # of this call alone: a later Ray must find its GPUs
        return _pooled(texts, settings=settings)


def _pooled(texts: Sequence[str], *, settings: Embedding) -> Any:
    from vllm import LLM

    from mralign.serving.vllm import own_format

    path = resolve_path(settings.path)
    llm = LLM(
        model=path,
        **own_format(path),
        runner="pooling",
        dtype=settings.dtype,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.batch_size,
        enforce_eager=True,
        disable_log_stats=True,
        use_tqdm_on_load=False,
    )
    try:
        return [output.outputs.embedding for output in llm.embed(list(texts), use_tqdm=False)]
    finally:
        llm.llm_engine.engine_core.shutdown()


def _environment(settings: Embedding) -> dict[str, str]:
    from mralign.serving.vllm import worker_environment

    return worker_environment(Engine(gpus_per_replica=1 if settings.gpu else 0))
