"""docs/endpoints.md: its commands and settings are read by what would read them, and the messages it quotes exist."""

import re
from pathlib import Path

import pytest
import test_readme

from mralign.config import Http, Search, load
from mralign.run.rejects import PASSING

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "endpoints.md"
TEXT = PAGE.read_text()
jobs_on_the_path = test_readme._jobs


@pytest.mark.parametrize("command", test_readme.commands_of(TEXT))
def test_commands(command, tmp_path):
    test_readme.read(command, tmp_path)


@pytest.mark.parametrize("code", test_readme.settings_of(TEXT))
def test_settings_in_the_text(code):
    load("miniworld", overrides=code.split(), presets_dir=test_readme.PRESETS)


def test_the_section_shown_is_the_default(tmp_path):
    (block,) = [block for language, block in test_readme.FENCE.findall(TEXT) if language == "yaml"]
    preset = tmp_path / "own.yaml"
    preset.write_text(f"questions: {{train: [{{name: a, path: a}}]}}\n{block}")
    assert load(str(preset)).http == Http(base_url="https://host/v1")


def test_a_search_has_the_settings_that_the_page_promises():
    ours = set(re.findall(r"^  (\w+):", TEXT, re.MULTILINE)) - {"base_url", "tokens_per_minute", "budget", "batch"}
    assert ours <= set(Search.model_fields) and ours <= set(Http.model_fields)


def test_the_messages_and_reasons_that_it_names_are_in_the_code():
    rows = TEXT.partition("## When a run stops")[2].splitlines()
    quoted = [row.split("`")[1] for row in rows if row.startswith("| `")]
    code = "".join(path.read_text() for path in (ROOT / "mralign").rglob("*.py"))
    assert len(quoted) == 7 and not [words for words in quoted if words not in code]
    assert "refused" not in PASSING
