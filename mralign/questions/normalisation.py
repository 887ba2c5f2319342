"""The one normal form of text: matching, duplicates, leakage and retrieval compare texts by it and by nothing else.

A text enters; `normalize` gives SQuAD's normal form, `words` the words that a search engine counts, `key` a form that
is empty for no visible text. On ASCII text `normalize` is SQuAD's function to the letter: lower case, the characters of
`string.punctuation` deleted, the articles a, an, the removed, white space collapsed. Other text goes the same way after
its characters are folded, so that what is canonically equal, or the same but for how it was typed, has one form:

- Composed and decomposed letters are one (NFC), and so are compatible forms (NFKC): full-width letters and digits,
  ligatures, Roman numerals, units. The decimal digits of every script are 0 to 9. `½` is `1/2`, and `5½` is `5 1/2`.
- A raised or lowered digit is a plain one (H₂O, m², 1ˢᵗ), but after a digit it stays: 10² is not 102.
- Case is Unicode's case folding: ß is ss, ς is σ. I, i, İ and ı are one letter, whatever the language.
- Punctuation (categories P) is deleted as ASCII's is: quotes, dashes, U+2011, bullets, brackets. So are the relatives
  of ASCII's symbols (minus, fraction slash, spacing accents, letters that serve as apostrophes) and ™ ℠ ® ©. Other
  symbols stay, as in SQuAD's form: € £ ° × µ. Accents stay: Medellín is not Medellin.
- What cannot be seen is deleted: zero-width spaces and joiners, soft hyphens, bidirectional marks, variation selectors,
  fillers. Spaces of every kind are white space.

Tokens are what white space separates, save in scripts that do not part words by spaces (Han, Kana, Bopomofo, Yi,
Tangut, Thai, Lao, Tibetan, Myanmar, Khmer, Tai, Balinese, Javanese): there each character is a token, with the marks on
it. Hangul too: it has spaces, but particles cling to the word (파리는) and the parts of a name may be parted or not.
Beside such a character `a` is no English article: `A股` keeps it. method.md §1.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable

_DROP_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")

# Marks that stand on a letter of any script; without them `a̱`, which no single character spells, would be an article.
_ACCENTS = "\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
_SPACELESS_RANGES = (
    (0x0E00, 0x0FFF),  # Thai, Lao, Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1100, 0x11FF),  # Hangul letters
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x2E80, 0x2FDF),  # radicals
    (0x3005, 0x3007),
    (0x3021, 0x31FF),  # Kana, Bopomofo, strokes
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),  # Han
    (0xA000, 0xA4CF),  # Yi
    (0xA960, 0xA97F),
    (0xA980, 0xA9FF),  # Javanese, Myanmar
    (0xAA60, 0xAADF),  # Myanmar, Tai Viet
    (0xAC00, 0xD7FF),  # Hangul syllables
    (0xF900, 0xFAFF),
    (0x11700, 0x1174F),  # Ahom
    (0x16FE0, 0x18DFF),  # Tangut, Khitan
    (0x1AFF0, 0x1B2FF),  # Kana, Nushu
    (0x20000, 0x3FFFF),  # Han
)
_SPACELESS = "".join(f"{chr(first)}-{chr(last)}" for first, last in _SPACELESS_RANGES)


def _marks_of_spaceless_scripts() -> str:
    """The marks in the smaller ranges; the large ones (Han, Yi, Hangul syllables) and rare scripts add none."""
    marks = ""
    for first, last in _SPACELESS_RANGES:
        if last < 0x4000 or 0xA900 < first < 0xAC00:
            characters = map(chr, range(first, last + 1))
            marks += "".join(char for char in characters if unicodedata.category(char).startswith("M"))
    return marks


_MARKS = _ACCENTS + _marks_of_spaceless_scripts()
_IS_TOKEN = re.compile(f"(?![{_MARKS}])[{_SPACELESS}]")
_IS_MARK_OF_TOKEN = re.compile(f"(?=[{_MARKS}])[{_SPACELESS}]")
_HAS_MARK = re.compile(f"[{_MARKS}]")
_APART_FROM_MARK = re.compile(f" +(?=[{_MARKS}])")
# As _ARTICLES, on text with single spaces; neither beside an accent nor beside a token of a spaceless script.
_OTHER_ARTICLES = re.compile(rf"\b(?<![{_ACCENTS}])(?<![{_SPACELESS}] )(a|an|the)\b(?![{_ACCENTS}])(?! [{_SPACELESS}])")

_RAISED = "\u2070\u00b9\u00b2\u00b3\u2074-\u2079"
_LOWERED = "\u2080-\u2089"
_OFF_LINE = re.compile(f"[{_RAISED}{_LOWERED}\u207a\u207b]")
_EXPONENT_OR_ONE = re.compile(
    rf"(?P<kept>(?<=[0-9])(?:[\u207a\u207b]?[{_RAISED}]+|[{_LOWERED}]+))|[{_RAISED}{_LOWERED}\u207a\u207b]"
)
_DOTTED_I = re.compile("i\u0307+")

# Relatives of ASCII's punctuation and symbols that Unicode calls letters or other symbols, and what they stand for.
_RELATIVES = dict.fromkeys("\u02b9\u02bb\u02bc\u02bd\u02be\u02bf\u02c8\u02ee\ua78b\ua78c", "'") | {
    "\u02ba": '"',
    "\u2212": "-",
    "\u2044": "/",
    "\u2215": "/",
    "\u2216": "\\",
    "\u2217": "*",
    "\u2219": "*",
    "\u22c5": "*",
    "\u2223": "|",
    "\u223c": "~",
    "\u0640": "",  # tatweel stretches a word
    "\u1361": " ",  # the Ethiopic word space
    "\u2800": " ",  # a Braille cell without a dot
}
_SINGLE_QUOTES = "\u2018\u2019\u201a\u201b\u2032\u2039\u203a\u00b4\u0384\u1fbd\u1fbf\u1ffd\u1ffe\uff07\uff40"
_DOUBLE_QUOTES = "\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb\u301d\u301e\u301f\uff02"
_RELATIVES |= dict.fromkeys(_SINGLE_QUOTES, "'") | dict.fromkeys(_DOUBLE_QUOTES, '"')
_SIGNS = "\u2122\u2120\u00ae\u00a9"  # ™ ℠ ® ©: not a word about the thing named
_FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"  # letters and marks that cannot be seen


def normalize(text: str) -> str:
    """SQuAD's normal form of `text`: folded characters, no punctuation, no articles, single spaces between tokens.

    May be empty (`---`, `The`): `key` is not. `normalize` of a normal form is that form. docs/method.md §1. No text
    is an error.

    >>> import mralign
    >>> mralign.normalize("The  Eiffel-Tower (Paris)!")
    'eiffeltower paris'
    """
    if text.isascii():
        bare = text.lower().translate(_DROP_PUNCTUATION)
        return " ".join(_ARTICLES.sub(" ", bare).split())
    spaced = " ".join(_fold(text, table=_NORMAL).split())
    if "a" in spaced or "the" in spaced:
        spaced = " ".join(_OTHER_ARTICLES.sub(" ", spaced).split())
    return spaced


def words(text: str) -> list[str]:
    """The words of `text` as a search counts them: folded like `normalize`, but punctuation and symbols part words."""
    return _fold(text, table=_WORDS).split()


def visible(text: str) -> str:
    """`text` as it is before case, articles and punctuation go: folded characters, single spaces. Empty if blank."""
    return " ".join(_fold(text, table=_VISIBLE).split())


def visible_lines(text: str) -> str:
    """`visible` of each line of `text`."""
    return "\n".join(visible(line) for line in text.splitlines())


def key(text: str) -> str:
    """The normal form, or where nothing is left of it the folded text itself: empty only if nothing can be seen."""
    return normalize(text) or visible(text).casefold()


class _Table(dict[int, str]):
    """What `str.translate` puts for each character; a character is worked out when it first comes."""

    def __init__(self, fold: Callable[[str], str]) -> None:
        super().__init__()
        self._of = fold

    def __missing__(self, code: int) -> str:
        folded = self._of(chr(code))
        self[code] = folded
        return folded


def _fold(text: str, *, table: _Table) -> str:
    composed = unicodedata.normalize("NFC", text)  # what is canonically equal is the same from here on
    folded = composed.translate(table)
    if "\u0307" in folded:
        folded = _DOTTED_I.sub("i", folded)
    if _OFF_LINE.search(folded):
        folded = _EXPONENT_OR_ONE.sub(_on_the_line, folded)
    if _HAS_MARK.search(folded) and table is not _VISIBLE:
        folded = _APART_FROM_MARK.sub("", folded)
    return unicodedata.normalize("NFC", folded)


def _on_the_line(off_line: re.Match[str]) -> str:
    """A raised or lowered digit as a plain one; an exponent as it is; a raised sign alone as nothing."""
    if off_line["kept"]:
        return off_line["kept"]
    digit = unicodedata.digit(off_line[0], None)
    return "" if digit is None else str(digit)


def _seen(char: str) -> str:
    """The compatible form of one character, in its case; nothing for what cannot be seen."""
    if char in _RELATIVES:
        return _RELATIVES[char]
    if _OFF_LINE.match(char):
        return char
    category = unicodedata.category(char)
    if category in ("Cf", "Me") or char in _FILLERS or _is_selector(char):
        return ""
    if category == "Pd":
        return "-"
    if category == "Nd":
        return str(unicodedata.decimal(char))
    compatible = unicodedata.normalize("NFKD", char)
    if unicodedata.decomposition(char).startswith("<fraction>"):
        compatible = f" {compatible}"
    return "".join(_RELATIVES.get(part, part) for part in compatible)


def _is_selector(char: str) -> bool:
    """Variation selectors of Unicode and of Mongolian."""
    return "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef" or "\u180b" <= char <= "\u180f"


def _cased(char: str) -> str:
    if _OFF_LINE.match(char):  # raised and lowered digits wait for what stands before them
        return char
    return unicodedata.normalize("NFKD", _seen(char).casefold()).replace("\u0131", "i")  # the dotless i


def _apart(text: str) -> str:
    """`text` with spaces around the characters that are tokens by themselves, and behind the marks on them."""
    tokens = _IS_TOKEN.sub(r" \g<0> ", unicodedata.normalize("NFC", text))
    return _IS_MARK_OF_TOKEN.sub(r"\g<0> ", tokens)


def _is_dropped(char: str) -> bool:
    return char in string.punctuation or unicodedata.category(char)[0] == "P" or unicodedata.category(char) == "Sk"


def _normal(char: str) -> str:
    if char in _SIGNS or (_is_dropped(char) and _RELATIVES.get(char) != " "):
        return ""
    return _apart("".join(part for part in _cased(char) if not _is_dropped(part)))


def _word_part(char: str) -> str:
    """As `_normal`, with a space for punctuation and symbols, and for characters that are none (controls, halves)."""
    if char in _SIGNS or unicodedata.category(char) in ("Sk", "Zs", "Zl", "Zp", "Cc", "Cs", "Cn"):
        return " "
    return _apart("".join(" " if unicodedata.category(part)[0] in "PS" else part for part in _cased(char)))


_NORMAL, _WORDS, _VISIBLE = _Table(_normal), _Table(_word_part), _Table(_seen)
