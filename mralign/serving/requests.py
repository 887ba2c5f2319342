"""From questions to requests, and from a completion back to a row: what every engine shares.

A table of questions enters; one request a (question, mode, draw) leaves, with a seed of its own. An engine prepares
each request (the rendered prompt, or the reason why it cannot be asked), samples it, and turns text and token ids into
a `Generation`. No engine, no Ray here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from mralign.chat.families import Family, find_family, with_family, with_tags
from mralign.chat.model_files import check_configuration, check_weights, load_tokenizer
from mralign.chat.prompts import (
    MODES,
    Prompt,
    chat_prompt,
    chat_template,
    check_model_directory,
    check_modes,
    control_tokens,
    question_fault,
    special_tokens,
)
from mralign.chat.self_refine import Refinement, TurnRequest, first_id, requests_of_turn
from mralign.chat.thought import split_thinking
from mralign.chat.user_message import user_message, with_choices
from mralign.config import Decoding, Engine, Http, Model, RunConfig, resolve_path
from mralign.rows import Generation, Mode, Question, Reject, Request, from_table, row_id_of, thinking_mode, to_table
from mralign.rows.vocabulary import question_of
from mralign.run.store import absolute
from mralign.serving.adapter import check_adapter


class DrawOrder(Protocol):
    """Says which draws of a question are made, one after the other."""

    def next_draw(self, rows: Sequence[Generation]) -> tuple[Mode, int] | None:
        """The draw to make after `rows`, all of one question; None: no more."""
        ...

    def enough_tokens(self, mode: Mode, draw: int) -> int | None:
        """Tokens after which a draw may be cut, if `why_cut` then says so; None: it is drawn to its end."""
        ...

    def why_cut(self, row: Generation) -> str | None:
        """Why nothing can matter that would have followed on a draw that is not finished; None: it can."""
        ...

    def may_be_enough(self, text: str, *, tokens: int) -> bool:
        """Whether it is worth asking `why_cut` of a draw that has come so far; quick, and never wrongly False."""
        ...


@dataclass(frozen=True)
class Sampling:
    """What is asked of a model, `draws` times in each of `modes`."""

    model: Model
    engine: Engine
    decoding: Decoding
    prompt: str = "{question}"
    modes: tuple[str, ...] = MODES
    draws: int = 1
    seed: int = 0
    endpoint: Http | None = None  # None: engines of our own
    cache: str = ""  # directory of the endpoint's responses
    probe: str = ""  # directory with the probe of a training that the engines must serve
    refinement: Refinement | None = None  # what follows the first answer, thinking on
    prompts: Mapping[str, str] = field(default_factory=dict)  # data set -> its own prompt
    order: DrawOrder | None = None  # which draws of a question are made; None: all

    def prompt_of(self, dataset: str) -> str:
        """The user's message to a question of a data set."""
        return self.prompts.get(dataset, self.prompt)


def build_requests(questions: pa.Table, *, modes: Sequence[str], draws: int, seed: int) -> pa.Table:
    """One row a (question, mode, draw) of schema REQUESTS; the seed of a row depends on `seed` and its id only."""
    asked_modes = [Mode(mode) for mode in modes]
    requests: list[Request] = []
    for question in from_table(questions, Question):
        for mode, draw in product(asked_modes, range(draws)):
            requests.append(draw_request(question, mode=mode, draw=draw, seed=seed))
    return to_table(requests, Request)


def draw_request(question: Question, *, mode: Mode, draw: int, seed: int) -> Request:
    """The request of one draw; `seed` is the run's."""
    row_id = row_id_of(question.question_id, mode=mode, draw=draw)
    return Request(
        row_id=row_id,
        question_id=question.question_id,
        dataset=question.dataset,
        question=question.question,
        answers=question.answers,
        choices=question.choices,
        mode=mode,
        draw=draw,
        seed=row_seed(seed, row_id),
    )


def request_of(sampling: Sampling) -> Callable[[str], str]:
    """What maps the row_id of a row to that of its request: the later turns of Self-Refine belong to their first, and
    where draws are made as they are needed all of a question belong to one."""
    if sampling.order is not None:
        return first_draw_id
    return str if sampling.refinement is None else first_id


def first_draw_id(row_id: str) -> str:
    """The row_id of the draw that stands for all draws of a question."""
    return row_id_of(question_of(row_id), mode=Mode.OFF, draw=0)


class Renderer:
    """Requests to prompts and completions to rows, for one model: its tokenizer, its family, its length."""

    def __init__(self, sampling: Sampling, *, tokenizer: Any, family: Family) -> None:
        tags = sampling.model.thought_tags
        check_modes(tokenizer, name=sampling.model.path, on=family.on, off=family.off, tags=tags)
        self.sampling, self.tokenizer, self.tags = sampling, tokenizer, tags
        self.modes = {Mode.ON: family.on, Mode.OFF: family.off}
        self.opened = {
            name: chat_prompt(tokenizer, "?", mode=mode, tags=tags).opened for name, mode in self.modes.items()
        }
        self.special = control_tokens(tokenizer) | {*tags}
        # A text without its special tokens would lose tags that are such (Magistral's, gpt-oss's).
        self.special_tags = any(token in tag for token in special_tokens(tokenizer) for tag in tags)
        self.room = sampling.engine.max_model_len

    def prepare(self, request: Request) -> Prompt | Reject:
        """The prompt of a request, or why it cannot be asked.

        Reasons: empty_question, control_characters, control_tokens, prompt_too_long.
        """
        inserted = request.inserted if isinstance(request, TurnRequest) else ""
        said = f"{with_choices(request.question, request.choices)}\n{inserted}"
        fault = question_fault(said, special_tokens=self.special)
        if fault is not None:
            return _refused(request, *fault)
        mode = thinking_mode(request.mode)
        prompt = chat_prompt(
            self.tokenizer, self._message(request), mode=self.modes[mode], opened=self.opened[mode], tags=self.tags
        )
        if len(prompt.token_ids) >= self.room:
            return _refused(request, "prompt_too_long", f"{len(prompt.token_ids)} tokens, model length {self.room}")
        return prompt

    def _message(self, request: Request) -> str:
        """What the user says."""
        if isinstance(request, TurnRequest):
            return request.message
        prompt = self.sampling.prompt_of(request.dataset)
        return user_message(prompt, question=request.question, choices=request.choices)

    def next_turn(self, turn: str, *, rows: Sequence[Generation]) -> list[TurnRequest]:
        """The requests of a turn of Self-Refine that follow from the rows of all turns so far."""
        assert self.sampling.refinement is not None
        return requests_of_turn(
            turn,
            rows=rows,
            refinement=self.sampling.refinement,
            prompt_of=self.sampling.prompt_of,
            seed_of=partial(row_seed, self.sampling.seed),
        )

    def max_tokens(self, prompt: Prompt, *, limit: int | None = None) -> int:
        """Tokens that a completion of `prompt` may have, at most `limit`."""
        most = min(self.sampling.decoding.max_tokens, self.room - len(prompt.token_ids))
        return most if limit is None else min(most, limit)

    def row(
        self, request: Request, prompt: Prompt, *, text: str, token_ids: list[int], finish_reason: str
    ) -> Generation:
        """The generation that a completion makes of a request; its question is the one asked, choices and all."""
        mode = thinking_mode(request.mode)
        split = split_thinking(text, mode=mode, opened=prompt.opened, finish_reason=finish_reason, tags=self.tags)
        thought = text[split.thought_start : split.thought_end] if split.thought_start >= 0 else ""
        thought_ids = self.tokenizer(thought, add_special_tokens=False)["input_ids"] if thought else []
        return Generation(
            row_id=request.row_id,
            question_id=request.question_id,
            dataset=request.dataset,
            question=with_choices(request.question, request.choices),
            answers=request.answers,
            mode=request.mode,
            draw=request.draw,
            seed=request.seed,
            prompt_token_ids=list(prompt.token_ids),
            token_ids=token_ids,
            completion_tokens=len(token_ids),
            text=text,
            finish_reason=finish_reason,
            thought_start=split.thought_start,
            thought_end=split.thought_end,
            answer=split.answer,
            thought_tokens=len(thought_ids),
            invalid=split.invalid,
        )


def _refused(request: Request, reason: str, detail: str) -> Reject:
    return Reject(request.row_id, reason, detail, request.question, dataset=request.dataset)


def renderer_of(sampling: Sampling, *, path: str) -> Renderer:
    """Prompts and rows of the model whose directory (or hub name) is `path`."""
    family = family_of(sampling.model, path=path)
    return Renderer(sampling, tokenizer=load_tokenizer(path, model=sampling.model), family=family)


def family_of(model: Model, *, path: str) -> Family:
    """How the model whose directory (or hub name) is `path` switches thinking, in its own tags.

    ValueError where it is not known.
    """
    return with_tags(find_family(model, template=chat_template(path), name=model.path), tags=model.thought_tags)


def trained_in(path: str, *, model: Model) -> Model:
    """The model whose trained weights lie in the directory `path`: it is spoken to as `model` is."""
    told = with_family(model, template=chat_template(resolve_path(model.path)), name=model.path)
    return told.model_copy(update={"path": path, "adapter": None})


def check_served(model: Model) -> Any:
    """Raise ValueError before any engine starts if the model cannot be served; else its tokenizer, loaded as whoever
    serves or trains it will load it. None for a model that lies elsewhere, which is looked at where it is served."""
    path = resolve_path(model.path)
    check_model_directory(path)
    if model.adapter:
        check_adapter(resolve_path(model.adapter))
    if not Path(path).is_dir():
        return None
    check_configuration(path, trust_remote_code=model.trust_remote_code)
    check_weights(path)
    if (Path(path) / "adapter_config.json").exists():
        raise ValueError(
            f"model directory {path} holds an adapter_config.json: transformers would apply that adapter, vLLM not; "
            f"move the adapter's files to a directory of their own and give that as model.adapter"
        )
    return load_tokenizer(path, model=model)


def check_model(model: Model) -> None:
    """As `check_served`, and raise ValueError for a model that cannot think on and off."""
    path = resolve_path(model.path)
    tokenizer = check_served(model)
    family = family_of(model, path=path)
    if tokenizer is not None:
        check_modes(tokenizer, name=model.path, on=family.on, off=family.off, tags=model.thought_tags)


def sampling_of_rollouts(config: RunConfig, *, order: DrawOrder | None, probe: str = "") -> Sampling:
    """What the stage `rollouts` asks; `probe` as in `sampling_of_evaluation`."""
    return Sampling(
        model=config.model,
        engine=config.engine,
        endpoint=config.http if config.rollouts.engine == "http" else None,
        cache=response_cache(config),
        decoding=config.rollouts.decoding,
        prompt=config.rollouts.prompt,
        draws=config.rollouts.n,
        seed=config.run.seed,
        order=order,
        probe=probe,
    )


def sampling_of_evaluation(config: RunConfig, *, model: Model, methods: Sequence[str], probe: str = "") -> Sampling:
    """What an evaluation of `model` by some of config.evaluation.Method asks, retrieved snippets or not.

    `probe` is where the training that made the model left its probe.
    """
    settings = config.evaluation
    refine = settings.self_refine if "self_refine" in methods else None
    return Sampling(
        model=model,
        engine=config.engine,
        decoding=settings.decoding,
        prompt=settings.prompt,
        prompts=settings.prompts,
        modes=tuple(dict.fromkeys(Mode.OFF if name.startswith("think_off") else Mode.ON for name in methods)),
        draws=settings.draws,
        seed=config.run.seed + 1,
        probe=probe,
        refinement=Refinement(refine.rounds, refine.feedback, refine.revise) if refine else None,
    )


def response_cache(config: RunConfig) -> str:
    """Where the run keeps what an endpoint has answered: it outlives every stage, so that nothing is paid twice."""
    return f"{absolute(config.run.dir)}/responses"


def row_seed(seed: int, row_id: str) -> int:
    """A seed below 2^31 for whatever `row_id` names, from the run's seed and that name only."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{row_id}".encode()).digest()[:4], "big") >> 1
