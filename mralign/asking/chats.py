"""Chat models that are asked for JSON: vLLM in this process, or an endpoint, behind one interface.

A `Speaker` (an annotator of the configuration with everything filled in) enters; a `Chat` leaves. Speakers that name
the same engine share it: one vLLM engine with one prefix cache, one endpoint with one purse. Every reply is kept in the
run directory before anybody sees it, whoever made it, under a key of all that could change it: nothing is asked twice,
and a changed instruction asks again for just what it changes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, cast
from weakref import WeakValueDictionary

from mralign.chat.model_files import load_tokenizer, model_path
from mralign.chat.prompts import control_tokens
from mralign.config import Annotator, Decoding, Engine, Http, Model, RunConfig, ThinkMode, counted, resolve_path
from mralign.run.placement import Fault, Workers, actor_options
from mralign.run.store import Directory, absolute, digest, fingerprint
from mralign.serving.calls import Call, Failure
from mralign.serving.chat_completions import Structured, chat_payload, read_chat, reply_body, say
from mralign.serving.completions import amend
from mralign.serving.conversation import Chat, ChatReply, ChatRequest, Message
from mralign.serving.endpoint import Endpoint, check_settings
from mralign.serving.requests import check_served, family_of, row_seed
from mralign.serving.response_cache import Entry, ResponseCache, call_key

Locks = WeakValueDictionary[str, asyncio.Lock]  # by key: equal requests wait for the first of them


@dataclass(frozen=True)
class Speaker:
    """How one model is asked. `http` None: a vLLM engine of ours. `mark` stands for the files of the model."""

    name: str
    model: Model
    serving: Engine
    http: Http | None
    mode: ThinkMode
    decoding: Decoding
    structured: Structured
    seed: int  # of its own, as two annotators may be one model; every row draws from a seed made of it
    mark: str
    cache: str

    @property
    def engine_key(self) -> str:
        """Equal for speakers that share an engine or an endpoint."""
        parts = [self.http] if self.http else [self.model, self.serving]
        return json.dumps([part.model_dump(mode="json") for part in parts], sort_keys=True)


def speaker_of(annotator: Annotator, *, config: RunConfig) -> Speaker:
    """The speaker of an annotator with engine vllm or http: what is null there is the run's own."""
    assert annotator.engine != "cues"
    model, http = annotator.model or config.model, None
    if annotator.engine == "http":
        http, mark = annotator.http or config.http, ""
    else:
        mark = fingerprint(
            stage="speaker",
            version=1,
            config=counted({"model": model}),
            upstream={},
            inputs={name: digest(resolve_path(path)) for name, path in model.inputs().items()},
        )
    return Speaker(
        name=annotator.name,
        model=model,
        serving=annotator.serving or config.engine,
        http=http,
        mode=annotator.mode or (ThinkMode() if http else _silent(model)),
        decoding=annotator.decoding,
        structured=annotator.structured,
        seed=row_seed(config.run.seed, annotator.name),
        mark=mark,
        cache=f"{absolute(config.run.dir)}/{_cache_name(annotator.http, mark=mark)}",
    )


def _cache_name(own: Http | None, *, mark: str) -> str:
    """`responses` for the section `http` of the run; a directory for every model of ours (`mark`) and every endpoint
    that an annotator names itself. Its name does not hold what a user tunes: budget, prices, concurrency."""
    if own is None:
        return f"responses-{mark}" if mark else "responses"
    what = [own.base_url, own.model, own.key_env]
    return f"responses-{fingerprint(stage='endpoint', version=1, config=what, upstream={}, inputs={})}"


def _silent(model: Model) -> ThinkMode:
    """Thinking off where the family is known; else the chat as it is. A schema leaves no room for a thought."""
    try:
        off = family_of(model, path=resolve_path(model.path)).off
    except ValueError:
        return ThinkMode()
    return off if off.prompt == ThinkMode().prompt else ThinkMode()  # a prompt of its own asks for an answer


def check_speaker(speaker: Speaker) -> None:
    """Raise ValueError for a speaker that could never be asked, before anything starts."""
    if speaker.http is None:
        _check_rendering(speaker, tokenizer=check_served(speaker.model))
        return
    check_settings(speaker.http)
    if speaker.mode.prefill:
        raise ValueError(f"annotator {speaker.name!r}: an endpoint cannot be given a prefill; set mode.prefill to ''")
    _payload(speaker, ChatRequest("", (Message("user", "?"),)))


def _check_rendering(speaker: Speaker, *, tokenizer: Any) -> None:
    """Raise ValueError if the chat template takes no message as the speaker is asked (None: it lies elsewhere)."""
    from jinja2 import TemplateError

    if tokenizer is None:
        return
    turns = [{"role": "user", "content": "?"}]
    options = speaker.mode.template
    try:
        tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False, **options)
    except TemplateError as error:
        raise ValueError(
            f"the chat template of {speaker.model.path} refuses how {speaker.name!r} is asked: {error}; see its mode"
        ) from None


def check_purses(speakers: Collection[Speaker]) -> None:
    """Raise ValueError where two speakers would count the money of one endpoint apart from each other."""
    for one, other in combinations((s for s in speakers if s.http is not None), 2):
        if one.cache == other.cache and one.http != other.http:
            raise ValueError(
                f"annotators {one.name!r} and {other.name!r} ask one model of one endpoint by http sections that "
                f"differ; make them equal: they share a purse"
            )


def _payload(speaker: Speaker, request: ChatRequest) -> dict[str, Any]:
    http = speaker.http
    payload = chat_payload(
        request,
        model=(http.model if http else None) or speaker.model.path,
        decoding=speaker.decoding,
        mode=speaker.mode,
        structured=speaker.structured,
        vllm_extras=http.vllm_extras if http else True,
        seed=row_seed(speaker.seed, request.key_id),
    )
    return amend(payload, changes=http.request) if http else payload


class EndpointChat:
    """A speaker behind an endpoint; the endpoint, its cache and its purse may serve others as well."""

    def __init__(self, speaker: Speaker, *, endpoint: Endpoint) -> None:
        self.speaker, self.endpoint = speaker, endpoint

    async def reply(self, request: ChatRequest) -> ChatReply | Failure:
        """The reply, or why there is none. Raises calls.Stopped where nothing may be sent any more."""
        call = Call(request.key_id, "/chat/completions", _payload(self.speaker, request))
        answer = await self.endpoint.complete(call)
        return answer if isinstance(answer, Failure) else read_chat(answer.body, cached=answer.cached)


class EngineChat:
    """A speaker that a vLLM engine in this process serves."""

    def __init__(self, speaker: Speaker, *, engine: Any, tokenizer: Any, locks: Locks | None = None) -> None:
        self.speaker, self.engine, self.tokenizer = speaker, engine, tokenizer
        self.locks: Locks = WeakValueDictionary() if locks is None else locks
        self.cache = ResponseCache(Directory(speaker.cache))
        self.special = sorted(control_tokens(tokenizer))
        self.takes_system = _takes_system(tokenizer, mode=speaker.mode)

    async def reply(self, request: ChatRequest) -> ChatReply | Failure:
        """The reply, or why there is none: control_tokens, prompt_too_long, engine_error."""
        held = {"prefill": self.speaker.mode.prefill, "max_model_len": self.speaker.serving.max_model_len}
        call = Call(request.key_id, "/chat/completions", _payload(self.speaker, request) | held)
        key = call_key(call, base_url=f"vllm:{self.speaker.mark}")
        async with self.locks.setdefault(key, asyncio.Lock()):
            entry = await asyncio.to_thread(self.cache.read, key)
            if entry is not None:
                return read_chat(entry.body, cached=True)
            answer = await self._ask(request)
            if isinstance(answer, ChatReply):
                tokens = answer.prompt_tokens, answer.completion_tokens
                entry = Entry(key, request.key_id, "0", *tokens, reply_body(answer))
                await asyncio.to_thread(self.cache.write, entry)
            return answer

    async def _ask(self, request: ChatRequest) -> ChatReply | Failure:
        marks = [m for m in self.special if m.strip() and any(m in message.content for message in request.messages)]
        if marks:
            return Failure("control_tokens", f"the text holds {', '.join(marks)}, which would steer the chat")
        prompt_ids = await asyncio.to_thread(self.render, request)
        room = self.speaker.serving.max_model_len - len(prompt_ids)
        if room < 1:
            detail = f"{len(prompt_ids)} tokens, model length {self.speaker.serving.max_model_len}"
            return Failure("prompt_too_long", detail)
        work = (prompt_ids, self.parameters(request, room=room))
        (output,) = await asyncio.wrap_future(self.engine.submit([work]))
        if isinstance(output, BaseException):
            return Failure("engine_error", f"{output!r:.500}")
        done = output.outputs[0]
        return ChatReply(
            text=done.text,
            finish_reason=str(done.finish_reason),
            prompt_tokens=len(prompt_ids),
            completion_tokens=len(done.token_ids),
            prefix_tokens=output.num_cached_tokens or 0,
        )

    def render(self, request: ChatRequest) -> list[int]:
        """The token ids of the prompt."""
        turns = [asdict(message) for message in say(request.messages, mode=self.speaker.mode)]
        if turns[0]["role"] == "system" and not self.takes_system:
            turns[1]["content"] = f"{turns[0]['content']}\n\n{turns[1]['content']}"
            turns = turns[1:]
        options = self.speaker.mode.template
        text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False, **options)
        prefill, opening = self.speaker.mode.prefill, self.speaker.model.thought_tags[0]
        if text.rstrip().endswith(opening) and prefill.startswith(opening):  # the template has opened it
            text = text.rstrip().removesuffix(opening)
        ids: list[int] = self.tokenizer(text + prefill, add_special_tokens=False)["input_ids"]
        return ids

    def parameters(self, request: ChatRequest, *, room: int) -> Any:
        """vLLM's sampling parameters of a request whose prompt leaves `room` tokens."""
        from mralign.serving.vllm import sampling_parameters

        schema = request.schema if self.speaker.structured != "none" else None
        return sampling_parameters(
            self.speaker.decoding,
            max_tokens=min(self.speaker.decoding.max_tokens, room),
            seed=row_seed(self.speaker.seed, request.key_id),
            schema=schema,
            any_object=self.speaker.structured == "json_object",
        )


def _takes_system(tokenizer: Any, *, mode: ThinkMode) -> bool:
    """Whether the chat template knows a system message; some refuse it, and the text goes before the user's then."""
    from jinja2 import TemplateError

    turns = [{"role": "system", "content": "mralign asks"}, {"role": "user", "content": "?"}]
    try:
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False, **mode.template)
    except TemplateError:
        return False
    return "mralign asks" in text


class ChatHouse:
    """One engine (or endpoint) in this process, and the chats of the speakers that share it."""

    def __init__(self, speaker: Speaker) -> None:
        self.endpoint: Endpoint | None = None
        self.locks: Locks = WeakValueDictionary()
        if speaker.http is not None:
            self.endpoint = Endpoint(speaker.http, cache=Directory(speaker.cache))
            return
        from mralign.serving.vllm import start_engine

        path = model_path(speaker.model)
        self.tokenizer = load_tokenizer(path, model=speaker.model)
        self.engine = start_engine(path, model=speaker.model, engine=speaker.serving)

    def chat(self, speaker: Speaker) -> Chat:
        """The chat of a speaker whose `engine_key` is that of this house."""
        if self.endpoint is not None:
            return EndpointChat(speaker, endpoint=self.endpoint)
        return EngineChat(speaker, engine=self.engine, tokenizer=self.tokenizer, locks=self.locks)


class ChatActor:
    """A Ray actor: speakers whose one engine lives in the actor."""

    def __init__(self, speakers: Sequence[Speaker]) -> None:
        house = ChatHouse(speakers[0])
        self.chats = [house.chat(speaker) for speaker in speakers]

    async def reply(self, number: int, request: ChatRequest) -> ChatReply | Failure:
        """What the speaker of that number says."""
        return await self.chats[number].reply(request)


class _RemoteChat:
    def __init__(self, actor: Any, *, number: int) -> None:
        self.actor, self.number = actor, number

    async def reply(self, request: ChatRequest) -> ChatReply | Failure:
        answer: ChatReply | Failure = await self.actor.reply.remote(self.number, request)
        return answer


@asynccontextmanager
async def open_chat(annotator: Annotator, *, config: RunConfig) -> AsyncIterator[Chat]:
    """A chat for a driver that asks a few thousand things; see `open_chats`."""
    async with open_chats({annotator.name: annotator}, config=config) as chats:
        yield chats[annotator.name]


@asynccontextmanager
async def open_chats(annotators: Mapping[str, Annotator], *, config: RunConfig) -> AsyncIterator[dict[str, Chat]]:
    """Chats by role for a driver that asks: endpoints from here, vLLM in Ray actors; those of one engine share it.

    Ray must have been started for a vLLM annotator. For a whole corpus stream through Ray Data instead (annotation).
    """
    speakers = {role: speaker_of(annotator, config=config) for role, annotator in annotators.items()}
    for speaker in speakers.values():
        check_speaker(speaker)
    check_purses(speakers.values())
    chats: dict[str, Chat] = {}
    async with AsyncExitStack() as stack:
        for key in dict.fromkeys(speaker.engine_key for speaker in speakers.values()):
            sharing = {role: speaker for role, speaker in speakers.items() if speaker.engine_key == key}
            first = next(iter(sharing.values()))
            if first.http is not None:
                endpoint = await stack.enter_async_context(Endpoint(first.http, cache=Directory(first.cache)))
                chats |= {role: EndpointChat(speaker, endpoint=endpoint) for role, speaker in sharing.items()}
                continue
            actor = _start_actor(list(sharing.values()), stack=stack)
            chats |= {role: _RemoteChat(actor, number=number) for number, role in enumerate(sharing)}
        yield chats


def chat_workers(speaker: Speaker) -> Workers:
    """What the one actor of a speaker's engine takes of the cluster, where a driver asks."""
    return Workers(
        f"engine of {speaker.name!r}",
        "gpus_per_replica of its `serving`, else of engine",
        cpus=speaker.serving.cpus_per_replica,
        gpus=speaker.serving.gpus_per_replica,
    )


def asking_workers(annotators: Iterable[Annotator], *, config: RunConfig) -> list[Workers]:
    """What `open_chats` takes of the cluster: a worker for every engine of ours, however many share it."""
    speakers = [speaker_of(annotator, config=config) for annotator in annotators if annotator.engine == "vllm"]
    by_engine = {speaker.engine_key: speaker for speaker in speakers}
    return [chat_workers(speaker) for speaker in by_engine.values()]


def asking_faults(annotators: Iterable[Annotator], *, config: RunConfig) -> list[Fault]:
    """What a node lacks for the engines of these annotators."""
    from mralign.serving.vllm import engine_faults

    servings = [annotator.serving or config.engine for annotator in annotators if annotator.engine == "vllm"]
    return list(dict.fromkeys(fault for serving in servings for fault in engine_faults(serving)))


def _start_actor(speakers: Sequence[Speaker], *, stack: AsyncExitStack) -> Any:
    """A `ChatActor` that is killed when the stack is left."""
    import ray

    from mralign.serving.vllm import worker_environment

    serving, kind = speakers[0].serving, ray.remote(ChatActor)
    actor = (
        cast(Any, kind)
        .options(
            **actor_options(chat_workers(speakers[0])),
            max_restarts=3,
            max_task_retries=3,
            max_concurrency=4 * serving.max_num_seqs,
            runtime_env={"env_vars": worker_environment(serving)},
        )
        .remote(speakers)
    )
    stack.callback(ray.kill, actor)
    return actor
