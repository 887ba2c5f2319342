"""docs/troubleshooting.md quotes messages that the code holds, and settings that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
PYTHONS_OWN = {"No module named 'mralign'"}


def whole_messages(code):
    """Code in which texts that go on in the next line are one."""
    return re.sub(r"\"\s*\n\s*f?\"", "", code)


def quoted():
    rows = [row for row in TEXT.splitlines() if row.startswith("| `")]
    return [row.split("`")[1] for row in rows]


def test_the_messages_that_it_quotes_are_in_the_code():
    files = [*(ROOT / "mralign").rglob("*.py"), ROOT / "Makefile"]
    code = "\n".join(whole_messages(path.read_text(encoding="utf-8")) for path in files)
    assert len(quoted()) >= 15
    assert [words for words in quoted() if words not in code and words not in PYTHONS_OWN] == []


def test_a_text_over_two_lines_is_one():
    assert whole_messages('x = (\n    "one "\n    f"two"\n)') == 'x = (\n    "one two"\n)'
