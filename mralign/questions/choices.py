"""Questions with choices: which there are, which of them is right, how they are shown, and what counts as the answer.

What a record holds as choices and as its answer enters: a list, an object by letters, columns, texts with labels of
their own; a number, a letter or a text. `Choices` leave, lettered anew from A. The letter and the text of the right
choice are both gold answers, and so is its line.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from mralign.questions.fields import number_text, texts_of
from mralign.questions.literals import parse_literal

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_OWN_LABEL = re.compile(r"[(\[]?([A-Za-z])[)\].:：、．）]\s*")
_NUMBERED = re.compile(r"(.*?)(\d+)", re.DOTALL)
_WHOLE = re.compile(r"-?\d+(?:\.0*)?")


@dataclass(frozen=True)
class Choices:
    """Texts in the order in which they are shown, and the indices of those that are right."""

    texts: tuple[str, ...]
    right: tuple[int, ...]

    def golds(self) -> list[str]:
        """The gold answers: of each right choice its text, its letter, and its line."""
        answers: list[str] = []
        for index in self.right:
            answers += [self.texts[index], LETTERS[index], choice_line(index, self.texts[index])]
        return list(dict.fromkeys(answers))

    def shuffled(self, *, by: str) -> Choices:
        """The same choices in an order that follows from `by`, the question's id."""
        order = sorted(range(len(self.texts)), key=lambda index: sha256(f"{by}:{index}".encode()).digest())
        right = tuple(sorted(order.index(index) for index in self.right))
        return replace(self, texts=tuple(self.texts[index] for index in order), right=right)


@dataclass(frozen=True)
class Offered:
    """The choices of a record before its answer is looked up: their texts, and the labels that the record gives them.

    `numbers` are the values of those that are numbers, not texts.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    numbers: tuple[Any, ...]


def choice_line(index: int, text: str) -> str:
    """A choice as the prompt shows it."""
    return f"{LETTERS[index]}) {text}"


def without_letters(golds: Sequence[str]) -> list[str]:
    """Gold answers without the letters of choices: a letter that stands beside its own line. A text about choices names
    every letter, so that a letter in it says nothing."""
    letters = {gold[0] for gold in golds if gold[1:3] == ") " and gold[0] in LETTERS}
    return [gold for gold in golds if gold not in letters]


def choice_lines(choices: Sequence[str]) -> str:
    """All choices, one a line."""
    return "\n".join(choice_line(index, text) for index, text in enumerate(choices))


def offered(values: Mapping[str, Any]) -> Offered:
    """The choices in the fields of a record, by the names of the fields; those that are not there are left out.

    One field holds a list, an object by label, labels and texts side by side, or one of these spelled in a text;
    several fields hold a text each, and are labelled by their names if these are letters or end in numbers. ValueError
    if they are no choices.
    """
    given = {name: value for name, value in values.items() if value not in (None, "", [])}
    if len(given) == 1:
        (value,) = given.values()
        pairs = _pairs(parse_literal(value) if isinstance(value, str) else value)
    else:
        pairs = list(zip(_labels_of(list(given)), given.values(), strict=True))
    labels = [str(label).strip() for label, _ in pairs]
    texts = [_one_text(value) for _, value in pairs]
    while texts and not texts[-1]:
        texts.pop()
    if not 2 <= len(texts) <= len(LETTERS) or not all(texts):
        raise ValueError(f"a question must have 2 to {len(LETTERS)} choices, each a text, not {dict(values)!r:.120}")
    numbers = [value if isinstance(value, int | float) else None for _, value in pairs]
    count = len(texts)
    return Offered(tuple(_without_own_labels(texts)), tuple(labels[:count]), tuple(numbers[:count]))


def _without_own_labels(texts: list[str]) -> list[str]:
    """The texts without the letters before them (`A) ...`), if all begin with the letter of their place."""
    own = [_OWN_LABEL.match(text) for text in texts]
    for letter, label in zip(LETTERS, own, strict=False):
        if label is None or label[1].upper() != letter:
            return texts
    return [text[label.end() :] for text, label in zip(texts, own, strict=True) if label]


def _labels_of(names: Sequence[str]) -> list[str]:
    """Labels of fields: their names, or the numbers at the end of their names (option1, option2); else empty ones."""
    if all(len(name) == 1 and name.upper() in LETTERS for name in names):
        return list(names)
    numbered = [_NUMBERED.fullmatch(name) for name in names]
    if all(numbered) and len({match[1] for match in numbered if match}) == 1:
        return [match[2] for match in numbered if match]
    return [""] * len(names)


def marked(answers: Sequence[Any], choices: Offered) -> list[int] | None:
    """The choices that a list of marks, a 0 or 1 (false or true) a choice, calls right; None if it is no such list."""
    marks = [mark for mark in answers if isinstance(mark, int | float) and mark in (0, 1)]
    if len(marks) < len(answers) or len(marks) != len(choices.texts) or not any(marks):
        return None
    return [index for index, mark in enumerate(marks) if mark]


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    """(label, text) of every choice in a list or object; an empty label where there is none."""
    if isinstance(value, Mapping):
        texts, labels = value.get("text"), value.get("label")
        if isinstance(texts, list) and isinstance(labels, list) and len(texts) == len(labels):
            return list(zip(labels, texts, strict=True))
        return [(label, text) for label, text in value.items() if text is not None]
    if not isinstance(value, list | tuple):
        return []
    pairs = []
    for item in value:
        if isinstance(item, Mapping) and "text" in item:
            pairs.append((item.get("label", item.get("key", "")), item["text"]))
        else:
            pairs.append(("", item))
    return pairs


def _one_text(value: Any) -> str:
    texts = [str(value).lower()] if isinstance(value, bool) else texts_of(value, lists=False)
    return texts[0] if texts and len(texts) == 1 else ""


def resolve(answer: Any, choices: Offered, *, reading: str = "auto") -> int:
    """The index of the choice that `answer` (a number or a text) names.

    `reading`: letter, text, index (from 0) or number (from 1); auto tries letter, text and index. ValueError if the
    answer names no choice; LookupError if it names different ones by different readings.
    """
    wanted = ("letter", "text", "index") if reading == "auto" else (reading,)
    readings = [(name, index) for name, index in _readings(answer, choices) if name in wanted]
    named = {index for _, index in readings}
    if not named:
        raise ValueError(f"answer {answer!r:.80} names no choice by {' or '.join(wanted)}: {choices.texts!r:.200}")
    if len(named) > 1:
        by = ", ".join(f"{LETTERS[index]} by {name}" for name, index in readings)
        raise LookupError(f"answer {answer!r:.80} names different choices ({by}); say with `answer_is` which is meant")
    return named.pop()


def _readings(answer: Any, choices: Offered) -> list[tuple[str, int]]:
    """Every (reading, index of the choice) by which the answer names one."""
    count = len(choices.texts)
    number = _whole(answer)
    readings: list[tuple[str, int]] = []
    if number is not None and 0 <= number < count:
        readings.append(("index", number))
    if number is not None and 1 <= number <= count:
        readings.append(("number", number - 1))
    return readings + (_of_text(answer, choices) if isinstance(answer, str) else _of_number(answer, choices))


def _of_number(answer: Any, choices: Offered) -> list[tuple[str, int]]:
    """Readings of an answer that is no text: a choice of the same value, or a label that spells it."""
    same = [index for index, value in enumerate(choices.numbers) if value is not None and value == answer]
    wanted = number_text(answer) if isinstance(answer, int | float) else ""
    labelled = [index for index, label in enumerate(choices.labels) if label and label == wanted]
    return [("text", index) for index in same] + [("letter", index) for index in labelled]


def _of_text(answer: str, choices: Offered) -> list[tuple[str, int]]:
    """Readings of a text: a choice with that text (a letter before it left out), or the label of one."""
    bare = answer.strip()
    own = _OWN_LABEL.match(bare)
    spellings = {bare, bare[own.end() :]} if own else {bare}
    same = [index for index, text in enumerate(choices.texts) if text in spellings]
    labelled = _by_label(bare, choices)
    if own and not same:
        labelled += _by_label(own[1], choices)
    return [("text", index) for index in same] + [("letter", index) for index in labelled]


def _by_label(text: str, choices: Offered) -> list[int]:
    bare = unicodedata.normalize("NFKC", text).strip("()[].: ").upper()
    labels = [label or LETTERS[index] for index, label in enumerate(choices.labels)]
    return [index for index, label in enumerate(labels) if label.upper() == bare]


def _whole(answer: Any) -> int | None:
    """The whole number that an answer is or spells (2, 2.0, "2"); None if it is none."""
    if isinstance(answer, bool) or not isinstance(answer, int | float | str):
        return None
    text = str(answer).strip()
    return int(text.partition(".")[0]) if len(text) < 10 and _WHOLE.fullmatch(text) else None
