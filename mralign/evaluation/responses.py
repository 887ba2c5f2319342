"""Where the responses of a model lie, and how a table of them is read again.

Committed questions enter and are laid out anew under names of their content; responses lie on a shelf of the run
directory, `responses_by_content/<what was asked of whom>/`, in parts named after the questions that they answer. So a
further benchmark asks its own questions only, and a finished evaluation asks none. `parts.json` in a stage's directory
says which questions are its own. Rows leave with the name of their method, as tables have it; no Ray, no engine here.
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
from mralign.rows.subjects import Subject, Way
from mralign.run.part_names import part_key, part_name, parts_by_upstream
from mralign.run.store import StageDir, fingerprint
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


def content_parts(
    tables: Iterable[pa.Table], *, out: StageDir, prompts: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Commit tables of schema QUESTIONS under names of what they ask; those names, in order.

    A name covers ids, data set, questions, answers and choices, which a response carries on, and the prompt of a data
    set that has its own in `prompts`. Rows that differ in other fields only are asked once.
    """
    given = prompts or {}
    names = []
    for table in tables:
        asked = table.select(["question_id", "dataset", "question", "answers"]).to_pylist()
        own = {name: given.get(name) for name in pc.unique(table.column("dataset")).to_pylist()}
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
    """Write `parts.json`: what was asked. The parts of the shelf that answer it are named after its questions."""
    out.write_text("parts.json", json.dumps([asdict(one) for one in asked], indent=1))


def read_asked(out: StageDir) -> list[Asked]:
    """What `write_parts` wrote."""
    entries = json.loads(out.read_text("parts.json"))
    names = [field.name for field in fields(Asked)]
    found = []
    for entry in entries:
        given = {name: entry[name] for name in names}  # an older one names parts as well
        found.append(Asked(**given | {"questions": tuple(entry["questions"])}))
    return found


def read_responses(out: StageDir) -> Iterator[pa.Table]:
    """Every final answer of a stage `responses`, a table of RESPONSES a part of questions; see `read_response_part`."""
    listed: dict[str, StageDir] = {}
    for asked, name in _places(out).values():
        if asked.shelf not in listed:
            shelf = listed[asked.shelf] = shelf_of(out, asked)
            if not shelf.recalled.is_still(shelf.uri):  # else this run has listed it since it last wrote there
                shelf.quiet()
        yield _read_answers(out, name, asked=asked, shelf=listed[asked.shelf], datasets=None)


def response_parts(out: StageDir) -> list[str]:
    """Names for what `read_response_part` reads: one a group and part of its questions."""
    return list(_places(out))


def _places(out: StageDir) -> dict[str, tuple[Asked, str]]:
    places = {}
    for asked in read_asked(out):
        for name in asked.questions:
            places[part_name(f"{asked.group}-{part_key(name)}")] = (asked, name)
    return places


def read_response_part(out: StageDir, part: str, *, datasets: Collection[str] | None = None) -> pa.Table:
    """The final answers to one part of questions, schema RESPONSES: think-off, think-on, the last revision of each
    Self-Refine, and those that had snippets. A request that could not be put is a row without text.

    Raises FileNotFoundError where the answers were deleted since."""
    asked, name = _places(out)[part]
    return _read_answers(out, name, asked=asked, shelf=shelf_of(out, asked), datasets=datasets)


def _read_answers(
    out: StageDir, name: str, *, asked: Asked, shelf: StageDir, datasets: Collection[str] | None
) -> pa.Table:
    questions = asked_questions(out, asked)
    table = questions.read_parts([name], schema=QUESTIONS)
    if datasets is not None:
        table = table.filter(pc.is_in(table.column("dataset"), value_set=pa.array(sorted(datasets), pa.string())))
        if not table.num_rows:
            return RESPONSES.empty_table()
    own = parts_by_upstream(shelf.parts(), [name])[name]
    if not own:  # there is one even where no request could be put
        raise FileNotFoundError(f"{shelf.uri} holds no answers to the questions {name} any more")
    return _finals(table, shelf=shelf, parts=own, asked=asked, datasets=datasets)


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
    if config.weights.rule != "paper":
        parts.append(config.weights.rule.replace("_", "-"))
    if config.weights.control != "none":
        parts.append(config.weights.control)
    return "-".join(parts)


def methods_of(config: RunConfig, subject: Subject) -> dict[Way, str]:
    """How a model is asked, and the name in tables of each way."""
    settings = config.evaluation
    if subject is Subject.BASE:
        return {way: subject.method(way, name=settings.label) for way in settings.methods}
    return {way: subject.method(way, name=trained_name(config)) for way in settings.trained_methods}


def describe(asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """What was asked, for a manifest."""
    return [{"group": one.group, "shelf": one.shelf, "methods": dict(one.methods)} for one in asked]
