"""The rounds of a run: what each one sampled, and what its policy reached, as one table.

`rounds.json` in the directory of the first round enters, one record a round; rows for the page and for the terminal
leave. A round beyond the first lies in `round-2`, `round-3`, … below that directory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mralign.report.blocks import Block, Grid, Text
from mralign.report.wording import DASH, aligned, number, percent, signed
from mralign.run.store import Directory, absolute

FILE = "rounds.json"
OWN_CONFIG = "rounds.yaml"  # the configuration that the rounds were started with
CHANGED = {"all": "P", "positive": "P⁺", "negative": "P⁻"}  # matrices whose change is told
_FOLDER = re.compile(r"/round-([2-9]|[1-9]\d+)$")
_LEAD = (
    "Each row is a round; Acc, Mis and the length of thoughts are those of its policy, thinking, on the dev questions. "
    "The gain is over the policy with which the round began, paired by question. What stands under `sampled` is of the "
    "answers to the training questions with which the round began, so of the policy before: candidates, pairs of draws "
    "whose normalised answers differ, the mean distance 1 − |A ∩ B| / |A ∪ B| of the neighbouring words of two "
    "thoughts, and how far P, P⁺ and P⁻ lie from those of the round before (largest and mean |Δ| of all entries). "
    "Round 0 is the model before any round."
)


@dataclass(frozen=True)
class RoundRecord:
    """What is known of a round. Shares in [0, 1]; None: there is none of it.

    `model`: where the policy lies; `marks`: fingerprints of the stages that the record was made from; `changes`: by
    matrix the largest and the mean |Δ| from the round before.
    """

    number: int
    model: str
    acc: float | None
    mis: float | None
    thought_tokens: float | None
    questions: int  # of dev, that count
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    p: float | None = None
    positives: int | None = None
    negatives: int | None = None
    answers_differ: float | None = None
    thoughts_differ: float | None = None
    changes: Mapping[str, Sequence[float]] = field(default_factory=dict)
    marks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rounds:
    """All rounds of a run so far. `ended`: why no other follows, empty while they go on; `kept`: the round whose
    policy is the result."""

    of: int
    reference: str  # fixed | moving
    rule: str  # when another round follows, in words
    records: tuple[RoundRecord, ...] = ()
    ended: str = ""
    kept: int | None = None

    def record(self, number: int) -> RoundRecord | None:
        """The record of a round, if there is one."""
        return next((one for one in self.records if one.number == number), None)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)


def round_directory(run_dir: str, number: int) -> str:
    """The run directory of a round."""
    return absolute(run_dir) if number == 1 else f"{absolute(run_dir)}/round-{number}"


def first_directory(run_dir: str) -> str:
    """The directory of the first round, by that of any round."""
    return _FOLDER.sub("", absolute(run_dir))


def rounds_of(run_dir: str) -> Rounds | None:
    """The rounds that a run directory belongs to, None where there are none. Raises ValueError for a torn file."""
    home = Directory(first_directory(run_dir))
    text = home.find_text(FILE)
    if text is None:
        return None
    try:
        values: dict[str, Any] = json.loads(text)
        records = tuple(RoundRecord(**record) for record in values.pop("records"))
        return Rounds(**values, records=records)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{home.uri}/{FILE} cannot be read: {error}; delete it and run the same command") from None


def write_rounds(run_dir: str, rounds: Rounds) -> None:
    """Write the file, unless it says that already."""
    home, text = Directory(absolute(run_dir)), rounds.to_json()
    if home.find_text(FILE) != text:
        home.write_text(FILE, text)


_HEAD = ("round", "Acc %", "Mis %", "thought tokens", "gain, points", "p")
_SAMPLED = ("sampled +", "−", "answers differ %", "thoughts differ %")


def table_of(rounds: Rounds) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Titles and rows."""
    head = (*_HEAD, *_SAMPLED, *(f"max, mean |Δ{title}|" for title in CHANGED.values()))
    return head, [_row(record) for record in rounds.records]


def _row(one: RoundRecord) -> tuple[str, ...]:
    return (
        str(one.number),
        percent(one.acc),
        percent(one.mis),
        DASH if one.thought_tokens is None else f"{one.thought_tokens:.1f}",
        _gain(one),
        DASH if one.p is None else f"{one.p:.3f}",
        number(one.positives),
        number(one.negatives),
        percent(one.answers_differ),
        percent(one.thoughts_differ),
        *(_change(one.changes.get(name)) for name in CHANGED),
    )


def _gain(one: RoundRecord) -> str:
    if one.gain is None or one.gain_low is None or one.gain_high is None:
        return DASH
    low, high = signed(100 * one.gain_low), signed(100 * one.gain_high)
    return f"{signed(100 * one.gain)} [{low}, {high}]"


def _change(found: Sequence[float] | None) -> str:
    return DASH if not found else f"{found[0]:.3f}, {found[1]:.4f}"


def rounds_text(rounds: Rounds) -> str:
    """The table for a terminal, and how it stands."""
    head, rows = table_of(rounds)
    return f"{aligned([head, *rows])}\n\n{_standing(rounds)}"


def _standing(rounds: Rounds) -> str:
    if not rounds.ended:
        return f"{rounds.of} rounds at most, reference {rounds.reference}; {rounds.rule}"
    return f"{rounds.ended}; the result is the policy of round {rounds.kept}"


def rounds_blocks(run_dir: str) -> list[Block] | None:
    """The table for the page; None for a run of one round."""
    rounds = rounds_of(run_dir)
    if rounds is None:
        return None
    head, rows = table_of(rounds)
    rule = f"Reference: {rounds.reference}. {_standing(rounds)[:1].upper()}{_standing(rounds)[1:]}."
    return [Text(_LEAD), Grid("Rounds", head, rows), Text(rule, quiet=True)]
