"""Rollouts made elsewhere, from files, in place of our own.

A file of one mode enters, in any form that questions come in, with the names of its fields; rows of schema GENERATIONS
leave. Such files carry text only: it becomes the ids that the model to be trained would have written after its own
prompt (chat/seam.py), and everything later works on those as on sampled ones. Id, question and answers of a row are
read as those of a question are, so that both stages see the same questions.
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
from mralign.rows.schema import GENERATIONS
from mralign.run.rejects import Reject
from mralign.serving.requests import Renderer, Sampling, family_of

_NO_ENGINE = Engine(max_model_len=2**31)  # nothing is sampled: examples.max_length judges the length later
_ABSENT = object()
_SYNTAX_FAULTS = ("malformed_json", "malformed_csv")


@dataclass(frozen=True)
class _Said:
    """What a record says."""

    own_id: str
    question: str
    answers: list[str]
    response: str
    thought: str
    finish_reason: str
    draw: int | None


def check_file(path: str, *, fields: ImportFields) -> None:
    """Raise ValueError for a file that is not there or in no known form."""
    try:
        check_source(path, name="imported", split="train", format="auto", fields=_question_fields(fields))
    except ValueError as error:
        raise ValueError(f"file of imported rollouts: {error}") from None


def read_rollouts(
    path: str,
    *,
    mode: str,
    name: str,
    fields: ImportFields,
    model: Model,
    draws: int,
    prompt: str = "{question}",
) -> tuple[pa.Table, list[Reject]]:
    """Generations of one mode (on | off) from the file or URI `path`.

    The draw is the field `fields.draw`, else the number of earlier rows with the same id; a row without an id has the
    number of its record, as a question has. A row that cannot be used is a reject: missing_field, wrong_type, what the
    reader of questions says (malformed_json, missing_question, ...), extra_draw, repeated_draw, what
    `Renderer.prepare` says, prefill_differs (the text does not begin as the prompt ends), and, thinking on, no_seam
    (the tokenizer can write the text alone but not after the prompt).
    ValueError for a file that is not there, that is broken or cut off, or of which no row can be read.
    """
    check_file(resolve_path(path), fields=fields)
    reader = _Reader(mode=mode, name=name, fields=fields, draws=draws)
    writer = _Writer(mode=mode, model=model, prompt=prompt, tags=fields.tags)
    rows: list[dict[str, Any]] = []
    rejects: list[Reject] = []
    for said, request, raw in reader.read(resolve_path(path), rejects=rejects):
        row = writer.row(said, request=request, raw=raw)
        if isinstance(row, Reject):
            rejects.append(row)
        else:
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=GENERATIONS), rejects


class _Reader:
    """From records to what they say, each with its id and draw."""

    def __init__(self, *, mode: str, name: str, fields: ImportFields, draws: int) -> None:
        self.mode, self.name, self.fields, self.draws = mode, name, fields, draws
        self.form = choose("plain", fields=_question_fields(fields))
        self.seen: Counter[str] = Counter()
        self.taken: set[str] = set()

    def read(self, path: str, *, rejects: list[Reject]) -> Iterator[tuple[_Said, dict[str, Any], str]]:
        """What the usable records say, with the request that each answers and its raw text."""
        last: Record | None = None
        number = read = -1
        for number, record in enumerate(self._records(path)):
            last = record
            try:
                said = self._said(record, number=number)
            except MalformedError as fault:
                rejects.append(Reject(f"{self.name}/{self.mode}/row{number}", fault.reason, str(fault), record.raw))
                continue
            read = number
            request = self._request(said, raw=record.raw)
            if isinstance(request, Reject):
                rejects.append(request)
            else:
                yield said, request, record.raw
        self._check_whole(path, last=last, number=number, any_read=read >= 0, rejects=rejects)

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

    def _said(self, record: Record, *, number: int) -> _Said:
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
        ended = _finish_reason(value, self.fields.finish_reason)
        return _Said(own_id, draft.question, draft.answers, response, thought, ended, draw)

    def _request(self, said: _Said, *, raw: str) -> dict[str, Any] | Reject:
        question_id = f"{self.name}/{said.own_id}"
        draw = self.seen[question_id] if said.draw is None else said.draw
        self.seen[question_id] += 1
        row_id = f"{question_id}/{self.mode}/{draw}"
        if draw >= self.draws:
            return Reject(row_id, "extra_draw", f"rollouts.n is {self.draws}", raw)
        if row_id in self.taken:
            return Reject(row_id, "repeated_draw", "an earlier row has the same id and draw", raw)
        self.taken.add(row_id)
        return {
            "row_id": row_id,
            "question_id": question_id,
            "dataset": self.name,
            "question": said.question,
            "answers": said.answers,
            "mode": self.mode,
            "draw": draw,
            "seed": -1,
        }


class _Writer:
    """From what a record says to the row that the model's own engine would have made of it."""

    def __init__(self, *, mode: str, model: Model, prompt: str, tags: tuple[str, str] | None) -> None:
        path = model_path(model)
        sampling = Sampling(model=model, engine=_NO_ENGINE, decoding=Decoding(), prompt=prompt)
        self.tokenizer = load_tokenizer(path, model=model)
        self.renderer = Renderer(sampling, tokenizer=self.tokenizer, family=family_of(model, path=path))
        self.thinks = mode == "on"
        self.mode = self.renderer.modes[mode]
        stops = stop_tokens(self.tokenizer, model_path=path)
        self.turn = turn_of(self.tokenizer, mode=self.mode, stops=stops, tags=model.thought_tags)
        self.tags = tags or model.thought_tags

    def row(self, said: _Said, *, request: dict[str, Any], raw: str) -> dict[str, Any] | Reject:
        """A row of schema GENERATIONS, or why there is none."""
        prompt = self.renderer.prepare(request)
        if isinstance(prompt, Reject):
            return prompt
        thought = said.thought if self.thinks else ""
        whole, end = cut_end(said.response, turn=self.turn, tokenizer=self.tokenizer)
        whole = self._opened(self._joined(thought, whole), prompt=prompt)
        text = without_prefill(whole, prompt=prompt, mode=self.mode, turn=self.turn)
        if text is None:
            detail = f"the prompt ends in {prompt.text[-40:]!r}, the text begins {whole[:40]!r}"
            return Reject(request["row_id"], "prefill_differs", detail, raw)
        found = self._continuation(prompt, text=text, end="" if ending_fault(said.finish_reason) else end)
        if found is None:
            detail = f"no token ids write {text[:40]!r} after {prompt.text[-40:]!r}, though some write it alone"
            return Reject(request["row_id"], "no_seam", detail, raw)
        return self.renderer.row(
            request, prompt, text=found.text, token_ids=found.token_ids, finish_reason=said.finish_reason
        )

    def _continuation(self, prompt: Prompt, *, text: str, end: str) -> Continuation | None:
        """Ids and text; where no ids spell the text at all, it can still be judged and annotated, and the stage
        `examples` refuses it."""
        found = continuation(self.tokenizer, prompt=prompt, text=text, end=end)
        if found is None and not (self.thinks and survives(self.tokenizer, text=text)):
            return Continuation(separate_ids(self.tokenizer, text=text, end=end), text)
        return found

    def _joined(self, thought: str, response: str) -> str:
        """The whole turn, its thought in the model's own tags."""
        opening, closing = self.tags
        if thought.strip() and closing not in response:
            bare = thought.strip()
            if not bare.endswith(closing):  # its own field says where it ends
                return self._in_own_form(bare.removeprefix(opening), answer=response)
            response = thought + ("" if thought[-1].isspace() else "\n\n") + response
        if self.tags == self.turn.tags:
            return response
        head, opened, rest = response.partition(opening)
        inner, closed, answer = (rest if opened else response).partition(closing)
        if not closed or head.strip() * bool(opened) or opening in inner or closing in answer:
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


def _found(record: dict[str, Any], name: str, *, default: Any = None) -> Any:
    """What stands under `name`, else `default`. A name that passes a list (content[].text) gives a list: one of one is
    that one."""
    found = fetch(record, name, default=default)
    return found[0] if "[]" in name and isinstance(found, list) and len(found) == 1 else found


def _needed(record: dict[str, Any], name: str) -> Any:
    found = _found(record, name, default=_ABSENT)
    if found is _ABSENT:
        raise MalformedError("missing_field", f"no field {name!r}; the row has {sorted(map(str, record))}")
    return found


def _text(record: dict[str, Any], name: str, *, needed: bool = True) -> str:
    value = _needed(record, name) if needed else _found(record, name)
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
    return str(_found(record, name, default="stop")) if name else "stop"
