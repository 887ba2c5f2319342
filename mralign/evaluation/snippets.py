"""Questions with what was found for them: the prompts of the +Ret methods (method.md §6).

Questions and snippets enter; questions leave whose text holds the snippets, under the same ids and with the same
answers, so that all that is asked and judged of a question stays as it is. A question that was not searched for is put
aside: without its snippets it would be another method's.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from mralign.rows.schema import QUESTIONS
from mralign.run.rejects import Reject

_TAG = re.compile(r"<(?=[/|｜]?[^\W\d_]|[|｜])")
_SWITCH = re.compile(r"/(think|no_think)\b")
_PLACE = re.compile(r"\{(question|snippets)\}")


def with_snippets(question: str, *, snippets: Sequence[Mapping[str, Any]], prompt: str, longest: int = 2000) -> str:
    """`prompt` with {question} and {snippets} filled in, once; rows of schema.SNIPPET, best first, one a line.

    A snippet is `[1] title: text`, cut at `longest` characters, its blanks and line breaks made single blanks, so that
    no text can pass for two snippets. What of it could steer a chat is made harmless: control characters go, `<` before
    a tag's name becomes `‹`, and `/think` is parted: a web page must not cost its question. Without a snippet the
    question stands alone, as it would without a search.
    """
    if not snippets:
        return question
    listed = "\n".join(_line(number, snippet)[:longest] for number, snippet in enumerate(snippets, 1))
    return _PLACE.sub(lambda place: question if place[1] == "question" else listed, prompt)


def _line(number: int, snippet: Mapping[str, Any]) -> str:
    title, text = (_harmless(" ".join((snippet[name] or "").split())) for name in ("title", "text"))
    return f"[{number}] {title}: {text}" if title else f"[{number}] {text}"


def _harmless(text: str) -> str:
    plain = "".join(c for c in text if unicodedata.category(c) != "Cc")
    return _SWITCH.sub(r"/ \1", _TAG.sub("‹", plain))


def ask_with_snippets(questions: pa.Table, *, evidence: pa.Table, prompt: str, longest: int = 2000) -> pa.Table:
    """Rows of schema.QUESTIONS, with what was found for each (schema.EVIDENCE) in its `question`.

    A question without a row of evidence is left out: `unsearched` gives its reject.
    """
    found = _found(evidence)
    kept = [
        row
        | {
            "question": with_snippets(
                row["question"], snippets=found[row["question_id"]], prompt=prompt, longest=longest
            )
        }
        for row in questions.to_pylist()
        if row["question_id"] in found
    ]
    return pa.Table.from_pylist(kept, schema=QUESTIONS)


def unsearched(questions: pa.Table, *, evidence: pa.Table) -> list[Reject]:
    """A reject, reason no_evidence, for each question that has no row of evidence, so that no method loses a question
    in silence; why the search failed stands in the rejects of stage `evidence`."""
    found, detail = _found(evidence), "its search failed: see the rejects of stage evidence"
    return [
        Reject(row["question_id"], "no_evidence", detail, row["question"], dataset=row["dataset"])
        for row in questions.to_pylist()
        if row["question_id"] not in found
    ]


def _found(evidence: pa.Table) -> dict[str, list[dict[str, Any]]]:
    return {row["question_id"]: row["snippets"] for row in evidence.to_pylist()}
