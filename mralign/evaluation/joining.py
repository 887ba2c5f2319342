"""Which question each prediction answers.

Questions (rows of schema QUESTIONS) and predictions enter; the predictions by question, mode and number of the draw
leave, and those that answer no question of these. A prediction names its question by its id (with or without the data
set before it) or by its text. Where it says both, both must fit: in another file the same number is another question.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mralign.evaluation.predictions import Prediction, modes_of
from mralign.questions.normalisation import key
from mralign.rows import Mode

Place = tuple[str, Mode, int]  # question_id, mode, draw


@dataclass(frozen=True)
class Joined:
    """Predictions by what they answer, and those that answer no question that was given."""

    by_place: Mapping[Place, Prediction]
    unmatched: tuple[Prediction, ...]


class QuestionIndex:
    """Questions by their ids and by their texts."""

    def __init__(self, questions: Iterable[Mapping[str, Any]]) -> None:
        self.text: dict[str, str] = {}
        self.by_own_id: dict[str, list[str]] = defaultdict(list)
        self.by_text: dict[str, list[str]] = defaultdict(list)
        for row in questions:
            question_id, text = row["question_id"], key(row["question"])
            self.text[question_id] = text
            self.by_own_id[question_id.removeprefix(f"{row['dataset']}/")].append(question_id)
            self.by_text[text].append(question_id)

    def find(self, prediction: Prediction) -> str | None:
        """The id of the question that a prediction answers; None if there is none of that id or text.

        Raises ValueError where several are meant, and where its id and its text name different questions.
        """
        said = None if prediction.question is None else key(prediction.question)
        if prediction.id is None:
            return None if said is None else self._one(self.by_text.get(said, []), prediction, named="question")
        found = self._of_id(prediction)
        if found is None or said is None or self.text[found] in said:  # a prompt holds its question
            return found
        by_text = self.by_text.get(said, [])
        if not by_text:
            raise ValueError(
                f"{prediction.place}: the id {prediction.id!r:.80} is that of another question here; give the ids of "
                f"the questions, or leave the id out, and the text decides"
            )
        return self._one(by_text, prediction, named="question")

    def _of_id(self, prediction: Prediction) -> str | None:
        own_id = str(prediction.id)
        for name in (own_id, f"{prediction.dataset}/{own_id}"):
            if name in self.text:
                return name
        return self._one(self.by_own_id.get(own_id, []), prediction, named="id")

    def _one(self, found: Sequence[str], prediction: Prediction, *, named: str) -> str | None:
        own = [name for name in found if prediction.dataset and name.startswith(f"{prediction.dataset}/")]
        chosen = own or found
        if len(chosen) > 1:
            raise ValueError(
                f"{prediction.place}: its {named} is that of {len(chosen)} questions, {list(chosen[:3])}; give "
                f"`dataset`, and the `id` of one of them"
            )
        return chosen[0] if chosen else None


def join(predictions: Sequence[Prediction], *, questions: Iterable[Mapping[str, Any]]) -> Joined:
    """The predictions by question, mode and draw. Draws of a question are numbered from 0 in their order.

    Raises ValueError as `QuestionIndex.find` does, and for two predictions that are the same draw of one question.
    """
    index = QuestionIndex(questions)
    groups: dict[tuple[str, Mode], list[Prediction]] = defaultdict(list)
    unmatched = []
    for prediction, mode in zip(predictions, modes_of(predictions), strict=True):
        question_id = index.find(prediction)
        if question_id is None:
            unmatched.append(prediction)
        else:
            groups[question_id, mode].append(prediction)
    by_place = {}
    for (question_id, mode), group in groups.items():
        for draw, prediction in enumerate(in_order(group)):
            by_place[question_id, mode, draw] = prediction
    return Joined(by_place, tuple(unmatched))


def in_order(draws: Sequence[Prediction]) -> list[Prediction]:
    """The draws of one question and mode by their numbers, those without a number last, as they came."""
    seen: dict[int, str] = {}
    for one in draws:
        if one.draw is not None and one.draw in seen:
            raise ValueError(
                f"{one.place}: it is draw {one.draw} of a question, and so is {seen[one.draw]}; number the draws of a "
                f"question from 0, or leave `draw` out, and they are counted"
            )
        if one.draw is not None:
            seen[one.draw] = one.place
    numbered = sorted((one for one in draws if one.draw is not None), key=lambda one: one.draw or 0)
    return numbered + [one for one in draws if one.draw is None]
