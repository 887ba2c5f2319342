"""A human's CSV: what is read, every fault, and the common steps with the final ones."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mralign.annotation.human import human_steps, read_lines, refine
from mralign.annotation.step_labels import StepLabels
from mralign.annotation.taxonomy import PAPER
from mralign.run.rejects import Reject

HEAD = "row_id,first_segment,last_segment,labels"


def steps_of(*rows, head=HEAD, segments=4):
    (lines,) = read_lines("\n".join([head, *rows])).values()
    return human_steps(lines, row_id="r", segments=segments, taxonomy=PAPER)


def labels(steps):
    return [(step.first_segment, step.last_segment, step.labels) for step in steps]


def test_rows_become_the_steps_of_their_trajectories():
    text = (
        f"\ufeff{HEAD},confidences,what it says\r\n"
        'q/on/0,0,1,framing,,"Well, what is asked?\n\nA date."\r\n'
        "p/on/1,2,3,,,\r\n"
        "q/on/0,2,3,retrieval; analogy ;,6;8.5,It was 1912.\r\n"
        " , ,,,,\r\n"
        "p/on/1,0,1,chaining;framing,,\r\n"
    )
    found = read_lines(text)
    assert {row_id: len(lines) for row_id, lines in found.items()} == {"q/on/0": 2, "p/on/1": 2}
    q, p = (human_steps(lines, row_id="", segments=4, taxonomy=PAPER) for lines in found.values())
    assert labels(q) == [(0, 1, ("framing",)), (2, 3, ("analogy", "retrieval"))]  # the most certain first
    assert labels(p) == [(0, 1, ("chaining", "framing")), (2, 3, ())]  # without confidences, as written


def test_equal_confidences_keep_the_order_of_the_file():
    (step,) = steps_of("r,0,3,summarization;framing,7;7", head=f"{HEAD},confidences")
    assert step == StepLabels(0, 3, ("summarization", "framing"), (7.0, 7.0))


@pytest.mark.parametrize(
    ("rows", "reason", "detail"),
    [
        (["r,0,1,framing"], "invalid_annotation", "segments 2 to 3 are in no step"),
        (["r,1,3,framing"], "invalid_annotation", "step 0 begins at segment 1, expected 0"),
        (["r,0,1,framing", "r,3,3,framing"], "invalid_annotation", "step 1 begins at segment 3, expected 2"),
        (["r,0,2,framing", "r,2,3,framing"], "invalid_annotation", "step 1 begins at segment 2, expected 3"),
        (["r,0,3,framing", "r,0,3,framing"], "invalid_annotation", "step 1 begins at segment 0, expected 4"),
        (["r,0,4,framing"], "invalid_annotation", "step 0 ends at segment 4; allowed are 0 to 3"),
        (["r,0,-1,framing", "r,0,3,framing"], "invalid_annotation", "step 0 ends at segment -1"),
        (["r,0,3,guessing"], "invalid_annotation", r"unknown labels \['guessing'\]; allowed are \['framing', "),
        (["r,0,3,Framing"], "invalid_annotation", r"unknown labels \['Framing'\]"),
        (["r,0,3,framing;framing"], "invalid_annotation", "allowed are at most two different ones"),
        (["r,0,3,framing;analogy;chaining"], "invalid_annotation", "allowed are at most two different ones"),
        (["r,0,1.0,framing"], "unreadable_row", "line 2: last_segment is '1.0'; allowed is a whole number"),
        (["r,0,1,framing", "r,,3,framing"], "unreadable_row", "line 3: first_segment is ''"),
        (["r,0,3,framing,analogy"], "unreadable_row", "line 2 has 5 cells; .* the 4 names .* separated by ';'"),
        (["r,0,3"], "unreadable_row", "line 2 has 3 cells; .* the 4 names"),
    ],
)
def test_a_faulty_trajectory_is_a_reject_with_its_reason_and_its_rows(rows, reason, detail):
    found = steps_of(*rows)
    assert isinstance(found, Reject)
    assert (found.row_id, found.reason) == ("r", reason)
    assert re.search(detail, found.detail)
    assert found.raw.splitlines() == [f"line {number}: {row}" for number, row in enumerate(rows, 2)]


@pytest.mark.parametrize(
    ("confidences", "reason", "detail"),
    [
        ("9", "invalid_annotation", "has 1 confidences for 2 labels; allowed is one each"),
        ("9;8;7", "invalid_annotation", "has 3 confidences for 2 labels"),
        ("9;11", "invalid_annotation", "allowed are numbers from 0 to 10"),
        ("nan;9", "invalid_annotation", "allowed are numbers from 0 to 10"),
        (
            "9;high",
            "unreadable_row",
            "line 2: confidences is 'high'; allowed is numbers from 0 to 10",
        ),
    ],
)
def test_a_faulty_confidence_is_a_reject(confidences, reason, detail):
    found = steps_of(f"r,0,3,framing;analogy,{confidences}", head=f"{HEAD},confidences")
    assert isinstance(found, Reject)
    assert found.reason == reason
    assert detail in found.detail


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"the first line is \[\]; columns \['row_id', .* are missing"),
        ("row_id,first_segment,labels\nr,0,framing", r"columns \['last_segment'\] are missing"),
        ("row_id;first_segment;last_segment;labels\n", r"first line is \['row_id;first.* with commas between them"),
        (f"{HEAD},labels\nr,0,3,framing,analogy", r"\['labels'\] stand twice"),
        (HEAD, "no row stands below the head"),
        (f"{HEAD}\n,,,\n", "no row stands below the head"),
        (f'{HEAD}\nr,0,3,"framing" x\n', "line 2 is not CSV"),
        (f'{HEAD}\nr,0,3,"framing\n', "is not CSV: unexpected end of data"),
    ],
)
def test_a_file_that_says_nothing_is_an_error(text, message):
    with pytest.raises(ValueError, match=message):
        read_lines(text)


def final(first, last, *names):
    labels = {field: [f"{name}-{first}" for name in names] for field in ("labels", "labels_a", "labels_b")}
    return {"first_segment": first, "last_segment": last, **labels}


def row(*steps):
    return {"row_id": "r", "question_id": "q", "dataset": "d", "polarity": -1, "steps": list(steps)}


def test_common_steps_begin_where_either_has_a_boundary():
    human = (StepLabels(0, 2, ("analogy",), (9.0,)), StepLabels(3, 4, (), ()), StepLabels(5, 5, ("framing",), (1.0,)))
    found = refine(row(final(0, 0, "a"), final(1, 3, "b", "c"), final(4, 5)), human=human)
    assert {name: found[name] for name in found if name != "steps"} == {
        "row_id": "r",
        "question_id": "q",
        "dataset": "d",
        "polarity": -1,
    }
    assert [(s["first_segment"], s["last_segment"], s["labels_human"], s["labels"]) for s in found["steps"]] == [
        (0, 0, ["analogy"], ["a-0"]),
        (1, 2, ["analogy"], ["b-1", "c-1"]),
        (3, 3, [], ["b-1", "c-1"]),
        (4, 4, [], []),
        (5, 5, ["framing"], []),
    ]


cuts = st.sets(st.integers(1, 11))


@settings(deadline=None)
@given(cuts, cuts)
def test_every_segment_keeps_the_labels_that_each_gave_it(ours, theirs):
    """The oracle: labels laid out on the 12 base segments, before and after."""
    spans = [list(zip(sorted({0, *c}), [*sorted(c), 12], strict=True)) for c in (ours, theirs)]
    human = tuple(StepLabels(a, b - 1, (f"h{a}",), (5.0,)) for a, b in spans[1])
    found = refine(row(*(final(a, b - 1, "f") for a, b in spans[0])), human=human)["steps"]
    assert [step["first_segment"] for step in found] == sorted({0, *ours, *theirs})
    flat = [step for step in found for _ in range(step["first_segment"], step["last_segment"] + 1)]
    assert [s["labels_human"] for s in flat] == [[f"h{a}"] for a, b in spans[1] for _ in range(a, b)]
    for field in ("labels", "labels_a", "labels_b"):
        assert [s[field] for s in flat] == [[f"f-{a}"] for a, b in spans[0] for _ in range(a, b)]
