"""Which draw of a question is made next, so that none is made that cannot matter any more.

The draws of a question so far enter; the next one leaves, or None where the question is settled. Positive and negative
need all N draws to agree (method.md §1), so the first contrary draw settles a question, and so does a first thought
that is too short or too long to be kept. Draws without thinking come first: they cost a fraction of a thought. A first
thought is ended once it has too many tokens or segments, whatever would follow. What is left are the candidates of the
full set of draws, row by row, as every draw has a seed of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from mralign.rollouts.candidates import Limits, given_up
from mralign.rollouts.segmentation import blank_lines, segments
from mralign.rows import Generation, Mode

# A thought that is cut after so many tokens more than may be kept has that many, however its last word goes on.
_MARGIN = 16
_ANSWER_SHARE = 4  # a quarter of the longest thought is left for the answer
_LONGEST_TAG = 64  # characters; what is no longer may be the beginning of the tag that closes the thought
MANY_SEGMENTS, LONG_THOUGHT = "many_segments", "long_thought"
CUT = (MANY_SEGMENTS, LONG_THOUGHT)  # reasons of a draw that was not drawn to its end


@dataclass(frozen=True)
class DrawsAsNeeded:
    """What `candidates.judge` asks of a question; see there."""

    match: str
    draws: int
    limits: Limits
    keep_all_draws: bool

    def next_draw(self, rows: Sequence[Generation]) -> tuple[Mode, int] | None:
        """The draw to make after `rows`, all of one question; None: it is settled."""
        group: dict[tuple[str, int], Generation] = {(Mode(row.mode), row.draw): row for row in rows}
        if group and given_up(
            group,
            match=self.match,
            draws=self.draws,
            limits=self.limits,
            keep_all_draws=self.keep_all_draws,
        ):
            return None
        for mode, draw in product((Mode.OFF, Mode.ON), range(self.draws)):
            if (mode, draw) not in group:
                return mode, draw
        return None

    def enough_tokens(self, mode: Mode, draw: int) -> int | None:
        """Tokens after which it is nearly always known that a draw cannot be kept; None: it is drawn to its end.

        Of all but the first thought the answer matters as well, however long they are.
        """
        if mode is not Mode.ON or draw != 0 or self.keep_all_draws:
            return None
        longest = self.limits.max_thought_tokens
        return longest + max(2 * _MARGIN, longest // _ANSWER_SHARE)

    def why_cut(self, row: Generation) -> str | None:
        """Why an unfinished first thought cannot be kept, whatever would follow; None: it still can."""
        if row.thought_tokens >= self.limits.max_thought_tokens + _MARGIN:
            return LONG_THOUGHT
        return MANY_SEGMENTS if certain_segments(row) >= self.limits.max_segments else None

    def may_be_enough(self, text: str, *, tokens: int) -> bool:
        """Whether a thought that has come so far can have too many tokens or segments."""
        if tokens >= self.limits.max_thought_tokens + _MARGIN:
            return True
        fewest = self.limits.max_segments - 1  # blank lines between so many segments and one
        return text.count("\n") >= 2 * fewest and blank_lines(text) >= fewest


def certain_segments(row: Generation) -> int:
    """Segments that the thought of an unfinished draw has, whatever follows. Its last one does not count where it may
    be the beginning of a tag."""
    spans = segments(row.text, start=row.thought_start, end=row.thought_end)
    is_open = row.thought_end == len(row.text)
    if spans and is_open and len(row.text[spans[-1][0] :].strip()) <= _LONGEST_TAG:
        return len(spans) - 1
    return len(spans)


@dataclass(frozen=True)
class Made:
    """What was drawn in one mode: whole draws with their tokens, and thoughts that were cut with theirs."""

    whole: int
    tokens: int
    cut: int = 0
    cut_tokens: int = 0


def saved(made: Mapping[Mode, Made], *, questions: int, draws: int, asked_again: int) -> dict[str, Any]:
    """What was not drawn, and an estimate of its tokens: as many a draw as the whole ones of its mode have on average.

    `asked_again`: tokens of thoughts that were cut and made again.
    """
    missing = estimate = 0.0
    for one in made.values():
        left = questions * draws - one.whole - one.cut
        mean = one.tokens / one.whole if one.whole else 0.0
        missing += left
        estimate += left * mean + max(0.0, one.cut * mean - one.cut_tokens)
    sampled = sum(one.tokens + one.cut_tokens for one in made.values()) + asked_again
    all_tokens = sampled - asked_again + estimate
    return {
        "draws_not_needed": int(missing),
        "thoughts_cut": sum(one.cut for one in made.values()),
        "tokens_asked_again": asked_again,
        "tokens_sampled": sampled,
        "tokens_of_all_draws_estimate": round(all_tokens),
        "share_of_tokens_sampled_estimate": round(sampled / all_tokens, 3) if all_tokens else None,
    }
