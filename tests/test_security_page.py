"""SECURITY.md speaks of tests: each is there, and the page says what it must."""

import ast
import re
from pathlib import Path

import pytest

from mralign.cli.commands import run

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "SECURITY.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)))


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[name or file for file, name in NAMED])
def test_a_test_that_the_page_names_is_there(file, name):
    tree = ast.parse((ROOT / file).read_text())
    found = {one.name for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert name in found if name else any(one.startswith("test_") for one in found)


def test_the_page_says_who_is_trusted_what_is_not_what_is_left_open_and_how_to_report():
    assert re.findall(r"^## (.+)$", PAGE, re.MULTILINE) == [
        "Who is trusted",
        "What is not trusted, and what is done",
        "Keys",
        "What a run leaves",
        "What is not covered",
        "How to report a fault",
    ]
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| what comes")]
    assert len(rows) >= 10
    assert all("`tests/" in row for row in rows)  # no claim without a test


def test_the_version_is_told_as_the_page_says(capsys):
    assert run(["version"]) == 0
    assert re.search(r"\d+\.\d+", capsys.readouterr().out)


def test_a_dependency_audit_is_a_command_away_and_not_part_of_ci():
    makefile = (ROOT / "Makefile").read_text()
    recipe = re.search(r"^audit:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe is not None
    assert "pip-audit" in recipe[1]
    (locks,) = re.findall(r"^LOCKS := (.+)$", makefile, re.MULTILINE)
    assert set(locks.split()) == {path.name for path in ROOT.glob("requirements-*.txt")}
    assert "$(LOCKS)" in recipe[1]
    assert "audit" not in (ROOT / ".ci" / "run").read_text()
    assert not re.search(r"^(?:test|lint|test-all):.*\baudit\b", makefile, re.MULTILINE)
