"""Segments of a thought.

A completion's text and the span of its thought enter; the character spans of its segments leave, in characters of that
text, so that later rooms can follow tokens to segments without tokenising anything again. METHOD.md section 1.
"""

from __future__ import annotations


def segment_spans(text: str, *, start: int, end: int) -> list[tuple[int, int]]:
    """Spans of the segments of the thought text[start:end], in characters of `text` (METHOD.md section 1).

    The thought is cut at every "\\n\\n"; blank segments are left out, white space at a segment's edges is not in its
    span. (-1, -1), a completion without a thought, has none.
    """
    if start < 0:
        return []
    assert start <= end <= len(text), (start, end, len(text))
    spans, position = [], start
    for piece in text[start:end].split("\n\n"):
        if bare := piece.strip():
            first = position + len(piece) - len(piece.lstrip())
            spans.append((first, first + len(bare)))
        position += len(piece) + 2
    return spans
