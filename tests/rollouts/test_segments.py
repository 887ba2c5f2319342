import pytest
from hypothesis import given
from hypothesis import strategies as st

from mralign.rollouts.segmentation import segments

PIECES = st.lists(
    st.sampled_from(["a", "b c", "\n", "\n\n", " ", "\t", "\r\n", "é", "😀", "<think>", "."]), max_size=30
)


def test_a_segment_has_the_white_space_before_it_and_none_behind():
    text = "<think>\nOne.\n\n  Two \n three\n\n\n\n \n\nFour\n</think>x\n\ny"
    end = text.index("</think>")
    spans = segments(text, start=7, end=end)
    assert [text[a:b] for a, b in spans] == ["\nOne.", "  Two \n three", "\n\n \n\nFour"]
    assert spans == [(7, 12), (14, 27), (29, 38)]
    assert segments(text, start=7, end=7) == []
    assert segments("no thought", start=-1, end=-1) == []


def test_three_newlines_are_one_cut():
    assert segments("a\n\n\nb", start=0, end=5) == [(0, 1), (3, 5)]


@pytest.mark.parametrize("blank", ["\r\n\r\n", "\n\r\n", "\r\n\n"])
def test_a_carriage_return_belongs_to_its_line_end(blank):
    text = f"<think>one{blank}two\r\nstill two{blank}three"
    spans = segments(text, start=7, end=len(text))
    assert [text[a:b] for a, b in spans] == ["one", "two\r\nstill two", "three"]


@given(PIECES, st.integers(0, 40), st.integers(0, 40))
def test_segments_partition_the_thought(pieces, first, last):
    text = "".join(pieces)
    start, end = sorted((min(first, len(text)), min(last, len(text))))
    spans = segments(text, start=start, end=end)
    edges = [start, *(edge for span in spans for edge in span), end]
    assert edges == sorted(edges)
    for a, b in spans:
        assert text[a:b].strip() != "" and text[a:b].rstrip() == text[a:b]
        assert "\n\n" not in text[a:b].strip().replace("\r\n", "\n")
    gaps = [text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
    if spans:
        assert gaps[0] == ""  # all before the first visible character is the first segment's
    assert "".join(gaps).strip() == ""
    assert all(gap.replace("\r\n", "\n").endswith("\n\n") for gap in gaps[1:-1])


@given(st.lists(st.sampled_from(["a", " b", "\n", "\n\n", " "]), max_size=30).map("".join))
def test_carriage_returns_change_no_segment(text):
    """Oracle: the plain text cut by `split`."""
    written = text.replace("\n", "\r\n")
    spans = segments(written, start=0, end=len(written))
    expected = [piece.strip() for piece in text.split("\n\n") if piece.strip()]
    assert [written[a:b].strip().replace("\r\n", "\n") for a, b in spans] == expected
