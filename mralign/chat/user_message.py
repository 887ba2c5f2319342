"""The user's message: a prompt with the question in it, and its choices where it has some.

A prompt with the places {question} and {choices}, a question and its choices enter; the message leaves. Choices are
always shown, one a line as `A) ...`: in their place, or behind the question where the prompt has no place for them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mralign.questions.choices import choice_lines

_PLACE = re.compile(r"\{(question|choices)\}")
_EMPTY_PLACE = re.compile(r"\n?[^\S\n]*\{choices\}")


def with_choices(question: str, choices: Sequence[str] | None) -> str:
    """A question, and its choices behind it."""
    return f"{question}\n{choice_lines(choices)}" if choices else question


def user_message(prompt: str, *, question: str, choices: Sequence[str] | None = None) -> str:
    """`prompt` with its places filled, all at once: a question may itself hold the name of a place.

    Without choices their place is left out, with the line break before it.
    """
    if not choices:
        return _EMPTY_PLACE.sub("", prompt).replace("{question}", question)
    if "{choices}" not in prompt:
        return prompt.replace("{question}", with_choices(question, choices))
    filled = {"question": question, "choices": choice_lines(choices)}
    return _PLACE.sub(lambda place: filled[place[1]], prompt)
