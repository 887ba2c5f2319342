"""Chat models that are asked for JSON: vLLM in this process, or an endpoint, behind one interface.

A `ResolvedAnnotator` enters; a `Chat` leaves. Annotators that name the same engine share it: one vLLM engine with one
prefix cache, one endpoint with one budget. Every reply is kept in the run directory before anybody sees it, whoever
made it, under a key of all that could change it: nothing is asked twice, and a changed instruction asks again for just
what it changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from typing import Any, cast
from weakref import WeakValueDictionary

from mralign.asking.annotator import (
    ResolvedAnnotator,
    by_engine,
    check_annotator,
    check_budgets,
    payload_of,
    resolve,
)
from mralign.chat.model_files import load_tokenizer, model_path
from mralign.chat.prompts import control_tokens
from mralign.config import Annotator, RunConfig, ThinkMode
from mralign.run.placement import NodeFault, Workers, actor_options
from mralign.run.store import Directory
from mralign.serving.calls import Call, Failure
from mralign.serving.chat_completions import read_chat, reply_body, say
from mralign.serving.conversation import Chat, ChatReply, ChatRequest
from mralign.serving.endpoint import Endpoint
from mralign.serving.requests import row_seed
from mralign.serving.response_cache import Entry, ResponseCache, call_key

Locks = WeakValueDictionary[str, asyncio.Lock]  # by key: equal requests wait for the first of them


class EndpointChat:
    """An annotator behind an endpoint; the endpoint, its cache and its budget may serve others as well."""

    def __init__(self, annotator: ResolvedAnnotator, *, endpoint: Endpoint) -> None:
        self.annotator, self.endpoint = annotator, endpoint

    async def reply(self, request: ChatRequest) -> ChatReply | Failure:
        """The reply, or why there is none. Raises calls.Stopped where nothing may be sent any more."""
        call = Call(request.key_id, "/chat/completions", payload_of(self.annotator, request))
        answer = await self.endpoint.complete(call)
        return answer if isinstance(answer, Failure) else read_chat(answer.body, cached=answer.cached)


class EngineChat:
    """An annotator that a vLLM engine in this process serves."""

    def __init__(
        self, annotator: ResolvedAnnotator, *, engine: Any, tokenizer: Any, locks: Locks | None = None
    ) -> None:
        self.annotator, self.engine, self.tokenizer = annotator, engine, tokenizer
        self.locks: Locks = WeakValueDictionary() if locks is None else locks
        self.cache = ResponseCache(Directory(annotator.cache))
        self.special = sorted(control_tokens(tokenizer))
        self.takes_system = _takes_system(tokenizer, mode=annotator.mode)

    async def reply(self, request: ChatRequest) -> ChatReply | Failure:
        """The reply, or why there is none: control_tokens, prompt_too_long, engine_error."""
        held = {"prefill": self.annotator.mode.prefill, "max_model_len": self.annotator.serving.max_model_len}
        call = Call(request.key_id, "/chat/completions", payload_of(self.annotator, request) | held)
        key = call_key(call, base_url=f"vllm:{self.annotator.model_digest}")
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
        texts = [message.content for message in request.messages]
        marks = [mark for mark in self.special if mark.strip() and _stands_in(mark, texts)]
        if marks:
            return Failure("control_tokens", f"the text holds {', '.join(marks)}, which would steer the chat")
        prompt_ids = await asyncio.to_thread(self.render, request)
        room = self.annotator.serving.max_model_len - len(prompt_ids)
        if room < 1:
            detail = f"{len(prompt_ids)} tokens, model length {self.annotator.serving.max_model_len}"
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
        turns = [asdict(message) for message in say(request.messages, mode=self.annotator.mode)]
        if turns[0]["role"] == "system" and not self.takes_system:
            turns[1]["content"] = f"{turns[0]['content']}\n\n{turns[1]['content']}"
            turns = turns[1:]
        options = self.annotator.mode.template
        text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False, **options)
        prefill, opening = self.annotator.mode.prefill, self.annotator.model.thought_tags[0]
        if text.rstrip().endswith(opening) and prefill.startswith(opening):  # the template has opened it
            text = text.rstrip().removesuffix(opening)
        ids: list[int] = self.tokenizer(text + prefill, add_special_tokens=False)["input_ids"]
        return ids

    def parameters(self, request: ChatRequest, *, room: int) -> Any:
        """vLLM's sampling parameters of a request whose prompt leaves `room` tokens."""
        from mralign.serving.vllm import sampling_parameters

        schema = request.schema if self.annotator.structured != "none" else None
        return sampling_parameters(
            self.annotator.decoding,
            max_tokens=min(self.annotator.decoding.max_tokens, room),
            seed=row_seed(self.annotator.seed, request.key_id),
            schema=schema,
            any_object=self.annotator.structured == "json_object",
        )


def _stands_in(mark: str, texts: Iterable[str]) -> bool:
    return any(mark in text for text in texts)


def _takes_system(tokenizer: Any, *, mode: ThinkMode) -> bool:
    """Whether the chat template knows a system message; some refuse it, and the text goes before the user's then."""
    from jinja2 import TemplateError

    turns = [{"role": "system", "content": "mralign asks"}, {"role": "user", "content": "?"}]
    try:
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False, **mode.template)
    except TemplateError:
        return False
    return "mralign asks" in text


class SharedEngine:
    """One vLLM engine (or endpoint) in this process, and the chats of the annotators that share it."""

    def __init__(self, annotator: ResolvedAnnotator) -> None:
        self.endpoint: Endpoint | None = None
        self.locks: Locks = WeakValueDictionary()
        if annotator.http is not None:
            self.endpoint = Endpoint(annotator.http, cache=Directory(annotator.cache))
            return
        from mralign.serving.vllm import start_engine

        path = model_path(annotator.model)
        self.tokenizer = load_tokenizer(path, model=annotator.model)
        self.engine = start_engine(path, model=annotator.model, engine=annotator.serving)

    def chat(self, annotator: ResolvedAnnotator) -> Chat:
        """The chat of an annotator whose `engine_key` is that of this engine."""
        if self.endpoint is not None:
            return EndpointChat(annotator, endpoint=self.endpoint)
        return EngineChat(annotator, engine=self.engine, tokenizer=self.tokenizer, locks=self.locks)


class ChatWorker:
    """A Ray actor: the chats of annotators whose one engine lives in the actor."""

    def __init__(self, annotators: Sequence[ResolvedAnnotator]) -> None:
        engine = SharedEngine(annotators[0])
        self.chats = [engine.chat(annotator) for annotator in annotators]

    async def reply(self, number: int, request: ChatRequest) -> ChatReply | Failure:
        """What the annotator of that number replies."""
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
    resolved = {role: resolve(annotator, config=config) for role, annotator in annotators.items()}
    for one in resolved.values():
        check_annotator(one)
    check_budgets(resolved.values())
    chats: dict[str, Chat] = {}
    async with AsyncExitStack() as stack:
        for sharing in by_engine(resolved):
            first = next(iter(sharing.values()))
            if first.http is not None:
                endpoint = await stack.enter_async_context(Endpoint(first.http, cache=Directory(first.cache)))
                chats |= {role: EndpointChat(one, endpoint=endpoint) for role, one in sharing.items()}
                continue
            actor = _start_actor(list(sharing.values()), stack=stack)
            chats |= {role: _RemoteChat(actor, number=number) for number, role in enumerate(sharing)}
        yield chats


def chat_workers(annotator: ResolvedAnnotator) -> Workers:
    """What the one actor of an annotator's engine takes of the cluster, where a driver asks."""
    return Workers(
        f"engine of {annotator.name!r}",
        "gpus_per_replica of its `serving`, else of engine",
        cpus=annotator.serving.cpus_per_replica,
        gpus=annotator.serving.gpus_per_replica,
    )


def asking_faults(annotators: Iterable[Annotator], *, config: RunConfig) -> list[NodeFault]:
    """What a node lacks for the engines of these annotators."""
    from mralign.serving.vllm import engine_faults

    return engine_faults(one.serving or config.engine for one in annotators if one.engine == "vllm")


def _start_actor(annotators: Sequence[ResolvedAnnotator], *, stack: AsyncExitStack) -> Any:
    """A `ChatWorker` that is killed when the stack is left."""
    import ray

    from mralign.serving.vllm import worker_environment

    serving, kind = annotators[0].serving, ray.remote(ChatWorker)
    actor = (
        cast(Any, kind)
        .options(
            **actor_options(chat_workers(annotators[0])),
            max_restarts=3,
            max_task_retries=3,
            max_concurrency=4 * serving.max_num_seqs,
            runtime_env={"env_vars": worker_environment(serving)},
        )
        .remote(annotators)
    )
    stack.callback(ray.kill, actor)
    return actor
