"""Rounds on small worlds: a short chain is measured, resumed and drawn; the page's figures by hand."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from mralign.comparison import world_rounds
from mralign.comparison.round_rows import ARMS, RoundRow, append_rounds, read_rounds
from mralign.comparison.rounds_page import (
    MARK,
    change_sheet,
    changes_since_first,
    contrast_sheet,
    rule_sheet,
    write_rounds_page,
)
from mralign.report.sheets import to_text

KEPT = Path(__file__).parents[2] / "docs" / "results"


def row(arm, number, acc, *, world="w0", seed=1, share=1.0, **more):
    given = {"rate": 1e-3, "mis": round(0.9 - acc, 5), "em_thought": 0.9, "thought_tokens": 30.0, "unclosed": 0.0}
    given |= {"answers_differ": 0.2, "thoughts_differ": 0.5, "kl": 0.0}
    return RoundRow(world=world, arm=arm, seed=seed, round=number, share=share, acc=acc, **given | more)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A chain of two rounds in the world of the study `minute`: a few examples of short thoughts."""
    home = tmp_path_factory.mktemp("rounds")
    with pytest.MonkeyPatch.context() as patch:
        centre = {"examples": 8, "negatives": 0.5, "values": 12, "blocks": 2, "irrelevant": 2}
        patch.setattr(world_rounds, "CENTRE", centre)
        patch.setattr(world_rounds, "RATES", (8e-3,))
        patch.setattr(world_rounds, "FEWEST", 2)
        given = ["--worlds", "0", "--seeds", "1", "--rounds", "2", "--smaller", "0.4", "--out", str(home)]
        world_rounds.main(given)
        whole = (home / "rounds.csv").read_text()
        world_rounds.main(given)
    assert (home / "rounds.csv").read_text() == whole  # nothing is measured again
    return home


def test_a_chain_is_the_base_a_round_and_every_way_to_go_on(measured):
    rows = read_rounds(measured / "rounds.csv")
    assert [(one.arm, one.round) for one in rows] == [("base", 0), ("first", 1), *((arm, 2) for arm in ARMS)]
    base, first, fixed, moving, old = rows
    assert base.kl == 0 and base.dev_gain is None and base.examples is None
    assert first.examples == 8 and first.kl > 0
    assert fixed.kl != moving.kl  # another reference is another policy
    assert old.examples == 8 and fixed.examples == moving.examples <= 8
    assert all(0 < one.answers_differ < 1 and one.acc + one.mis <= 1 for one in rows)


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = [row("base", 0, 0.5), row("first", 1, 0.7, dev_gain=0.2, dev_low=0.1, dev_high=0.3, examples=64)]
    append_rounds(tmp_path / "rows.csv", rows[:1])
    append_rounds(tmp_path / "rows.csv", rows[1:])
    assert read_rounds(tmp_path / "rows.csv") == rows


MADE_UP = [
    *(row("base", 0, 0.5, world=world) for world in ("w0", "w1")),
    *(row("first", 1, acc, world=world, dev_low=0.1) for world, acc in (("w0", 0.7), ("w1", 0.6))),
    *(row("fixed", 2, acc, world=world, dev_low=low) for world, acc, low in (("w0", 0.8, 0.02), ("w1", 0.5, -0.02))),
    row("moving", 2, 0.9, dev_low=0.1),
]


def test_changes_are_those_of_a_chain_since_its_first_round():
    values = changes_since_first(MADE_UP, step=("fixed", 2), measure="acc")
    assert [float(one.mean()) for one in values] == pytest.approx([0.1, -0.1])
    text = to_text(change_sheet(MADE_UP))
    # Student's t of one degree of freedom: 12.706 * .1 (the standard error of +.1 and -.1).
    assert "fixed, round 2     2        +0.000 [-1.271, +1.271]" in text or "-0.000 [-1.271, +1.271]" in text
    assert "+0.200 one world" in text


def test_ways_are_compared_within_a_chain():
    lines = to_text(contrast_sheet(MADE_UP)).splitlines()
    assert len(lines) == 2  # there is no chain with old answers
    assert lines[1].split("   ")[0] == "moving − fixed, round 2"
    assert "+0.100 one world" in lines[1] and "-0.100 one world" in lines[1]  # .9 against .8 in w0


def test_the_rule_is_judged_by_what_followed_on_test():
    lines = {line.split("   ")[0].strip(): line for line in to_text(rule_sheet(MADE_UP)).splitlines()}
    assert "1 of 2" in lines["fixed, round 2"] and "+0.100" in lines["fixed, round 2"]
    assert "-0.100" in lines["fixed, round 2"]
    assert "2 of 2" in lines["first, round 1"] and "+0.150" in lines["first, round 1"]


def test_the_text_above_the_tables_stays(tmp_path):
    (tmp_path / "rounds.md").write_text(f"# What was found\n\nMuch.\n\n{MARK}\nold tables\n")
    page = write_rounds_page(MADE_UP, out=tmp_path)
    assert page.startswith("# What was found\n\nMuch.\n") and "old tables" not in page
    assert write_rounds_page(MADE_UP, out=tmp_path) == page
    ElementTree.parse(tmp_path / "rounds.svg")
    with pytest.raises(ValueError, match="there are no rows of rounds"):
        write_rounds_page([], out=tmp_path)


def test_the_kept_rows_give_the_page(tmp_path):
    (tmp_path / "rounds.md").write_text((KEPT / "rounds.md").read_text())
    world_rounds.main(["--rows", str(KEPT / "rounds.csv"), "--page", str(tmp_path)])
    for name in ("rounds.md", "rounds.svg"):
        assert (tmp_path / name).read_text() == (KEPT / name).read_text()
