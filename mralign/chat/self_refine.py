"""Self-Refine (Madaan et al. 2023): what the next turn of a conversation with oneself asks.

Rows of one turn (schema GENERATIONS) enter; the requests of the next turn leave, or the rows that stand at the end. The
turns are feedback-1, revise-1, feedback-2, ...; a row of them has the mode `on/revise-1` and the row_id of the first
answer with `/revise-1` behind it, so that every word of the way can be read. A turn that cannot be judged ends the way:
an answer that breaks off is the answer, feedback that breaks off leaves the answer before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mralign.chat.user_message import user_message

_TURN = re.compile(r"/(?:feedback|revise)-(\d+)$")
_PLACE = re.compile(r"\{(question|answer|feedback)\}")
_KEPT = ("question_id", "dataset", "question", "answers", "draw")


@dataclass(frozen=True)
class Refinement:
    """How often, and what is said: `feedback` holds {question} and {answer}, `revise` {feedback} as well."""

    rounds: int
    feedback: str
    revise: str

    @property
    def turns(self) -> tuple[str, ...]:
        """Names of the turns after the first answer, in order."""
        names: list[str] = []
        for number in range(1, self.rounds + 1):
            names += [f"feedback-{number}", f"revise-{number}"]
        return tuple(names)


def first_id(row_id: str) -> str:
    """The row_id of the first answer of the way that `row_id` belongs to."""
    return _TURN.sub("", row_id)


def is_turn(row_id: str) -> bool:
    """Whether this is a row of a later turn."""
    return _TURN.search(row_id) is not None


def thinking_mode(mode: str) -> str:
    """on | off of a row's mode, whatever its turn."""
    return mode.partition("/")[0]


def requests_of_turn(
    turn: str, *, rows: Sequence[dict[str, Any]], refinement: Refinement, prompt_of: Callable[[str], str]
) -> list[dict[str, Any]]:
    """The requests of `turn` for every way in `rows` (all turns so far) that goes on, without seeds.

    `message` is what the user says, `inserted` what of it the model has written. `prompt_of` a data set stands around
    the question of a revision, as it stood around the first.
    """
    ways: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        if thinking_mode(row["mode"]) == "on":
            ways.setdefault(first_id(row["row_id"]), {})[row["mode"].partition("/")[2]] = row
    found = (_request(turn, base=base, way=way, texts=refinement, prompt_of=prompt_of) for base, way in ways.items())
    return [request for request in found if request is not None]


def _request(
    turn: str, *, base: str, way: dict[str, dict[str, Any]], texts: Refinement, prompt_of: Callable[[str], str]
) -> dict[str, Any] | None:
    name, _, number = turn.partition("-")
    before = f"revise-{int(number) - 1}" if int(number) > 1 else ""
    answer, feedback = way.get(before), way.get(f"feedback-{number}")
    if answer is None or not answer["answer"]:
        return None
    values = {"question": answer["question"], "answer": answer["answer"]}
    if name == "revise":
        if feedback is None or not feedback["answer"]:
            return None
        asked = user_message(prompt_of(answer["dataset"]), question=answer["question"])  # it holds its choices
        values |= {"feedback": feedback["answer"], "question": asked}
    template = texts.feedback if name == "feedback" else texts.revise
    return {
        **{key: answer[key] for key in _KEPT},
        "row_id": f"{base}/{turn}",
        "mode": f"on/{turn}",
        "message": _PLACE.sub(lambda place: values[place[1]], template),  # at once: an answer may hold a place's name
        "inserted": "\n".join(values[key] for key in ("answer", "feedback") if key in values),
    }


def last_answers(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answer that each way in `rows` ends with: its last revision, or the first answer where there is none."""
    last: dict[str, tuple[int, dict[str, Any]]] = {}
    for row in rows:
        mode, _, turn = row["mode"].partition("/")
        if mode != "on" or turn.startswith("feedback"):
            continue
        number = int(turn.partition("-")[2] or 0)
        base = first_id(row["row_id"])
        if base not in last or number > last[base][0]:
            last[base] = number, row
    return [row for _, row in last.values()]
