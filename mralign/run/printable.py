"""Text of models, files and servers becomes harmless on a terminal, in a log and in a page of plain lines.

Any text enters; the same text without what steers a terminal leaves: escape sequences, control characters, and marks
that turn the direction of writing.
"""

from __future__ import annotations

import re
import unicodedata

_SEQUENCES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, movements of the cursor
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC: titles, links
    r"|\x1b[@-Z\\-_]|\x9b[0-?]*[ -/]*[@-~]"  # two characters; CSI in one
)  # a lone escape character is a control character
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def one_line(text: str, *, longest: int | None = None) -> str:
    """The text in one line of printable characters; beyond `longest` characters it is cut, with an ellipsis."""
    words = " ".join(printable(text).split())
    if longest is not None and len(words) > longest:
        return words[: max(longest - 1, 0)] + "…"
    return words


def printable(text: str) -> str:
    """The text with its line breaks, without escape sequences and characters that cannot be seen."""
    plain = _SEQUENCES.sub("", text.replace("\r\n", "\n").replace("\t", " "))
    kept = (character if character == "\n" else _seen(character) for character in plain)
    return "".join(kept)


def _seen(character: str) -> str:
    """The character, or nothing: a carriage return is a space, so that words do not grow together."""
    if character == "\r":
        return " "
    return "" if unicodedata.category(character) in _HIDDEN else character
