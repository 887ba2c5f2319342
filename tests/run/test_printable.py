"""Hostile text on a terminal."""

import pytest

from mralign.run.printable import one_line, printable


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("plain, ünïcode – 漢字", "plain, ünïcode – 漢字"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[1;1Hgone", "gone"),
        ("\x1b]0;a title\x07after", "after"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b2Jgone", "gone"),
        ("over\rwritten", "over written"),
        ("a\x08\x08b\x00\x7f", "ab"),
        ("right\u202eto\u2066left\u200b", "righttoleft"),
        ("a\u2028b\ud800c", "abc"),
        ("two\r\nlines\tand", "two\nlines and"),
        ("\x1b", ""),
    ],
)
def test_what_steers_a_terminal_is_taken_out(given, kept):
    assert printable(given) == kept


def test_one_line_is_cut_to_its_length():
    assert one_line("  a \n b\tc ") == "a b c"
    assert one_line("abcdef", longest=4) == "abc…"
    assert one_line("abcd", longest=4) == "abcd"
