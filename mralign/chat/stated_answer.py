"""The short answer that a reply states: `Answer: X` at its end, or `\\boxed{X}`.

A reply without thought, tags and end tokens enters; the answer in it leaves, or the reply as it came where it states
none. Reasoning models write prose first and the answer last, however they are asked. method.md §1.

What counts, in this order:

1. A label at the beginning of a line: `Answer:`, `Final answer:`, `The (final, correct) answer is:`, the same in the
   languages below, with `:` or `：`, in any case, bold or not, behind `#`, `>` or `-` of Markdown or a sign (✅).
   X is the rest of the line if nothing follows it but a rule or fence of Markdown, and all that follows if the line
   ends with the label (then it may be a heading or bold type without a colon). A label that opens the reply is taken
   off whatever follows. The last such label counts.
2. `\\boxed{X}` or `\\fbox{X}`: the last one, in X of the label if there is one, else anywhere. Braces nest; one that is
   never closed reaches to the end.
3. Else the reply itself is the answer.

X of a label loses bold type, back-ticks or `$` around all of it, with a full stop behind them; X of a box loses
TeX's text commands and spaces: `\\text{New York}` is New York.
"""

from __future__ import annotations

import re

_WORDS = (
    "answer",
    "answers",
    "réponse",
    "antwort",
    "respuesta",
    "resposta",
    "risposta",
    "antwoord",
    "odpowiedź",
    "cevap",
    "ответ",
    "відповідь",
    "jawaban",
    "đáp án",
    "câu trả lời",
    "答案",
    "答え",
    "回答",
    "解答",
    "答",
    "정답",
    "답변",
    "답",
    "उत्तर",
    "คำตอบ",
    "الإجابة",
    "الجواب",
    "إجابة",
)
_KINDS = (
    "final|short|correct|finale|bonne|endgültige|richtige|definitiva|correcta|correta|corretta|juiste|окончательный"
    "|итоговый|правильный|最终|最終|最後の|正确|正解の|최종|अंतिम|सही|النهائية|الصحيحة"
)
_ARTICLES = r"(?:the|my|our|la|ma|die|meine|el|mi|a|minha|il|de|het|mijn)\s+|我的"
_IS = r"\s+(?:is|are|est|lautet|ist|es|é|è|jest)|\s*(?:是|为|為|は)"
_LABEL = rf"(?:{_ARTICLES})?(?:(?:{_KINDS})\s*)?(?:{'|'.join(_WORDS)})(?:\s*(?:{_KINDS}))?(?:{_IS})?"
_MARKUP = r"[ \t]*(?:(?:#{1,6}|>|[-•*+]|[^\w\s*_`$\\<>()\[\]{}\"']{1,2})[ \t]+)*"
_COLON = r"[ \t]*[:：]"
# Groups: `bold` opens bold type, `closed` says that it ends with the label and not behind the answer.
_LABELLED = re.compile(
    rf"^{_MARKUP}(?:(?P<bold>\*{{1,3}}|__)(?:{_LABEL})"
    rf"(?P<closed>{_COLON}[ \t]*(?P=bold)|[ \t]*(?P=bold){_COLON})"
    rf"|(?P<open>\*{{1,3}}|__)?(?:{_LABEL}){_COLON}(?:\*\*(?!\S))?)[ \t]*",
    re.IGNORECASE | re.MULTILINE,
)
_HEADING = re.compile(
    rf"^[ \t]*(?:#{{1,6}}[ \t]+(?:\*\*)?(?:{_LABEL})(?:\*\*)?|(?P<bold>\*\*|__)(?:{_LABEL})(?P=bold))[ \t]*\r?$",
    re.IGNORECASE | re.MULTILINE,
)
_AROUND = re.compile(
    r"(?:(?P<mark>\*{1,3}|__?|`|\$\$?)(?P<inner>[^*_`$](?:.*[^*_`$\s])?)(?P=mark)"
    r"|\\\((?P<round>.+)\\\)|\\\[(?P<square>.+)\\\])\.?",
    re.DOTALL,
)
_SAYS = re.compile(r"[^\s\-*_=~`]")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_UNWRAPPED = re.compile(
    r"\\(?:boxed|fbox|text\w*|mathrm|mathbf|mathit|mathsf|mathtt|mbox|hbox|operatorname|emph|underline)\s*\{"
)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_TEX = (
    (re.compile(r"(?<=\d)(?:\{,\}|\\,|\\!|\\;)(?=\d{3})"), ","),
    (re.compile(r"\\[,;:> ]|(?<!\\)~|\\q?quad\b"), " "),
    (re.compile(r"\\!"), ""),
    (re.compile(r"\^\s*\{?\\circ\}?"), "°"),
    (re.compile(r"\\([%$&#_{}])"), r"\1"),
)


def stated_answer(reply: str) -> str:
    """The answer that `reply` states, by the rules above, without white space at its edges."""
    labelled = _labelled(reply)
    box = _last_box(reply if labelled is None else labelled)
    if box is not None:
        return _plain(box)
    return reply.strip() if labelled is None else _bare(labelled)


def _labelled(reply: str) -> str | None:
    """What the last label that counts is a label of; None without one."""
    found = [*_LABELLED.finditer(reply), *_HEADING.finditer(reply)]
    for label in sorted(found, key=lambda one: one.start(), reverse=True):
        behind = reply[label.end() :]
        line, _, rest = behind.partition("\n")
        if line.strip() and not _SAYS.search(rest):  # a rule (---) or a fence behind it
            behind, rest = line, ""
        leads = not reply[: label.start()].strip()
        if not leads and (not behind.strip() or (line.strip() and rest.strip())):
            continue  # no answer behind it, or more than the answer
        bold = label.groupdict().get("open")
        behind = behind.strip()
        return _without_closing(behind, bold=bold) if bold else behind
    return None


def _without_closing(answer: str, *, bold: str) -> str:
    """The answer without the end of the bold type that its label began."""
    ended = answer.removesuffix(".")
    return ended.removesuffix(bold).strip() if ended.endswith(bold) else answer


def _bare(answer: str) -> str:
    around = _AROUND.fullmatch(answer)
    if around is None:
        return answer
    inner = around["inner"] or around["round"] or around["square"]
    if around["mark"] and around["mark"] in inner:
        return answer  # two pairs, not one around all
    return _plain(inner) if "\\" in inner else inner.strip()


def _last_box(text: str) -> str | None:
    """What stands in the last box that is closed, else in the last one; None without a box."""
    starts = [box.end() + 1 for box in _BOX.finditer(text)]
    ends = _closings(text) if starts else {}
    closed = [(start, ends[start]) for start in starts if start in ends]
    if closed:
        # A box in a box: the outer one is the answer.
        start, end = max(closed, key=lambda span: (span[1], -span[0]))
        return text[start:end]
    return text[starts[-1] :] if starts else None


def _closings(text: str) -> dict[int, int]:
    """Where each brace is closed, by the place behind it; those that are never closed are left out."""
    opened: list[int] = []
    found: dict[int, int] = {}
    for brace in _BRACE.finditer(text):
        if brace[0] == "{":
            opened.append(brace.end())
        elif brace[0] == "}" and opened:
            found[opened.pop()] = brace.start()
    return found


def _plain(tex: str) -> str:
    """TeX as text: what its text commands hold, fractions as a/b, its spaces and escaped characters."""
    tex = _FRACTION.sub(r"\1/\2", _unwrapped(tex))
    for pattern, text in _TEX:
        tex = pattern.sub(text, tex)
    bare = " ".join(tex.split())
    return bare[1:-1].strip() if len(bare) > 1 and bare[0] == bare[-1] == "$" else bare


def _unwrapped(tex: str) -> str:
    """`tex` without its boxes and text commands, and without the braces of their arguments."""
    ends = _closings(tex)
    gone: list[tuple[int, int]] = []
    for command in _UNWRAPPED.finditer(tex):
        gone.append(command.span())
        end = ends.get(command.end())
        if end is not None:
            gone.append((end, end + 1))
    kept, place = [], 0
    for first, last in sorted(gone):
        kept.append(tex[place:first])
        place = last
    return "".join([*kept, tex[place:]])
