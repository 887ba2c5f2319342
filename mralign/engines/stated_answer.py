"""The short answer that a reply states: `Answer: X` at its end, or `\\boxed{X}`.

A reply without thought, tags and end tokens enters; the answer in it leaves, or the reply as it came where it states
none. Reasoning models write prose first and the answer last, however they are asked. METHOD.md section 1.

What counts, in this order:

1. A label at the beginning of a line: `Answer:`, `Final answer:`, `The (final) answer is:`, the same in the languages
   below, with `:` or `：`, in any case, bold or not, behind `#`, `>` or `-` of Markdown. X is the rest of the line if
   nothing follows it, and all that follows if the line ends with the label (then it may be a heading or bold type
   without a colon). A label that opens the reply is taken off whatever follows. The last such label counts.
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
_FINAL = "final|short|finale|endgültige|definitiva|окончательный|итоговый|最终|最終|最後の|正确|최종|अंतिम|النهائية"
_LABEL = rf"(?:the\s+)?(?:(?:{_FINAL})\s*)?(?:{'|'.join(_WORDS)})(?:\s*(?:{_FINAL}))?(?:\s+is|是)?"
_MARKUP = r"[ \t]*(?:(?:#{1,6}|>|[-•])[ \t]+)*"
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
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
_TEXT_COMMAND = re.compile(r"\\(?:text\w*|mathrm|mathbf|mathit|mathsf|mathtt|mbox|hbox|operatorname|emph)\s*\{")
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
    ends = [_closing(text, start) for start in starts]
    closed = [(start, end) for start, end in zip(starts, ends, strict=True) if end is not None]
    if closed:
        # A box in a box: the outer one is the answer.
        start, end = max(closed, key=lambda span: (span[1], -span[0]))
        return text[start:end]
    return text[starts[-1] :] if starts else None


def _closing(text: str, start: int) -> int | None:
    """Where the brace that was opened before `start` is closed."""
    depth = 1
    for brace in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return start + brace.start()
    return None


def _plain(tex: str) -> str:
    """TeX as text: what its text commands hold, fractions as a/b, its spaces and escaped characters."""
    while box := _BOX.search(tex):
        tex = _unwrapped(tex, first=box.start(), inner=box.end() + 1)
    while command := _TEXT_COMMAND.search(tex):
        tex = _unwrapped(tex, first=command.start(), inner=command.end())
    tex = _FRACTION.sub(r"\1/\2", tex)
    for pattern, text in _TEX:
        tex = pattern.sub(text, tex)
    bare = " ".join(tex.split())
    return bare[1:-1].strip() if len(bare) > 1 and bare[0] == bare[-1] == "$" else bare


def _unwrapped(tex: str, *, first: int, inner: int) -> str:
    """`tex` without the command that stands at `first` and the braces of its argument, which begins at `inner`."""
    end = _closing(tex, inner)
    if end is None:
        return tex[:first] + tex[inner:]
    return tex[:first] + tex[inner:end] + tex[end + 1 :]
