"""Candidates: the questions where thinking decided the answer.

Enters: all generations of some questions, N think-on and N think-off draws each. Leaves: the think-on trajectories of
questions where thinking helped or hurt in every draw, cut into segments and within the length limits, and a reason for
everything else. method.md §1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from mralign.chat.endings import UNFINISHED
from mralign.questions.matching import answer_matches, thought_matches
from mralign.rollouts.segmentation import segments
from mralign.rows import Candidate, Generation, Mode, Polarity, Reject

LENGTH_REASONS = ("few_segments", "many_segments", "short_thought", "long_thought")

Draws = Mapping[tuple[str, int], Generation]  # the generations of one question by mode and number of the draw


@dataclass(frozen=True)
class Limits:
    """The length filter: OPEN intervals of segments and of thought tokens. Defaults: method.md §1 [paper]."""

    min_segments: int = 4
    max_segments: int = 15
    min_thought_tokens: int = 450
    max_thought_tokens: int = 1000


def judge(
    rows: Sequence[Generation],
    *,
    match: str,
    draws: int,
    limits: Limits,
    keep_all_draws: bool,
    keep_neutral: bool = False,
    as_needed: bool = False,
) -> tuple[list[Candidate], list[Reject]]:
    """Candidates, by question id and draw, and rejects of all `rows`.

    `match`: exact | contains | paper, for EM_a. `draws`: N of each mode. `keep_all_draws`: all N think-on
    trajectories of a question, not draw 0 alone. `keep_neutral`: undecided questions leave as neutral instead of as
    rejects. `as_needed`: draws that could not matter any more were not made (needed.py). Reasons, one reject a
    question: missing_draw, the draw's own (`invalid`), undecided, and with `as_needed` what `given_up` tells; then one
    a trajectory: few_segments, many_segments, short_thought, long_thought.
    Raises ValueError for a draw number that `draws` does not allow, or one that comes twice.
    """
    kept: list[Candidate] = []
    rejects: list[Reject] = []
    for question_id, group in sorted(_by_question(rows, draws=draws).items()):
        whole = len(group) == 2 * draws
        verdict: Polarity | Reject | None = None
        if as_needed and not whole:
            verdict = given_up(group, match=match, draws=draws, limits=limits, keep_all_draws=keep_all_draws)
        if verdict is None:
            verdict = _verdict(question_id, group, match=match, draws=draws, keep_neutral=keep_neutral)
        if isinstance(verdict, Reject):
            rejects.append(verdict)
            continue
        for draw in range(draws if keep_all_draws else 1):
            judged = _within_limits(group[Mode.ON, draw], polarity=verdict, match=match, limits=limits)
            if isinstance(judged, Reject):
                rejects.append(judged)
            else:
                kept.append(judged)
    return kept, rejects


def given_up(group: Draws, *, match: str, draws: int, limits: Limits, keep_all_draws: bool) -> Reject | None:
    """Why no candidate can come of a question, whatever its further draws say; None while one still can.

    One of its draws cannot be judged, two of them contradict each other, or the trajectory that would be kept (draw 0)
    is too short or too long. Polarity and further draws of a question that is given up are not known.
    """
    for row in group.values():
        if row.invalid is not None:
            return invalid_draw(row, reason=row.invalid)
    z_on = _known(group, mode=Mode.ON, match=match, draws=draws)
    z_off = _known(group, mode=Mode.OFF, match=match, draws=draws)
    helped = False not in z_on and True not in z_off  # as far as is known
    hurt = True not in z_on and False not in z_off
    if not (helped or hurt):
        some = next(iter(group.values()))
        return _undecided(some, z_on=z_on, z_off=z_off)
    first = group.get((Mode.ON, 0))
    if first is None or keep_all_draws:
        return None
    judged = _within_limits(first, polarity=None, match=match, limits=limits)
    return judged if isinstance(judged, Reject) else None


def _known(group: Draws, *, mode: Mode, match: str, draws: int) -> list[bool | None]:
    """EM_a of each draw of a mode, None for one that was not made."""
    rows = [group.get((mode, draw)) for draw in range(draws)]
    return [None if row is None else _is_right(row, match=match) for row in rows]


def trajectory(row: Generation, *, polarity: Polarity, match: str) -> Candidate:
    """A valid think-on generation as a candidate: cut into segments, with EM_t and EM_a by `match`."""
    spans = segments(row.text, start=row.thought_start, end=row.thought_end)
    thought = row.text[row.thought_start : row.thought_end]
    return Candidate(
        row_id=row.row_id,
        question_id=row.question_id,
        dataset=row.dataset,
        question=row.question,
        answers=row.answers,
        polarity=polarity,
        prompt_token_ids=row.prompt_token_ids,
        token_ids=row.token_ids,
        text=row.text,
        thought_start=row.thought_start,
        thought_end=row.thought_end,
        segment_start=[start for start, _ in spans],
        segment_end=[end for _, end in spans],
        em_thought=thought_matches(thought, row.answers),
        em_answer=_is_right(row, match=match),
    )


def invalid_draw(row: Generation, *, reason: str) -> Reject:
    """The reject of a draw that cannot be judged; the detail tells the engine's own word for an unfinished one."""
    detail = f"finish_reason={row.finish_reason}" if reason == UNFINISHED else ""
    return Reject(row.row_id, reason, detail, row.text, dataset=row.dataset)


def _by_question(rows: Sequence[Generation], *, draws: int) -> dict[str, Draws]:
    groups: dict[str, dict[tuple[str, int], Generation]] = defaultdict(dict)
    for row in rows:
        group = groups[row.question_id]
        if (row.mode, row.draw) in group or not 0 <= row.draw < draws:
            raise ValueError(
                f"generation {row.row_id} comes twice or its draw is not one of 0 to {draws - 1}; give each draw "
                f"once, and the number of draws the generations were made with"
            )
        group[row.mode, row.draw] = row
    return dict(groups)


def _verdict(question_id: str, group: Draws, *, match: str, draws: int, keep_neutral: bool) -> Polarity | Reject:
    """Positive if (z_on, z_off) = (1, 0) in all draws, negative if (0, 1) in all; else neutral or the reject."""
    some = next(iter(group.values()))
    wanted = list(product(Mode, range(draws)))
    missing = [f"{mode}/{draw}" for mode, draw in wanted if (mode, draw) not in group]
    if missing:
        detail = f"missing={','.join(missing)}"
        return Reject(question_id, "missing_draw", detail, some.question, dataset=some.dataset)
    for key in wanted:
        reason = group[key].invalid
        if reason is not None:
            return invalid_draw(group[key], reason=reason)
    z_on = [_is_right(group[Mode.ON, draw], match=match) for draw in range(draws)]
    z_off = [_is_right(group[Mode.OFF, draw], match=match) for draw in range(draws)]
    if all(z_on) and not any(z_off):
        return Polarity.POSITIVE
    if all(z_off) and not any(z_on):
        return Polarity.NEGATIVE
    if keep_neutral:
        return Polarity.NEUTRAL
    return _undecided(some, z_on=z_on, z_off=z_off)


def _undecided(some: Generation, *, z_on: Sequence[bool | None], z_off: Sequence[bool | None]) -> Reject:
    detail = f"z_on={_bits(z_on)} z_off={_bits(z_off)}"
    return Reject(some.question_id, "undecided", detail, some.question, dataset=some.dataset)


def _is_right(row: Generation, *, match: str) -> bool:
    """EM_a of a valid draw."""
    assert row.answer is not None, row.row_id
    return answer_matches(row.answer, row.answers, mode=match, thinking=row.mode == Mode.ON)


def _bits(values: Sequence[bool | None]) -> str:
    """0 or 1 a draw, - for one that was not made."""
    return ",".join("-" if value is None else str(int(value)) for value in values)


def _within_limits(row: Generation, *, polarity: Polarity | None, match: str, limits: Limits) -> Candidate | Reject:
    """The trajectory of a draw, or the reject of one that is too short or too long."""
    candidate = trajectory(row, polarity=polarity or Polarity.NEUTRAL, match=match)
    count = len(candidate.segment_start)
    reason = _length_reason(segments=count, tokens=row.thought_tokens, limits=limits)
    if reason is None:
        return candidate
    detail = f"segments={count} thought_tokens={row.thought_tokens}"
    return Reject(row.row_id, reason, detail, row.text, dataset=row.dataset, polarity=polarity)


def _length_reason(*, segments: int, tokens: int, limits: Limits) -> str | None:
    if segments <= limits.min_segments:
        return "few_segments"
    if segments >= limits.max_segments:
        return "many_segments"
    if tokens <= limits.min_thought_tokens:
        return "short_thought"
    if tokens >= limits.max_thought_tokens:
        return "long_thought"
    return None
