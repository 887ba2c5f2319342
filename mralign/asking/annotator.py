"""An annotator of the configuration, resolved once: which model, served where, asked how, its replies kept where.

An `Annotator` section enters; a `ResolvedAnnotator` leaves, in which nothing is null any more. Those that name the same
engine or endpoint share it. Whoever asks checks all of them before anything starts.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeVar

from mralign.config import Annotator, Decoding, Engine, Http, Model, RunConfig, ThinkMode, counted, resolve_path
from mralign.run.digests import digest
from mralign.run.store import absolute, fingerprint
from mralign.serving.chat_completions import Structured, chat_payload
from mralign.serving.completions import amend
from mralign.serving.conversation import ChatRequest, Message
from mralign.serving.endpoint import check_settings
from mralign.serving.requests import check_served, family_of, row_seed

Role = TypeVar("Role", bound=str)


@dataclass(frozen=True)
class ResolvedAnnotator:
    """An annotator of the configuration with everything filled in. `http` None: a vLLM engine of ours serves it."""

    name: str
    model: Model
    serving: Engine
    http: Http | None
    mode: ThinkMode
    decoding: Decoding
    structured: Structured
    seed: int  # of its own, as two annotators may be one model; every row draws from a seed made of it
    model_digest: str  # of the settings and files of a model of ours; empty for an endpoint
    cache: str  # the directory of the run in which its replies are kept

    @property
    def engine_key(self) -> str:
        """Equal for annotators that share an engine or an endpoint."""
        parts = [self.http] if self.http else [self.model, self.serving]
        return json.dumps([part.model_dump(mode="json") for part in parts], sort_keys=True)


def resolve(annotator: Annotator, *, config: RunConfig) -> ResolvedAnnotator:
    """Fill in an annotator with engine vllm or http: what is null there is the run's own."""
    assert annotator.is_chat
    model = annotator.model or config.model
    http = (annotator.http or config.http) if annotator.engine == "http" else None
    model_digest = "" if http else _digest(model)
    return ResolvedAnnotator(
        name=annotator.name,
        model=model,
        serving=annotator.serving or config.engine,
        http=http,
        mode=annotator.mode or (ThinkMode() if http else _silent(model)),
        decoding=annotator.decoding,
        structured=annotator.structured,
        seed=row_seed(config.run.seed, annotator.name),
        model_digest=model_digest,
        cache=f"{absolute(config.run.dir)}/{_cache_name(annotator.http, model_digest=model_digest)}",
    )


def _digest(model: Model) -> str:
    """A name for the settings and the files of a model."""
    files = {name: digest(resolve_path(path)) for name, path in model.inputs().items()}
    return fingerprint(stage="annotator", version=1, config=counted({"model": model}), upstream={}, inputs=files)


def _cache_name(own: Http | None, *, model_digest: str) -> str:
    """`responses` for the section `http` of the run, and a directory of its own for every model of ours and for every
    endpoint that an annotator names itself. The name does not hold what a user tunes: budget, prices, concurrency."""
    if own is None:
        return f"responses-{model_digest}" if model_digest else "responses"
    what = [own.base_url, own.model, own.key_env]
    return f"responses-{fingerprint(stage='endpoint', version=1, config=what, upstream={}, inputs={})}"


def _silent(model: Model) -> ThinkMode:
    """Thinking off where the family is known; else the chat as it is. A schema leaves no room for a thought."""
    try:
        off = family_of(model, path=resolve_path(model.path)).off
    except ValueError:
        return ThinkMode()
    return off if off.prompt == ThinkMode().prompt else ThinkMode()  # a prompt of its own asks for an answer


def check_annotator(annotator: ResolvedAnnotator) -> None:
    """Raise ValueError for an annotator that could never be asked, before anything starts."""
    if annotator.http is None:
        _check_rendering(annotator, tokenizer=check_served(annotator.model))
        return
    check_settings(annotator.http)
    if annotator.mode.prefill:
        raise ValueError(f"annotator {annotator.name!r}: an endpoint cannot be given a prefill; set mode.prefill to ''")
    payload_of(annotator, ChatRequest("", (Message("user", "?"),)))


def _check_rendering(annotator: ResolvedAnnotator, *, tokenizer: Any) -> None:
    """Raise ValueError if the chat template takes no message as the annotator is asked (None: it lies elsewhere)."""
    from jinja2 import TemplateError

    if tokenizer is None:
        return
    turns = [{"role": "user", "content": "?"}]
    options = annotator.mode.template
    try:
        tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False, **options)
    except TemplateError as error:
        raise ValueError(
            f"the chat template of {annotator.model.path} refuses how {annotator.name!r} is asked: {error}; "
            f"see its mode"
        ) from None


def check_budgets(annotators: Collection[ResolvedAnnotator]) -> None:
    """Raise ValueError where two annotators would count the money of one endpoint apart from each other."""
    for one, other in combinations((a for a in annotators if a.http is not None), 2):
        if one.cache == other.cache and one.http != other.http:
            raise ValueError(
                f"annotators {one.name!r} and {other.name!r} ask one model of one endpoint by http sections that "
                f"differ; make them equal: they share a purse"
            )


def by_engine(annotators: Mapping[Role, ResolvedAnnotator]) -> list[dict[Role, ResolvedAnnotator]]:
    """The annotators by role, in one dictionary for each engine or endpoint that some of them share."""
    groups: dict[str, dict[Role, ResolvedAnnotator]] = {}
    for role, annotator in annotators.items():
        groups.setdefault(annotator.engine_key, {})[role] = annotator
    return list(groups.values())


def payload_of(annotator: ResolvedAnnotator, request: ChatRequest) -> dict[str, Any]:
    """The JSON body of a request, as an OpenAI-compatible endpoint takes it."""
    http = annotator.http
    payload = chat_payload(
        request,
        model=(http.model if http else None) or annotator.model.path,
        decoding=annotator.decoding,
        mode=annotator.mode,
        structured=annotator.structured,
        vllm_extras=http.vllm_extras if http else True,
        seed=row_seed(annotator.seed, request.key_id),
    )
    return amend(payload, changes=http.request) if http else payload
