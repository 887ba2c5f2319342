"""A table of text, as Markdown, as LaTeX and as lines for a terminal.

Cells that are ready to print enter; text leaves, with all that has a meaning in the language escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from mralign.report.wording import aligned


@dataclass(frozen=True)
class Cell:
    """What is printed in one place of a sheet."""

    text: str
    small: str = ""  # an interval, set smaller where that can be
    bold: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table of text: the first column is a name, groups of columns may have a title, rows come in blocks."""

    head: tuple[str, ...]
    blocks: tuple[tuple[tuple[Cell, ...], ...], ...]
    groups: tuple[tuple[str, int], ...] = ()  # (title, columns), from the second column on


def to_text(sheet: Sheet) -> str:
    """Aligned columns for a terminal; the title of a group stands before the title of each of its columns."""
    rows = [list(map(_plain, row)) for row in chain.from_iterable(sheet.blocks)]
    return aligned([_flat_head(sheet), *rows])


def to_markdown(sheet: Sheet) -> str:
    """A table in GitHub's Markdown, the first column to the left, the others to the right."""
    lines = [list(map(_markdown, _flat_head(sheet))), ["---", *["--:"] * (len(sheet.head) - 1)]]
    lines += [list(map(_markdown_cell, row)) for row in chain.from_iterable(sheet.blocks)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def to_latex(sheet: Sheet) -> str:
    r"""A `tabular` for \usepackage{booktabs}; intervals are set in \scriptsize, blocks are parted by a rule."""
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(sheet.head) - 1)}}}", r"\toprule"]
    if sheet.groups:
        lines += [_latex_line(["", *(_span(title, size) for title, size in sheet.groups)]), _rules(sheet.groups)]
    lines.append(_latex_line([escape_latex(title) for title in sheet.head]))
    for block in sheet.blocks:
        lines.append(r"\midrule")
        lines += [_latex_line(list(map(_latex, row))) for row in block]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _flat_head(sheet: Sheet) -> list[str]:
    first, *names = sheet.head
    titles: list[str] = []
    for title, size in sheet.groups:
        titles += [title] * size
    if not titles:
        return list(sheet.head)
    return [first, *(f"{title} {name}".strip() for title, name in zip(titles, names, strict=True))]


def _plain(cell: Cell) -> str:
    return f"{cell.text} {cell.small}".strip()


def _markdown_cell(cell: Cell) -> str:
    text = f"**{_markdown(cell.text)}**" if cell.bold else _markdown(cell.text)
    return f"{text} {_markdown(cell.small)}" if cell.small else text


def _markdown(text: str) -> str:
    for sign in "\\|*<`":
        text = text.replace(sign, f"\\{sign}")
    return text


_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "–": "--",
    "−": "$-$",
    "λ": r"$\lambda$",
    "\u2009": r"\,",
    "\n": " ",
}


def escape_latex(text: str) -> str:
    """`text` as LaTeX prints it in a paragraph."""
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _latex(cell: Cell) -> str:
    text = escape_latex(cell.text)
    text = rf"\textbf{{{text}}}" if cell.bold else text
    return rf"{text} {{\scriptsize {escape_latex(cell.small)}}}" if cell.small else text


def _latex_line(cells: Sequence[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _span(title: str, size: int) -> str:
    return rf"\multicolumn{{{size}}}{{c}}{{{escape_latex(title)}}}"


def _rules(groups: Sequence[tuple[str, int]]) -> str:
    ends, rules = 1, []
    for _, size in groups:
        rules.append(rf"\cmidrule(lr){{{ends + 1}-{ends + size}}}")
        ends += size
    return "".join(rules)
