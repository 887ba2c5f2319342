"""Responses that were made elsewhere: what a file or a list of them says, and how good they are.

A JSONL file (or any other form that question files have), a log of inspect_ai or a sample log of lm-eval enters;
`Prediction`s leave, each with the place at which it stands, so that a fault can be named. `score` makes Acc and Mis of
predictions that carry their gold answers, by the rules by which a run's own responses are scored (docs/method.md §6).

A prediction is an object with these fields:

- `response`, the text of the model; needed. The thought may stand in it between <think> and </think>, or in `thought`;
- `answers` (or `answer`): the gold answers, a text or a list;
- `question`, and `id`: what it answers; without an id, equal questions are one;
- `mode`, on or off: whether the model was asked to think. Where no line of a file says it, all are `on` if any of them
  holds a thought, and else `off`;
- `draw`, a number from 0: which answer to the question it is; left out, they are counted;
- `finish_reason`: why the text ended. One that is not known to end a whole answer makes the answer invalid;
- `dataset`, the name of its benchmark; `thought_tokens` and `completion_tokens`, if they were counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mralign.chat.thought import TAGS, Split, split_thinking
from mralign.config import Evaluation
from mralign.evaluation.benchmarks import short_answer
from mralign.questions.fields import texts_of
from mralign.questions.matching import MODES
from mralign.rows import Mode

FIELDS = (
    "id",
    "dataset",
    "question",
    "answers",
    "answer",
    "response",
    "thought",
    "mode",
    "draw",
    "finish_reason",
    "thought_tokens",
    "completion_tokens",
)
_COUNTS = ("draw", "thought_tokens", "completion_tokens")


@dataclass(frozen=True)
class Prediction:
    """One response; None where nothing is said. `place` is where it stands, for messages: line 3, sample 2."""

    place: str
    response: str
    thought: str = ""
    id: str | None = None
    dataset: str | None = None
    question: str | None = None
    answers: tuple[str, ...] = ()
    mode: Mode | None = None
    draw: int | None = None
    finish_reason: str = "stop"
    thought_tokens: int | None = None
    completion_tokens: int | None = None

    @property
    def text(self) -> str:
        """The whole completion, the thought in its tags."""
        if not self.thought.strip() or TAGS[1] in self.response:
            return self.response
        bare = self.thought.removeprefix(TAGS[0]).removesuffix(TAGS[1])
        return f"{TAGS[0]}{bare}{TAGS[1]}{self.response}"

    @property
    def thinks(self) -> bool:
        """Whether a thought, or its end, stands in it."""
        return bool(self.thought.strip()) or TAGS[0] in self.response or TAGS[1] in self.response


def prediction_of(value: Any, *, place: str) -> Prediction:
    """The prediction that an object says. Raises ValueError, with its place, for one that says none."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{place} is {type(value).__name__}; allowed is an object with the field `response`")
    counts = {name: _count(value, name, place=place) for name in _COUNTS}
    mode = _text(value, "mode", place=place)
    if mode is not None and mode not in tuple(Mode):
        raise ValueError(f"{place}: mode is {mode!r:.40}; allowed are on (with thinking) and off (without)")
    dataset, response = _text(value, "dataset", place=place), _text(value, "response", place=place)
    if response is None:
        raise ValueError(f"{place} has no `response`; it has {sorted(map(str, value))!r:.200}")
    return Prediction(
        place=place,
        response=response,
        thought=_text(value, "thought", place=place) or "",
        id=_own_id(value, place=place),
        dataset=None if dataset is None else dataset_name(dataset),
        question=_text(value, "question", place=place),
        answers=_answers(value, place=place),
        mode=None if mode is None else Mode(mode),
        # null says that nobody knows why the text ended; a missing field that it is whole
        finish_reason=str(value.get("finish_reason", "stop")),
        **counts,
    )


def dataset_name(said: str) -> str:
    """A name as sources of questions have it: it stands in ids, in tables and in names of files."""
    return re.sub(r"[^\w.-]+", "_", said).strip("_.")[:80] or "predictions"


def _text(value: Mapping[str, Any], name: str, *, place: str) -> str | None:
    found = value.get(name)
    if found is None:
        return None
    if not isinstance(found, str):
        raise ValueError(f"{place}: `{name}` is {type(found).__name__}; allowed is text")
    try:  # JSON may spell half a character (\ud83d), which no file can hold
        found.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{place}: `{name}` is not valid Unicode; write it anew") from None
    return found


def _own_id(value: Mapping[str, Any], *, place: str) -> str | None:
    found = value.get("id")
    return str(found) if isinstance(found, int) and not isinstance(found, bool) else _text(value, "id", place=place)


def _count(value: Mapping[str, Any], name: str, *, place: str) -> int | None:
    found = value.get(name)
    if found is None:
        return None
    if isinstance(found, str) and found.isdecimal():  # a cell of a CSV file
        found = int(found)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 2**31:
        raise ValueError(f"{place}: `{name}` is {found!r:.40}; allowed is a number from 0")
    return found


def _answers(value: Mapping[str, Any], *, place: str) -> tuple[str, ...]:
    found = value.get("answers", value.get("answer"))
    if found is None:
        return ()
    texts = texts_of(found, lists=False)
    if texts is None:
        raise ValueError(f"{place}: `answers` is {type(found).__name__}; allowed is a text or a list of texts")
    return tuple(dict.fromkeys(texts))


def modes_of(predictions: Sequence[Prediction]) -> list[Mode]:
    """The mode of each prediction: its own, else `on` for all that say none if any of these holds a thought."""
    thinks = any(one.thinks for one in predictions if one.mode is None)
    other = Mode.ON if thinks else Mode.OFF
    return [one.mode or other for one in predictions]


def split_prediction(prediction: Prediction, *, mode: Mode) -> Split:
    """Thought and answer of a prediction, or why it cannot be judged."""
    return split_thinking(prediction.text, mode=mode, finish_reason=prediction.finish_reason)


def score(
    predictions: Iterable[Mapping[str, Any]], *, match: str = "exact", level: float = 0.95, samples: int = 2000
) -> dict[str, Any]:
    """Acc, Mis and their intervals of responses that were made elsewhere (docs/method.md §6, equation 6.1).

    Each prediction is a mapping with `response` (the text, its thought between <think> and </think> or in a field
    `thought`) and `answers` (gold, a text or a list), and if you like `id` or `question` (draws of one question belong
    together), `mode` and `finish_reason`: the fields of mralign/evaluation/predictions.py. All must be of one mode,
    with thinking or without. `match`: exact | contains | paper, see `matches`. The figures are shares in [0, 1]: acc,
    acc_contains, mis and mis_contains (None without thinking), each with its interval under `_ci`; n counts questions,
    draws responses. Raises ValueError for no predictions, for one without response or answers, and for two modes.

    >>> import mralign
    >>> right = {"question": "Capital of France?", "answers": ["Paris"], "response": "<think>Paris.</think>Paris"}
    >>> lost = {"question": "Capital of Peru?", "answers": ["Lima"], "response": "<think>Lima, no.</think>Cusco"}
    >>> found = mralign.score([right, lost])
    >>> found["acc"], found["mis"], found["n"]
    (0.5, 0.5, 2)
    """
    if match not in MODES:
        raise ValueError(f"match is {match!r}; allowed are {', '.join(MODES)}")
    settings = Evaluation.model_validate({"match": match})
    given = [prediction_of(value, place=f"prediction {number}") for number, value in enumerate(predictions)]
    if not given:
        raise ValueError("no predictions given; allowed is one or more, each with `response` and `answers`")
    modes = modes_of(given)
    if len(set(modes)) > 1:
        raise ValueError("predictions of both modes given; allowed is one: score those with thinking and without apart")
    bare = next((one.place for one in given if not one.answers), None)
    if bare is not None:
        raise ValueError(f"{bare} has no gold answers; give them under `answers`")
    rows = [_scored(one, mode=mode, settings=settings) for one, mode in zip(given, modes, strict=True)]
    return short_answer.figures(rows, level=level, samples=samples)


def _scored(prediction: Prediction, *, mode: Mode, settings: Evaluation) -> dict[str, Any]:
    found = split_prediction(prediction, mode=mode)
    row = {
        "question_id": prediction.id or prediction.question or prediction.place,
        "mode": mode,
        "text": prediction.text,
        "answers": list(prediction.answers),
        "answer": found.answer,
        "invalid": found.invalid,
        "thought_start": found.thought_start,
        "thought_end": found.thought_end,
        "thought_tokens": prediction.thought_tokens,
    }
    return row | short_answer.score(row, {}, settings)
