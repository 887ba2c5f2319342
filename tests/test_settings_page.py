"""Every setting is described where it is declared, and docs/configuration.md is what the fields say."""

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field

from mralign.config import RunConfig, Section, settings_page
from mralign.config.section import Content, Speed

ROOT = Path(__file__).parents[1]


def all_fields():
    """Every field of the configuration with its section, RunConfig's own among them."""
    found, todo = [], [RunConfig]
    while todo:
        section = todo.pop()
        for setting in settings_page.settings_of(section):
            found.append((f"{section.__name__}.{setting.name}", setting))
            seen = {name.partition(".")[0] for name, _ in found} | {one.__name__ for one in todo}
            if setting.section is not None and setting.section.__name__ not in seen:
                todo.append(setting.section)
    return found


FIELDS = all_fields()


def test_all_sections_are_seen():
    classes = {name.partition(".")[0] for name, _ in FIELDS}
    declared, todo = set(), [Section]
    while todo:
        below = [one for one in todo.pop().__subclasses__() if one.__module__.startswith("mralign.config.")]
        declared |= {one.__name__ for one in below}
        todo += below
    assert classes == declared and len(FIELDS) > 200


@pytest.mark.parametrize(("name", "setting"), FIELDS, ids=[name for name, _ in FIELDS])
def test_every_setting_is_described_in_a_sentence_or_two(name, setting):
    text = setting.meaning
    assert text.endswith((".", "...")), f"{name} has no description that ends in a full stop: {text!r}"
    assert 20 <= len(text) <= 460 and "\n" not in text, f"{name}: {text!r}"


def test_the_page_is_current():
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == settings_page.page(), "python -m mralign.config.settings_page > docs/configuration.md"


class Inner(Section):
    """Something inside. It
    has two lines.

    This is not shown.
    """

    share: float = Field(0.5, gt=0, le=1, description="A share.")


class Outer(Section):
    """Outside."""

    kind: Literal["a", "b"] = Field("a", description="A kind | of thing.")
    workers: Speed[int | None] = Field(None, ge=2, description="Some.")
    place: Content[str] = Field(description="A path.")
    names: tuple[str, ...] = Field((), description="Names.")
    both: tuple[int, int] = Field((1, 2), description="Two.")
    free: dict[str, Any] = Field(default_factory=dict, description="Anything.")
    inner: Inner = Field(Inner(share=0.25), description="The inner one.")


def test_a_field_in_words():
    told = {one.name: (one.allowed, one.default, one.changes) for one in settings_page.settings_of(Outer)}
    assert told == {
        "kind": ("`a`, `b`", "a", "result"),
        "workers": ("integer from 2 or null", "null", "speed"),
        "place": ("text", "", "file"),
        "names": ("list of text", "[]", "result"),
        "both": ("2 of integer", "[1, 2]", "result"),
        "free": ("map of text to any value", "{}", "result"),
        "inner": ("Inner", "share: 0.25", "result"),
    }
    (share,) = settings_page.settings_of(Inner)
    assert (share.allowed, share.default, share.section) == ("number above 0 to 1", "0.5", None)


def test_the_page_shows_where_a_section_stands_and_its_own_defaults():
    page = settings_page.page()
    assert "Stands at `rollouts.decoding`, `evaluation.decoding`, `annotation.annotators.decoding`." in page
    assert "| `decoding` | [Decoding](#decoding) | `temperature: 0.6, top_p: 0.95, top_k: 20` | result |" in page
    assert "| `micro_batch_tokens` | integer from 1 or null | `null` | speed |" in page
