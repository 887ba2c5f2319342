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
from mralign.rows import Generation, Mode, Request, thinking_mode, turn_mode, turn_of_mode

_TURN = re.compile(r"/(?:feedback|revise)-(\d+)$")
_PLACE = re.compile(r"\{(question|answer|feedback)\}")


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


@dataclass(frozen=True)
class TurnRequest(Request):
    """The request of a later turn: what the user says, and what of it the model has written itself."""

    message: str
    inserted: str


def first_id(row_id: str) -> str:
    """The row_id of the first answer of the way that `row_id` belongs to."""
    return _TURN.sub("", row_id)


def is_turn(row_id: str) -> bool:
    """Whether this is a row of a later turn."""
    return _TURN.search(row_id) is not None


def requests_of_turn(
    turn: str,
    *,
    rows: Sequence[Generation],
    refinement: Refinement,
    prompt_of: Callable[[str], str],
    seed_of: Callable[[str], int],
) -> list[TurnRequest]:
    """The requests of `turn` for every way in `rows` (all turns so far) that goes on.

    `prompt_of` a data set stands around the question of a revision, as it stood around the first. `seed_of` gives the
    seed of a row_id.
    """
    ways: dict[str, dict[str, Generation]] = {}  # id of the first answer -> turn -> its row
    for row in rows:
        if thinking_mode(row.mode) == Mode.ON:
            ways.setdefault(first_id(row.row_id), {})[turn_of_mode(row.mode)] = row
    requests: list[TurnRequest] = []
    for base, way in ways.items():
        texts = _texts_of_turn(turn, way=way, prompt_of=prompt_of)
        if texts is None:
            continue
        template = refinement.feedback if turn.startswith("feedback") else refinement.revise
        row_id = f"{base}/{turn}"
        answer = way[_before(turn)]
        request = TurnRequest(
            row_id=row_id,
            question_id=answer.question_id,
            dataset=answer.dataset,
            question=answer.question,
            answers=answer.answers,
            choices=None,  # the question of a generation holds them
            mode=turn_mode(turn),
            draw=answer.draw,
            seed=seed_of(row_id),
            message=_filled(template, texts),
            inserted="\n".join(texts[name] for name in ("answer", "feedback") if name in texts),
        )
        requests.append(request)
    return requests


def _before(turn: str) -> str:
    """The turn whose answer `turn` looks at: the revision before, or the first answer."""
    number = int(turn.partition("-")[2])
    return f"revise-{number - 1}" if number > 1 else ""


def _texts_of_turn(turn: str, *, way: dict[str, Generation], prompt_of: Callable[[str], str]) -> dict[str, str] | None:
    """What stands in the places of the template; None where the way has ended."""
    answer = way.get(_before(turn))
    if answer is None or not answer.answer:
        return None
    if turn.startswith("feedback"):
        return {"question": answer.question, "answer": answer.answer}
    feedback = way.get(turn.replace("revise", "feedback"))
    if feedback is None or not feedback.answer:
        return None
    asked = user_message(prompt_of(answer.dataset), question=answer.question)  # it holds its choices
    return {"question": asked, "answer": answer.answer, "feedback": feedback.answer}


def _filled(template: str, texts: dict[str, str]) -> str:
    """The template with its places filled, all at once: an answer may hold a place's name."""
    return _PLACE.sub(lambda place: texts[place[1]], template)


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
