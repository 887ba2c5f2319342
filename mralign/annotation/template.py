"""An instruction of the user's own for annotators, in place of the built-in one (method.md §2a).

A file with four places enters: {taxonomy}, {question}, {answers}, {segments}. What an annotator is asked of a
trajectory leaves, as one message. Braces around anything else than a word are text, so that an example of the JSON
reply can stand in the file as it is. What the reply must be does not change: the built-in instruction shows it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from mralign.config import Annotation, resolve_path

PLACES = ("taxonomy", "question", "answers", "segments")
_PLACE = re.compile(r"\{([A-Za-z_]\w*)\}")
_LONGEST = 200_000  # characters


def read_template(settings: Annotation) -> str | None:
    """The user's instruction, None where there is none. Raises ValueError for a file that cannot be read, and for
    places that are missing, unknown or contradict `annotation.show_answers`."""
    if settings.instruction is None:
        return None
    place = f"annotation.instruction={settings.instruction}"
    try:
        text = Path(resolve_path(settings.instruction)).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{place} is no text in UTF-8 ({error.reason}); save it as UTF-8") from None
    except OSError as error:
        raise ValueError(f"{place} cannot be read: {error.strerror}; give the path of a text file") from None
    if len(text) > _LONGEST:
        raise ValueError(f"{place} has {len(text):,} characters; allowed are {_LONGEST:,}; give the instruction alone")
    _check_places(text, place=place, show_answers=settings.show_answers)
    return text


def _check_places(text: str, *, place: str, show_answers: bool) -> None:
    named = set(_PLACE.findall(text))
    unknown = sorted(named - set(PLACES))
    allowed = ", ".join(f"{{{name}}}" for name in PLACES)
    if unknown:
        raise ValueError(
            f"{place} holds {', '.join(f'{{{name}}}' for name in unknown)}, for which nothing stands; allowed are "
            f"{allowed}; take it out, or write it without braces"
        )
    if "answers" in named and not show_answers:
        raise ValueError(
            f"{place} shows {{answers}}, and annotation.show_answers=false hides them; take the place out, or give "
            f"annotation.show_answers=true"
        )
    wanted = [name for name in PLACES if name != "answers" or show_answers]
    missing = [name for name in wanted if name not in named]
    if missing:
        raise ValueError(
            f"{place} does not hold {', '.join(f'{{{name}}}' for name in missing)}; put each where it goes, or give "
            f"annotation.show_answers=false if answers are all that is missing"
        )


def fill(template: str, *, values: Mapping[str, str]) -> str:
    """The template with what stands for its places; what is filled in is not looked at again."""
    return _PLACE.sub(lambda place: values[place[1]], template)
