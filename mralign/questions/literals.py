"""A list or object that was written into a text: JSON, a Python literal, a printed NumPy array, a list of WebQuestions.

A text enters; the list or dictionary that it spells leaves, or None if it is an ordinary text. `[sic]`, `(1984)` and
`"Heroes"` are ordinary texts: only what can be read to its last character as a list, a set or tuple of texts, or an
object counts. Nothing is ever evaluated: a small grammar reads the text, bounded in its length and depth.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

_LONGEST = 1_000_000  # characters
_DEEPEST = 20  # lists within lists
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
      | (?P<name>[A-Za-z_][\w.]*)
      | (?P<mark>[][{}(),:=])
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"', "/": "/", "b": "\b", "f": "\f", "\n": ""}
_CONSTANTS = {"None": None, "null": None, "nan": None, "True": True, "true": True, "False": False, "false": False}
_CALLS = re.compile(r"array|(?:np|numpy)\.\w+")  # array([...], dtype=object), np.str_('a')
_DESCRIPTION = re.compile(r'\(description\s+(?:"((?:[^"\\]|\\.)*)"|([^()"\s](?:[^()"]*[^()"\s])?))\s*\)')
_DESCRIPTIONS = re.compile(rf"\(list(?:\s*{_DESCRIPTION.pattern})*\s*\)")


class _OrdinaryError(Exception):
    """The text is no literal."""


def parse_literal(text: str) -> list[Any] | dict[str, Any] | None:
    """The list or dictionary that `text` spells; None if it is an ordinary text.

    Texts, numbers, true, false and null stand in it, and further lists and objects. Array elements that NumPy has
    printed without commas are apart. Sets and tuples count only if they hold nothing but texts: (1, 2) is a text.
    """
    bare = text.strip()
    if len(bare) > _LONGEST or not bare.startswith(("[", "{", "(", "array(", "np.array(")) or bare[-1] not in "]})":
        return None
    if bare.startswith("(list"):
        return _descriptions(bare)
    as_json = _json(bare) if bare[0] in "[{" else None
    if as_json is not None:
        return as_json if _depth(as_json) <= _DEEPEST else None
    try:
        reader = _Reader(_tokens(bare))
        value = reader.value(depth=0)
        reader.end()
    except (_OrdinaryError, ValueError):  # ValueError: a number of thousands of digits
        return None
    return value if isinstance(value, list | dict) else None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _depth(value: Any) -> int:
    """How many lists and objects lie in each other, counted level by level."""
    level, depth = [value], 0
    while level:
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
        depth += any(isinstance(item, dict | list) for item in level)
        level = inner
    return depth


def _descriptions(text: str) -> list[Any] | None:
    """The entries of `(list (description X) (description "Y Z"))`."""
    if not _DESCRIPTIONS.fullmatch(text):
        return None
    return [_unescaped(quoted) if quoted else plain for quoted, plain in _DESCRIPTION.findall(text)]


def _tokens(text: str) -> list[tuple[str, str]]:
    """(kind, token) of all of `text`."""
    tokens, place = [], 0
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None or token.lastgroup is None:
            raise _OrdinaryError
        tokens.append((token.lastgroup, token[token.lastgroup]))
        place = token.end()
    return tokens


def _unescaped(text: str) -> str:
    def replace(escape: re.Match[str]) -> str:
        name = escape[1]
        if len(name) > 1:
            number = int(name[1:], 16)
            return chr(number) if number < 0x110000 else escape[0]
        return _ESCAPED.get(name, escape[0])

    return _ESCAPE.sub(replace, text)


class _Reader:
    """Reads one value from a list of tokens, from the left to the right."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens, self.place = tokens, 0

    def next(self) -> tuple[str, str]:
        if self.place == len(self.tokens):
            raise _OrdinaryError
        self.place += 1
        return self.tokens[self.place - 1]

    def take(self, mark: str) -> bool:
        """Whether the next token is `mark`; it is then behind us."""
        there = self.place < len(self.tokens) and self.tokens[self.place] == ("mark", mark)
        self.place += there
        return there

    def need(self, mark: str) -> None:
        if not self.take(mark):
            raise _OrdinaryError

    def end(self) -> None:
        if self.place < len(self.tokens):
            raise _OrdinaryError

    def value(self, *, depth: int) -> Any:
        kind, token = self.next()
        if depth > _DEEPEST:
            raise _OrdinaryError
        if kind == "text":
            return _text(token)
        if kind == "number":
            return int(token) if token.lstrip("+-").isdecimal() else float(token)
        if kind == "name":
            return self.named(token, depth=depth)
        readers: dict[str, Callable[..., Any]] = {"[": self.array, "(": self.tuple, "{": self.object}
        if token not in readers:
            raise _OrdinaryError
        return readers[token](depth=depth + 1)

    def named(self, name: str, *, depth: int) -> Any:
        """A constant, or what the call of an array or of a NumPy scalar holds; its other arguments are left out."""
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if not _CALLS.fullmatch(name):
            raise _OrdinaryError
        self.need("(")
        value = self.value(depth=depth + 1)
        while self.take(","):
            self.next()
            if self.take("="):
                self.next()
        self.need(")")
        return value

    def array(self, *, depth: int) -> list[Any]:
        """Up to the closing bracket; a comma between two elements may be missing, as NumPy prints arrays."""
        items: list[Any] = []
        while not self.take("]"):
            items.append(self.value(depth=depth))
            self.take(",")
        return items

    def tuple(self, *, depth: int) -> list[Any]:
        items: list[Any] = []
        commas = 0
        while not self.take(")"):
            items.append(self.value(depth=depth))
            if self.take(","):
                commas += 1
            else:
                self.need(")")
                break
        return _texts_only(items) if commas else self.refuse()

    def object(self, *, depth: int) -> dict[str, Any] | list[Any]:
        """A dictionary with texts as keys, or a set of texts."""
        pairs: dict[str, Any] = {}
        members: list[Any] = []
        while not self.take("}"):
            key = self.value(depth=depth)
            if not isinstance(key, str):
                raise _OrdinaryError
            if self.take(":"):
                pairs[key] = self.value(depth=depth)
            else:
                members.append(key)
            if not self.take(","):
                self.need("}")
                break
        if pairs and members:
            raise _OrdinaryError
        return members or pairs

    def refuse(self) -> list[Any]:
        raise _OrdinaryError


def _text(token: str) -> str:
    """What a quoted text says: as JSON says it where it can be read so, else as Python does."""
    if token.startswith('"'):
        try:
            return str(json.loads(token))
        except ValueError:
            pass
    return _unescaped(token[1:-1])


def _texts_only(values: list[Any]) -> list[Any]:
    if not all(isinstance(value, str) for value in values):
        raise _OrdinaryError
    return values
