"""Segments of a thought.

A completion's text and the span of its thought enter; the character spans of its segments leave, in characters of that
text, so that later rooms can follow tokens to segments without tokenising anything again. method.md §1.
"""

from __future__ import annotations

import re

_BLANK_LINE = re.compile(r"\r?\n\r?\n")


def segments(text: str, *, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
    r"""Spans (start, end) of the segments of the thought text[start:end], in characters of `text` (docs/method.md §1).

    The thought is cut at every "\n\n"; "\r\n" is a line end like "\\n". Blank segments are left out. A segment
    begins where the blank line behind the one before ends, so the white space before its first visible character is in
    its span (the first one begins with the thought); it ends with its last visible character. (-1, -1), a completion
    without a thought, has no segments; no text is an error.

    >>> import mralign
    >>> thought = "It may be Rome.\n\nNo: Paris."
    >>> [thought[start:end] for start, end in mralign.segments(thought)]
    ['It may be Rome.', 'No: Paris.']
    """
    if start < 0:
        return []
    end = len(text) if end is None else end
    assert start <= end <= len(text), (start, end, len(text))
    spans: list[tuple[int, int]] = []
    first = position = start
    cuts = [(cut.start(), cut.end()) for cut in _BLANK_LINE.finditer(text, start, end)]
    for cut_start, cut_end in [*cuts, (end, end)]:
        bare = text[position:cut_start].rstrip()
        if bare:
            spans.append((first, position + len(bare)))
            first = cut_end
        position = cut_end
    return spans


def blank_lines(text: str) -> int:
    """How many cuts between segments a text has, of which some may lie beside a blank segment."""
    return len(_BLANK_LINE.findall(text))
