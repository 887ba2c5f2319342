"""The table of the rounds of a run, in its file, on a terminal and on the page."""

import pytest

from mralign.report.blocks import Grid
from mralign.report.rounds import (
    RoundRecord,
    Rounds,
    first_directory,
    round_directory,
    rounds_blocks,
    rounds_of,
    rounds_text,
    write_rounds,
)

RECORDS = (
    RoundRecord(0, "base", 0.5, 0.3, 30.0, 160),
    RoundRecord(
        number=1,
        model="m",
        acc=0.625,
        mis=0.25,
        thought_tokens=31.25,
        questions=160,
        gain=0.125,
        gain_low=0.0625,
        gain_high=-0.01,
        p=0.0004,
        positives=40,
        negatives=1200,
        answers_differ=0.2,
        thoughts_differ=None,
        changes={"all": [0.25, 0.0125]},
        marks={"training": "ab"},
    ),
)


def test_the_file_is_read_from_the_directory_of_any_round(tmp_path):
    rounds = Rounds(3, "fixed", "a rule", RECORDS, "all 3 rounds are done", 1)
    write_rounds(str(tmp_path), rounds)
    for place in (tmp_path, tmp_path / "round-2", tmp_path / "round-13"):
        assert rounds_of(str(place)) == rounds
    assert rounds_of(str(tmp_path / "round-1")) is None and rounds_of(str(tmp_path / "other")) is None
    (tmp_path / "rounds.json").write_text("{")
    with pytest.raises(ValueError, match=r"rounds\.json cannot be read: .*; delete it and run the same command"):
        rounds_of(str(tmp_path))


def test_the_directory_of_a_round():
    assert round_directory("/runs/mine/", 1) == "/runs/mine"
    assert round_directory("s3://bucket/run", 2) == "s3://bucket/run/round-2"
    assert first_directory("s3://bucket/run/round-12") == "s3://bucket/run"
    assert first_directory("/runs/ground-2") == "/runs/ground-2"


def test_a_row_is_in_percent_and_points():
    lines = rounds_text(Rounds(3, "moving", "another follows", RECORDS)).splitlines()
    cells = [cell.strip() for cell in lines[2].split("   ") if cell.strip()]
    assert cells == [
        *("1", "62.5", "25.0", "31.2", "+12.5 [+6.2, −1.0]", "0.000", "40", "1\u2009200", "20.0", "–"),
        *("0.250, 0.0125", "–", "–"),
    ]
    assert lines[-1] == "3 rounds at most, reference moving; another follows"
    ended = rounds_text(Rounds(3, "moving", "", RECORDS, "round 1 did not gain", 1))
    assert ended.endswith("round 1 did not gain; the result is the policy of round 1")


def test_the_page_has_the_table_where_there_are_rounds(tmp_path):
    assert rounds_blocks(str(tmp_path)) is None
    write_rounds(str(tmp_path), Rounds(2, "fixed", "a rule", RECORDS))
    _, table, rule = rounds_blocks(str(tmp_path))
    assert isinstance(table, Grid) and len(table.rows) == 2
    assert len(table.head) == len(table.rows[0]) == len(table.rows[1])
    assert rule.text == "Reference: fixed. 2 rounds at most, reference fixed; a rule."
