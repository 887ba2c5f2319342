"""Rollouts made elsewhere, from JSONL, in place of our own.

A JSONL file of one mode enters, with the names of its fields; rows of schema GENERATIONS leave. Such files carry text
only: the text is tokenised by the model that will be trained, its end token appended, and everything later works on
those ids as it would on sampled ones.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pyarrow as pa

from mralign.config import Decoding, Engine, ImportFields, Model, resolve_path
from mralign.engines.model_files import load_tokenizer, model_path
from mralign.engines.requests import Renderer, Sampling, family_of
from mralign.engines.thinking import END_TOKENS
from mralign.rejects import Reject
from mralign.schema import GENERATIONS
from mralign.store import open_filesystem

_NO_ENGINE = Engine(max_model_len=2**31)  # nothing is sampled: examples.max_length judges the length later


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
    """Generations of one mode (on | off) from the JSONL file or URI `path`.

    The draw is the field `fields.draw`, else the number of earlier rows with the same id. A malformed row is a reject
    (malformed_json, missing_field, wrong_type, extra_draw, repeated_draw), and so is a question that cannot be put into
    a prompt (`Renderer.prepare`). ValueError if the file does not exist.
    """
    place = model_path(model)
    sampling = Sampling(model=model, engine=_NO_ENGINE, decoding=Decoding(), prompt=prompt)
    tokenizer = load_tokenizer(place, model=model)
    renderer = Renderer(sampling, tokenizer=tokenizer, family=family_of(model, path=place))
    rows: list[Any] = []
    rejects: list[Any] = []
    seen: Counter[str] = Counter()
    taken: set[str] = set()
    for number, line in enumerate(_lines(path)):
        record = _parse(line, fields=fields, where=f"{name}/{mode}/row{number}")
        if isinstance(record, Reject):
            rejects.append(record)
            continue
        question_id = f"{name}/{record['id']}"
        draw = int(record["draw"]) if fields.draw else seen[question_id]
        seen[question_id] += 1
        row_id = f"{question_id}/{mode}/{draw}"
        if draw >= draws:
            rejects.append(Reject(row_id, "extra_draw", f"rollouts.n is {draws}", _text(line)))
            continue
        if row_id in taken:
            rejects.append(Reject(row_id, "repeated_draw", "an earlier row has the same id and draw", _text(line)))
            continue
        taken.add(row_id)
        ids = {"row_id": row_id, "question_id": question_id, "dataset": name}
        row = _generation(record, renderer=renderer, request={**ids, "mode": mode, "draw": draw, "seed": -1})
        (rejects if isinstance(row, Reject) else rows).append(row)
    return pa.Table.from_pylist(rows, schema=GENERATIONS), rejects


def _lines(path: str) -> list[bytes]:
    filesystem, inner = open_filesystem(resolve_path(path))
    try:
        with filesystem.open_input_stream(inner) as stream:
            data = bytes(stream.read()).removeprefix(b"\xef\xbb\xbf")
    except FileNotFoundError:
        raise ValueError(
            f"rollouts file {path} does not exist; give a JSONL file as rollouts.import_on / import_off"
        ) from None
    return [line for line in data.split(b"\n") if line.strip()]


def _text(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\r")


def _parse(line: bytes, *, fields: ImportFields, where: str) -> dict[str, Any] | Reject:
    """The record under our own names, or the reason why it cannot be used."""
    raw = _text(line)
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, a bottomless nest of brackets
        return Reject(where, "malformed_json", str(error), raw)
    if not isinstance(record, dict):
        return Reject(where, "wrong_type", f"a row must be an object, got {type(record).__name__}", raw)
    wanted = {k: v for k, v in fields.model_dump().items() if v is not None}
    missing = [theirs for ours, theirs in wanted.items() if theirs not in record and ours != "thought"]
    if missing:
        return Reject(where, "missing_field", f"{missing}; the row has {sorted(record)}", raw)
    found = {ours: record.get(theirs) for ours, theirs in wanted.items()}
    found["answers"] = [found["answers"]] if isinstance(found["answers"], str) else found["answers"]
    texts = [
        found["question"],
        found["response"],
        *(found["answers"] if isinstance(found["answers"], list) else [None]),
    ]
    if not all(isinstance(text, str) for text in texts) or not isinstance(found.get("thought"), str | None):
        return Reject(where, "wrong_type", "question, thought, response and answers must be texts", raw)
    if fields.draw and not str(found["draw"]).isdecimal():
        return Reject(where, "wrong_type", f"the draw must be a number from 0, not {found['draw']!r:.80}", raw)
    try:
        "".join([str(found["id"]), *filter(None, [*texts, found.get("thought")])]).encode()
    except UnicodeEncodeError as error:  # JSON may spell half a character (\ud83d); no tokenizer can read it
        return Reject(where, "wrong_type", f"not valid Unicode: {error.reason}", raw)
    return found


def _generation(record: dict[str, Any], *, renderer: Renderer, request: dict[str, Any]) -> Any:
    request |= {"question": record["question"], "answers": record["answers"]}
    prompt = renderer.prepare(request)
    if isinstance(prompt, Reject):
        return prompt
    text = _without_end_marks(_joined(record.get("thought") if request["mode"] == "on" else None, record["response"]))
    if prompt.opened:  # then the prompt holds the opening tag
        text = text.lstrip().removeprefix("<think>")
    tokenizer = renderer.tokenizer
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] + end
    return renderer.row(request, prompt, text=text, token_ids=ids, finish_reason="stop")


def _joined(thought: str | None, response: str) -> str:
    if not thought:
        return response
    return thought + ("" if thought[-1].isspace() else "\n\n") + response


def _without_end_marks(text: str) -> str:
    text = text.rstrip()
    while text.endswith(END_TOKENS):  # several, in any order
        text = text.removesuffix(next(mark for mark in END_TOKENS if text.endswith(mark))).rstrip()
    return text
