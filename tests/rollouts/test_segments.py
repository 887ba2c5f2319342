from hypothesis import given
from hypothesis import strategies as st

from mralign.rollouts.segments import segment_spans

PIECES = st.lists(st.sampled_from(["a", "b c", "\n", "\n\n", " ", "\t", "é", "😀", "<think>", "."]), max_size=30)


def test_segments_are_trimmed_and_blank_ones_left_out():
    text = "<think>\nOne.\n\n  Two \n three\n\n\n\n \n\nFour\n</think>x\n\ny"
    end = text.index("</think>")
    spans = segment_spans(text, start=7, end=end)
    assert [text[a:b] for a, b in spans] == ["One.", "Two \n three", "Four"]
    assert spans == [(8, 12), (16, 27), (34, 38)]
    assert segment_spans(text, start=7, end=7) == []
    assert segment_spans("no thought", start=-1, end=-1) == []


def test_three_newlines_are_one_cut():
    assert segment_spans("a\n\n\nb", start=0, end=5) == [(0, 1), (4, 5)]


@given(PIECES, st.integers(0, 40), st.integers(0, 40))
def test_segments_partition_the_thought(pieces, first, last):
    text = "".join(pieces)
    start, end = sorted((min(first, len(text)), min(last, len(text))))
    spans = segment_spans(text, start=start, end=end)
    edges = [start, *(edge for span in spans for edge in span), end]
    assert edges == sorted(edges)
    for a, b in spans:
        assert text[a:b] == text[a:b].strip() != ""
        assert "\n\n" not in text[a:b]
    gaps = [text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
    assert "".join(gaps).strip() == ""
    assert all("\n\n" in gap for gap in gaps[1:-1])
