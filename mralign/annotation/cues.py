"""The offline annotator: cue phrases instead of a language model.

The segments of a thought enter, an annotator's steps (`StepLabels`) leave. A rule book in YAML says which phrase speaks
for which label and how strongly, so that two different books disagree the way two annotators do and the whole consensus
of method.md §2a runs without a network. The three books beside this
file (rule_books/) know common English of reasoning models and the
sentences of the mini world.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml

from mralign.annotation.step_labels import StepLabels

_RULE_KEYS = {"pattern", "label", "confidence"}
_BOOK_KEYS = {"merge_equal", "second_from", "rules"}


@dataclass(frozen=True)
class CueRule:
    """One cue: `pattern` (ignoring case; at the start of the segment where it begins with ^) speaks for `label`."""

    pattern: re.Pattern[str]
    label: str
    confidence: float  # 0..10


@dataclass(frozen=True)
class RuleBook:
    """The rules of one annotator and its habits."""

    rules: tuple[CueRule, ...]
    merge_equal: bool  # neighbours with the same label set become one step
    second_from: float  # a label below this confidence can only stand alone

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label the book can give, in the order of its rules."""
        return tuple(dict.fromkeys(rule.label for rule in self.rules))


def load_rule_book(path: str) -> RuleBook:
    """Read a rule book: `merge_equal`, `second_from` and `rules`, a list of {pattern, label, confidence}.

    Raises ValueError naming the file, the rule (counted from 1), what is allowed and what to do.
    """
    with open(path, encoding="utf-8") as file:
        return _read_rule_book(file.read(), path)


@lru_cache(maxsize=64)  # a plan reads each some twenty times, and YAML is slow
def _read_rule_book(text: str, path: str) -> RuleBook:
    file = io.StringIO(text)
    file.name = path  # by which YAML says where a fault is
    try:
        raw = yaml.safe_load(file)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}; mend the file") from error
    if not isinstance(raw, dict) or set(raw) != _BOOK_KEYS:
        given = sorted(map(str, raw)) if isinstance(raw, dict) else type(raw).__name__
        raise ValueError(f"{path}: a rule book has exactly the keys {sorted(_BOOK_KEYS)}, got {given}; mend the file")
    if not isinstance(raw["merge_equal"], bool):
        raise ValueError(f"{path}: merge_equal is {raw['merge_equal']!r}; allowed are true and false")
    second_from = _confidence(raw["second_from"], where=f"{path}: second_from")
    if not isinstance(raw["rules"], list) or not raw["rules"]:
        raise ValueError(f"{path}: `rules` must be a list with at least one rule, got {raw['rules']!r}; add rules")
    rules = tuple(_rule(item, where=f"{path}: rule {number}") for number, item in enumerate(raw["rules"], start=1))
    return RuleBook(rules=rules, merge_equal=raw["merge_equal"], second_from=second_from)


def _rule(item: Any, *, where: str) -> CueRule:
    """One rule of the file; ValueError beginning with `where`."""
    if not isinstance(item, dict) or set(item) != _RULE_KEYS:
        raise ValueError(f"{where} is {item!r}; allowed are exactly the keys {sorted(_RULE_KEYS)}; mend the rule")
    pattern, label, confidence = item["pattern"], item["label"], item["confidence"]
    if not isinstance(label, str) or not label:
        raise ValueError(f"{where} has label {label!r}; allowed is a text that is not empty (quote it)")
    confidence = _confidence(confidence, where=f"{where}: confidence")
    if not isinstance(pattern, str) or not pattern:
        raise ValueError(f"{where} has pattern {pattern!r}; allowed is a regular expression in quotes")
    try:
        return CueRule(re.compile(pattern, re.IGNORECASE), label, confidence)
    except re.error as error:
        raise ValueError(
            f"{where} has pattern {pattern!r}, no regular expression ({error}); mend the pattern"
        ) from error


def _confidence(value: Any, *, where: str) -> float:
    """A confidence from the file; ValueError beginning with `where`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 10:
        raise ValueError(f"{where} is {value!r}; allowed is a number from 0 to 10; mend it")
    return float(value)


def score(text: str, *, book: RuleBook) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Labels and confidences of one piece of text: each label by its strongest matching rule, the best two labels.

    The second only if it reaches `second_from`. Equal confidences keep the order of the book. No match gives no label:
    silence is not an opinion.
    """
    text = text.strip().replace("\u2019", "'")
    best: dict[str, float] = {}
    for rule in book.rules:
        if rule.confidence > best.get(rule.label, -1.0) and rule.pattern.search(text):
            best[rule.label] = rule.confidence
    order = {label: place for place, label in enumerate(book.labels)}
    labels = sorted(best, key=lambda label: (-best[label], order[label]))[:2]
    labels = labels[:1] + [label for label in labels[1:] if best[label] >= book.second_from]
    return tuple(labels), tuple(best[label] for label in labels)


def annotate(segments: Sequence[str], *, book: RuleBook) -> list[StepLabels]:
    """One annotator's steps over the segments of a thought: one a segment, or fewer where the book merges equals."""
    steps: list[StepLabels] = []
    for index, segment in enumerate(segments):
        labels, confidences = score(segment, book=book)
        step = StepLabels(index, index, labels, confidences)
        if book.merge_equal and steps and set(steps[-1].labels) == set(labels):
            steps[-1] = _merge(steps[-1], step)
        else:
            steps.append(step)
    return steps


def _merge(left: StepLabels, right: StepLabels) -> StepLabels:
    """Two neighbours with the same label set as one step; each label keeps its higher confidence."""
    other = dict(zip(right.labels, right.confidences, strict=True))
    best = {label: max(value, other[label]) for label, value in zip(left.labels, left.confidences, strict=True)}
    labels = sorted(best, key=lambda label: -best[label])
    return StepLabels(left.first_segment, right.last_segment, tuple(labels), tuple(best[label] for label in labels))


def adjudicate(spans: Sequence[tuple[int, int]], *, segments: Sequence[str], book: RuleBook) -> list[StepLabels]:
    """The adjudicator's labels of disputed spans (first, last): each is scored as one text (method.md §2a, rule 3)."""
    return [
        StepLabels(first, last, *score("\n\n".join(segments[first : last + 1]), book=book)) for first, last in spans
    ]
