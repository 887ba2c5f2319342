"""Where the responses of a model lie, and how a table of them is read again.

Committed questions enter and are laid out anew under names of their content; responses lie on a shelf of the run
directory, `responses_by_content/<what was asked of whom>/`, in parts named after the questions that they answer. So a
further benchmark asks its own questions only, and a finished evaluation asks none. `parts.json` in a stage's directory
says which parts are its own. Rows leave with the name of their method, as tables have it; no Ray, no engine here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mralign.chat.self_refine import is_turn, last_answers
from mralign.config import RunConfig, counted
from mralign.rows.schema import GENERATIONS, QUESTIONS
from mralign.run.store import StageDir, fingerprint, part_key, part_name
from mralign.serving.requests import Sampling, build_requests

RESPONSES = GENERATIONS.append(pa.field("method", pa.string()))
SHELF = "responses_by_content"
_NOT_ASKED = ("probe", "cache", "prompts")  # of a Sampling; a question part is named after its own prompt
_UNANSWERED = {"text": "", "completion_tokens": 0, "thought_start": -1, "thought_end": -1, "thought_tokens": 0}


@dataclass(frozen=True)
class Asked:
    """One set of questions put to a model: the names of its question parts in `<stage>/<group>/`, where on the shelf
    the responses lie, and the method that each mode (off, on, refined) counts as."""

    group: str  # plain | ret
    shelf: str  # directory below the run directory
    questions: tuple[str, ...]
    methods: Mapping[str, str]
    draws: int
    seed: int


def method_names(methods: Sequence[str], *, base: str = "", trained: str = "") -> dict[str, str]:
    """Method of the configuration -> its name in tables, of the untrained (`base`) or the trained model.

    think_on is base_think_on or plainly kto; think_on_ret is base_think_on_ret or kto_ret.
    """
    if base:
        return {name: f"{base}_{name}" for name in methods}
    own = {"think_on": trained, "think_on_ret": f"{trained}_ret"}
    return {name: own.get(name, f"{trained}_{name}") for name in methods}


def modes_of(methods: Sequence[str]) -> dict[str, str]:
    """off | on | refined -> the method (plain ones, or those with snippets) that its rows count as."""
    modes = {"think_off": "off", "think_on": "on", "self_refine": "refined"}
    return {modes[name.removesuffix("_ret")]: name for name in methods}


def content_parts(
    tables: Iterable[pa.Table], *, out: StageDir, prompts: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Commit tables of schema QUESTIONS under names of what they ask; those names, in order.

    A name covers ids, data set, questions, answers and choices, which a response carries on, and the prompt of a data
    set that has its own in `prompts`. Rows that differ in other fields only are asked once.
    """
    names = []
    for table in tables:
        asked = table.select(["question_id", "dataset", "question", "answers"]).to_pylist()
        own = {name: (prompts or {}).get(name) for name in pc.unique(table.column("dataset")).to_pylist()}
        asked += [own] if any(own.values()) else []
        choices = table.column("choices").to_pylist()
        asked += [choices] if any(choices) else []  # so that questions without any keep their name
        name = part_name(hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:24])
        out.commit(name, table, schema=QUESTIONS)
        names.append(name)
    return tuple(dict.fromkeys(names))


def shelf_name(sampling: Sampling, *, files: Mapping[str, str], group: str) -> str:
    """Directory of the responses to whatever questions by this sampling; `files`: digests of the model's files."""
    asked = {field.name: getattr(sampling, field.name) for field in fields(sampling)}
    config = counted({**asked, "group": group}, ignores=_NOT_ASKED)
    return f"{SHELF}/{fingerprint(stage=SHELF, version=2, config=config, upstream={}, inputs=files)}"


def run_directory(out: StageDir) -> str:
    """URI of the run directory that a stage's directory lies in."""
    return out.uri.rsplit("/", 2)[0]


def response_id(row_id: str, *, group: str) -> str:
    """The row_id of a response in tables: one that had snippets is another than the plain one to the same question."""
    return f"{row_id}/ret" if group == "ret" else row_id


def asked_questions(out: StageDir, asked: Asked) -> StageDir:
    """The directory of the questions that were put."""
    return StageDir(f"{out.uri}/{asked.group}", stage=out.stage, fingerprint=out.fingerprint)


def shelf_of(out: StageDir, asked: Asked) -> StageDir:
    """The directory of the responses; it may hold those of other questions as well."""
    return StageDir(f"{run_directory(out)}/{asked.shelf}", stage=out.stage, fingerprint=out.fingerprint)


def write_parts(out: StageDir, asked: Sequence[Asked]) -> None:
    """Write `parts.json`: what was asked, and by the side of it the parts of the shelf that answer it."""
    found = [{**asdict(one), "parts": _answering(out, one)} for one in asked]
    out.write_text("parts.json", json.dumps(found, indent=1))


def _answering(out: StageDir, asked: Asked) -> list[str]:
    parts = shelf_of(out, asked).parts()
    return [part for name in asked.questions for part in own_parts(parts, question_part=name)]


def own_parts(parts: Sequence[str], *, question_part: str) -> list[str]:
    """Those of the shelf's `parts` that answer a question part."""
    return [part for part in parts if part.startswith(f"part-{part_key(question_part)}-")]


def read_asked(out: StageDir) -> list[Asked]:
    """What `write_parts` wrote."""
    entries = json.loads(out.read_text("parts.json"))
    return [
        Asked(**{k: v for k, v in entry.items() if k != "parts"} | {"questions": tuple(entry["questions"])})
        for entry in entries
    ]


def read_responses(out: StageDir, *, datasets: Collection[str] | None = None) -> Iterator[pa.Table]:
    """Every final answer of a stage `responses`, a table of RESPONSES a question part: think-off, think-on, the last
    revision of each Self-Refine, and those that had snippets. A request that could not be put is a row without text."""
    for asked in read_asked(out):
        questions, shelf = asked_questions(out, asked), shelf_of(out, asked)
        parts = shelf.parts()
        for name in asked.questions:
            own = own_parts(parts, question_part=name)
            table = questions.read_parts([name], schema=QUESTIONS)
            if datasets is not None:
                table = table.filter(pc.is_in(table.column("dataset"), value_set=pa.array(sorted(datasets))))
            if table.num_rows:
                yield _finals(table, shelf=shelf, parts=own, asked=asked, datasets=datasets)


def _finals(
    questions: pa.Table, *, shelf: StageDir, parts: Sequence[str], asked: Asked, datasets: Collection[str] | None
) -> pa.Table:
    rows = shelf.read_parts(parts, schema=GENERATIONS).to_pylist()
    reasons = {row["row_id"]: row["reason"] for row in shelf.read_rejects(parts).to_pylist()}
    modes = tuple(dict.fromkeys("off" if mode == "off" else "on" for mode in asked.methods))
    requests = build_requests(questions, modes=modes, draws=asked.draws, seed=asked.seed).to_pylist()
    rows += [row | _UNANSWERED | {"invalid": reasons[row["row_id"]]} for row in requests if row["row_id"] in reasons]
    if datasets is not None:
        rows = [row for row in rows if row["dataset"] in datasets]
    by_mode = {
        "off": [row for row in rows if row["mode"] == "off"],
        "on": [row for row in rows if row["mode"] == "on" and not is_turn(row["row_id"])],
        "refined": last_answers(rows),
    }
    named = [
        row | {"method": name, "row_id": response_id(row["row_id"], group=asked.group)}
        for mode, name in asked.methods.items()
        for row in by_mode[mode]
    ]
    return pa.Table.from_pylist(named, schema=RESPONSES)


def trained_name(config: RunConfig) -> str:
    """The trained method as tables name it, e.g. mralign, mralign-opposite, mralign-shuffle, kto, sft."""
    if config.training.method != "mralign":
        return config.training.method
    parts = ["mralign"]
    if config.weights.anchor != "global":
        parts.append(config.weights.anchor)
    if config.weights.control != "none":
        parts.append(config.weights.control)
    return "-".join(parts)


def describe(asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """What was asked, for a manifest."""
    return [{"group": one.group, "shelf": one.shelf, "methods": dict(one.methods)} for one in asked]
