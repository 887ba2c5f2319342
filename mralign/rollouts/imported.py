"""Rollouts made elsewhere, from files, in place of our own.

A file of one mode enters, in any form that questions come in, with the names of its fields; generations leave. Such
files carry text only: it becomes the ids that the model to be trained would have written after its own prompt
(chat/seam.py), and everything later works on those as on sampled ones. Id, question and answers of a row are read as
those of a question are, so that both stages see the same questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mralign.chat.endings import ending_fault
from mralign.chat.model_files import load_tokenizer, model_path
from mralign.chat.prompts import Prompt
from mralign.chat.seam import Continuation, continuation, separate_ids, survives, without_prefill
from mralign.chat.turns import cut_end, stop_tokens, turn_of
from mralign.config import Decoding, Engine, ImportFields, Model, resolve_path
from mralign.questions.fields import fetch
from mralign.questions.formats import choose
from mralign.questions.records import MalformedError, Record
from mralign.questions.sources import check_source
from mralign.rows import Generation, Mode, Reject, Request, row_id_of, to_table
from mralign.serving.requests import Renderer, Sampling, family_of

_NO_ENGINE = Engine(max_model_len=2**31)  # nothing is sampled: examples.max_length judges the length later
_ABSENT = object()
_SYNTAX_FAULTS = ("malformed_json", "malformed_csv")


@dataclass(frozen=True)
class _Rollout:
    """What a record says, and the record's raw text."""

    own_id: str
    question: str
    answers: list[str]
    response: str
    thought: str
    finish_reason: str
    draw: int | None  # None where the file does not number its draws
    raw: str


def check_file(path: str, *, fields: ImportFields) -> None:
    """Raise ValueError for a file that is not there or in no known form."""
    try:
        check_source(path, name="imported", split="train", format="auto", fields=_question_fields(fields))
    except ValueError as error:
        raise ValueError(f"file of imported rollouts: {error}") from None


def read_rollouts(
    path: str,
    *,
    mode: Mode,
    name: str,
    fields: ImportFields,
    model: Model,
    draws: int,
    prompt: str = "{question}",
) -> tuple[pa.Table, list[Reject]]:
    """Generations (schema GENERATIONS) of one mode from the file or URI `path`, and the rejects.

    The draw is the field `fields.draw`, else the number of earlier rows with the same id; a row without an id has the
    number of its record, as a question has. A row that cannot be used is a reject: missing_field, wrong_type, what the
    reader of questions says (malformed_json, missing_question, ...), extra_draw, repeated_draw, what
    `Renderer.prepare` says, prefill_differs (the text does not begin as the prompt ends), and, thinking on, no_seam
    (the tokenizer can write the text alone but not after the prompt).
    ValueError for a file that is not there, that is broken or cut off, or of which no row can be read.
    """
    check_file(resolve_path(path), fields=fields)
    reader = _RolloutReader(mode=mode, name=name, fields=fields, draws=draws)
    writer = _RolloutWriter(mode=mode, model=model, prompt=prompt, tags=fields.tags)
    rows: list[Generation] = []
    rejects: list[Reject] = []
    for rollout, request in reader.read(resolve_path(path), rejects=rejects):
        row = writer.row(rollout, request=request)
        if isinstance(row, Reject):
            rejects.append(row)
        else:
            rows.append(row)
    return to_table(rows, Generation), rejects


class _RolloutReader:
    """From records to what they say, each with its id and draw."""

    def __init__(self, *, mode: Mode, name: str, fields: ImportFields, draws: int) -> None:
        self.mode, self.name, self.fields, self.draws = mode, name, fields, draws
        self.form = choose("plain", fields=_question_fields(fields))
        self.seen: Counter[str] = Counter()
        self.taken: set[str] = set()

    def read(self, path: str, *, rejects: list[Reject]) -> Iterator[tuple[_Rollout, Request]]:
        """What the usable records say, with the request that each answers."""
        last: Record | None = None
        number = -1
        any_read = False
        for number, record in enumerate(self._records(path)):
            last = record
            try:
                rollout = self._rollout(record, number=number)
            except MalformedError as fault:
                row_id = f"{self.name}/{self.mode}/row{number}"
                rejects.append(Reject(row_id, fault.reason, str(fault), record.raw, dataset=self.name))
                continue
            any_read = True
            request = self._request(rollout)
            if isinstance(request, Reject):
                rejects.append(request)
            else:
                yield rollout, request
        self._check_whole(path, last=last, number=number, any_read=any_read, rejects=rejects)

    def _records(self, path: str) -> Iterator[Record]:
        try:
            yield from self.form.records(path, "train")
        except ValueError as error:  # the file as a whole is not what its name says
            raise ValueError(f"rollouts.import_{self.mode}: {error}") from error
        except (OSError, EOFError, pa.ArrowException) as error:  # what a cut or damaged archive gives
            raise ValueError(
                f"rollouts.import_{self.mode}={path} cannot be read to its end: {error}; fetch or write it again"
            ) from error

    def _check_whole(
        self, path: str, *, last: Record | None, number: int, any_read: bool, rejects: list[Reject]
    ) -> None:
        setting = f"rollouts.import_{self.mode}={path}"
        if last is None:
            raise ValueError(f"{setting} holds no row; give the file that the rollouts were written to")
        if last.fault is not None and last.fault.reason in _SYNTAX_FAULTS:
            raise ValueError(
                f"{setting} is broken: its last record, line {number + 1} (blank lines left out), cannot be read: "
                f"{last.fault}. It begins {last.raw[:80]!r}. The file seems cut off; fetch or write it again"
            )
        if not any_read:
            first = rejects[0]
            raise ValueError(
                f"{setting}: none of its {number + 1} rows can be read; the first one: {first.reason}, {first.detail}. "
                f"It begins {first.raw[:80]!r}. Name its fields in rollouts.import_fields"
            )

    def _rollout(self, record: Record, *, number: int) -> _Rollout:
        if record.fault is not None:
            raise record.fault
        value = record.value
        if not isinstance(value, dict):
            raise MalformedError("wrong_type", f"a row must be an object, got {type(value).__name__}")
        draft = self.form.draft(value)
        response = _text(value, self.fields.response)
        thought = _text(value, self.fields.thought, needed=False) if self.fields.thought else ""
        draw = _draw(value, self.fields.draw) if self.fields.draw else None
        own_id = draft.own_id or record.key or str(number)
        try:  # JSON may spell half a character (\ud83d); no tokenizer can read it
            "".join([own_id, draft.question, *draft.answers, response, thought]).encode()
        except UnicodeEncodeError as error:
            raise MalformedError("wrong_type", f"not valid Unicode: {error.reason}") from error
        return _Rollout(
            own_id=own_id,
            question=draft.question,
            answers=draft.answers,
            response=response,
            thought=thought,
            finish_reason=_finish_reason(value, self.fields.finish_reason),
            draw=draw,
            raw=record.raw,
        )

    def _request(self, rollout: _Rollout) -> Request | Reject:
        question_id = f"{self.name}/{rollout.own_id}"
        draw = self.seen[question_id] if rollout.draw is None else rollout.draw
        self.seen[question_id] += 1
        row_id = row_id_of(question_id, mode=self.mode, draw=draw)
        if draw >= self.draws:
            return Reject(row_id, "extra_draw", f"rollouts.n is {self.draws}", rollout.raw, dataset=self.name)
        if row_id in self.taken:
            detail = "an earlier row has the same id and draw"
            return Reject(row_id, "repeated_draw", detail, rollout.raw, dataset=self.name)
        self.taken.add(row_id)
        return Request(
            row_id=row_id,
            question_id=question_id,
            dataset=self.name,
            question=rollout.question,
            answers=rollout.answers,
            choices=None,
            mode=self.mode,
            draw=draw,
            seed=-1,
        )


class _RolloutWriter:
    """From what a record says to the row that the model's own engine would have made of it."""

    def __init__(self, *, mode: Mode, model: Model, prompt: str, tags: tuple[str, str] | None) -> None:
        path = model_path(model)
        sampling = Sampling(model=model, engine=_NO_ENGINE, decoding=Decoding(), prompt=prompt)
        self.tokenizer = load_tokenizer(path, model=model)
        self.renderer = Renderer(sampling, tokenizer=self.tokenizer, family=family_of(model, path=path))
        self.thinks = mode == Mode.ON
        self.mode = self.renderer.modes[mode]
        stops = stop_tokens(self.tokenizer, model_path=path)
        self.turn = turn_of(self.tokenizer, mode=self.mode, stops=stops, tags=model.thought_tags)
        self.tags = tags or model.thought_tags

    def row(self, rollout: _Rollout, *, request: Request) -> Generation | Reject:
        """The generation, or why there is none."""
        prompt = self.renderer.prepare(request)
        if isinstance(prompt, Reject):
            return prompt
        thought = rollout.thought if self.thinks else ""
        response, end = cut_end(rollout.response, turn=self.turn, tokenizer=self.tokenizer)
        whole = self._opened(self._joined(thought, response), prompt=prompt)
        text = without_prefill(whole, prompt=prompt, mode=self.mode, turn=self.turn)
        if text is None:
            detail = f"the prompt ends in {prompt.text[-40:]!r}, the text begins {whole[:40]!r}"
            return Reject(request.row_id, "prefill_differs", detail, rollout.raw, dataset=request.dataset)
        if ending_fault(rollout.finish_reason):
            end = ""
        written = self._continuation(prompt, text=text, end=end)
        if written is None:
            detail = f"no token ids write {text[:40]!r} after {prompt.text[-40:]!r}, though some write it alone"
            return Reject(request.row_id, "no_seam", detail, rollout.raw, dataset=request.dataset)
        return self.renderer.row(
            request,
            prompt,
            text=written.text,
            token_ids=written.token_ids,
            finish_reason=rollout.finish_reason,
        )

    def _continuation(self, prompt: Prompt, *, text: str, end: str) -> Continuation | None:
        """Ids and text; where no ids spell the text at all, it can still be judged and annotated, and the stage
        `examples` refuses it."""
        written = continuation(self.tokenizer, prompt=prompt, text=text, end=end)
        if written is not None:
            return written
        if self.thinks and survives(self.tokenizer, text=text):
            return None
        return Continuation(separate_ids(self.tokenizer, text=text, end=end), text)

    def _joined(self, thought: str, response: str) -> str:
        """The whole turn, its thought in the model's own tags."""
        opening, closing = self.tags
        if thought.strip() and closing not in response:
            bare = thought.strip()
            if not bare.endswith(closing):  # its own field says where it ends
                return self._in_own_form(bare.removeprefix(opening), answer=response)
            between = "" if thought[-1].isspace() else "\n\n"
            response = thought + between + response
        if self.tags == self.turn.tags:
            return response
        head, opened, rest = response.partition(opening)
        inner, closed, answer = (rest if opened else response).partition(closing)
        before = head.strip() if opened else ""
        if not closed or before or opening in inner or closing in answer:
            return response.replace(opening, self.turn.tags[0]).replace(closing, self.turn.tags[1])
        return self._in_own_form(inner, answer=answer)

    def _opened(self, text: str, *, prompt: Prompt) -> str:
        """The text with an opening tag where it has a closing one only (the prompt of another model had opened the
        block) and this model writes both."""
        opening, closing = self.turn.tags
        thought, closed, answer = text.partition(closing)
        if not self.thinks or prompt.opened or not closed or opening in text:
            return text
        return self._in_own_form(thought, answer=answer)

    def _in_own_form(self, thought: str, *, answer: str) -> str:
        return self.turn.thought_before + thought.strip() + self.turn.thought_after + answer.lstrip()


def _question_fields(fields: ImportFields) -> dict[str, str | tuple[str, ...]]:
    return {"id": fields.id, "question": fields.question, "answers": fields.answers}


def _value(record: dict[str, Any], name: str, *, default: Any = None) -> Any:
    """What stands under `name`, else `default`. A name that passes a list (content[].text) gives a list: one of one is
    that one."""
    value = fetch(record, name, default=default)
    if "[]" in name and isinstance(value, list) and len(value) == 1:
        return value[0]
    return value


def _needed(record: dict[str, Any], name: str) -> Any:
    value = _value(record, name, default=_ABSENT)
    if value is _ABSENT:
        raise MalformedError("missing_field", f"no field {name!r}; the row has {sorted(map(str, record))}")
    return value


def _text(record: dict[str, Any], name: str, *, needed: bool = True) -> str:
    value = _needed(record, name) if needed else _value(record, name)
    if value is None and not needed:
        return ""
    if not isinstance(value, str):
        raise MalformedError("wrong_type", f"field {name!r} must be text, not {type(value).__name__}")
    return value


def _draw(record: dict[str, Any], name: str) -> int:
    value = _needed(record, name)
    if not str(value).isdecimal():
        raise MalformedError("wrong_type", f"the draw must be a number from 0, not {value!r:.80}")
    return int(str(value))


def _finish_reason(record: dict[str, Any], name: str | None) -> str:
    """The file's own word; `stop` where the row has no such field or none is read. Null is a word that says nothing."""
    return str(_value(record, name, default="stop")) if name else "stop"
