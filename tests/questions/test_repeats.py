"""Repeats found by keys: against a plain loop over the rows, for any way of dealing rows to parts and buckets."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mralign.questions.matching import normalize
from mralign.questions.repeats import REPEATS, drop_repeats, find_repeats, question_keys
from mralign.schema import QUESTIONS


def table(*pairs, split="train"):
    rows = [
        {"question_id": key, "dataset": "d", "split": split, "question": question, "answers": ["x"], "extra": "{}"}
        for key, question in pairs
    ]
    return pa.Table.from_pylist(rows, schema=QUESTIONS)


def found(parts, *, by, buckets=1, without=None):
    """{(part, row): (reason, id of the row that stays)} over all buckets."""
    keys = [question_keys(part) for _, part in parts]
    splits = [split for split, _ in parts]
    tables = [
        find_repeats(keys, splits=splits, by=by, without=without, bucket=b, buckets=buckets) for b in range(buckets)
    ]
    joined = pa.concat_tables(tables)
    assert joined.schema == REPEATS
    return {(row["part"], row["row"]): (row["reason"], row["same_id"]) for row in joined.to_pylist()}


def naive(parts, *, by):
    """The same by a loop over the rows."""
    first, held, out = {}, {}, {}

    def key(row):
        return row["question_id"] if by == "id" else normalize(row["question"]) or row["question"]

    for number, (split, part) in enumerate(parts):
        for place, row in enumerate(part.to_pylist()):
            if (split, key(row)) in first:
                reason = "duplicate_id" if by == "id" else "duplicate_question"
                out[number, place] = (reason, first[split, key(row)])
            first.setdefault((split, key(row)), row["question_id"])
    for split in ("dev", "test"):
        for (owner, text), other in first.items():
            if owner == split:
                held.setdefault(text, other)
    for number, (split, part) in enumerate(parts):
        for place, row in enumerate(part.to_pylist()):
            if by == "question" and split == "train" and (number, place) not in out and key(row) in held:
                out[number, place] = ("in_evaluation_split", held[key(row)])
    return out


TEXTS = st.sampled_from(["Who?", "who", "the who", "When is it?", "when is it", "!", "?", "a b", "a  b."])
PART = st.tuples(
    st.sampled_from(["train", "dev", "test"]), st.lists(st.tuples(st.sampled_from("abcdef"), TEXTS), max_size=6)
)


@given(parts=st.lists(PART, max_size=6), buckets=st.integers(1, 3), by=st.sampled_from(["id", "question"]))
def test_any_dealing_gives_what_a_loop_gives(parts, buckets, by):
    parts = [(split, table(*((f"d/{i}", q) for i, q in rows), split=split)) for split, rows in parts]
    assert found(parts, by=by, buckets=buckets) == naive(parts, by=by)


def test_what_is_gone_already_is_nobodys_first():
    parts = [("train", table(("d/1", "one"), ("d/1", "two"), ("d/2", "two")))]
    keys = [question_keys(part) for _, part in parts]
    gone = find_repeats(keys, splits=["train"], by="id")
    assert gone.to_pylist() == [{"part": 0, "row": 1, "reason": "duplicate_id", "same_id": "d/1"}]
    assert found(parts, by="question", without=gone) == {}
    assert found(parts, by="question") == {(0, 2): ("duplicate_question", "d/1")}


def test_rows_leave_with_the_question_they_repeat():
    part = table(("d/1", "Who is it?"), ("d/2", "???"), ("d/3", "who is the it"), ("d/4", "!"))
    repeats = find_repeats([question_keys(part)], splits=["train"], by="question")
    kept, rejects = drop_repeats(part, repeats)
    assert kept.column("question_id").to_pylist() == ["d/1", "d/2", "d/4"]
    assert [(r.row_id, r.reason, r.detail, r.raw) for r in rejects] == [
        ("d/3", "duplicate_question", "same question as d/1", "who is the it")
    ]


def test_evaluation_questions_leave_the_train_split():
    parts = [
        ("train", table(("d/1", "Who is it?"), ("d/2", "When?"))),
        ("test", table(("e/9", "who is it"))),
        ("dev", table(("f/9", "who is it"))),
    ]
    assert found(parts, by="question") == {(0, 0): ("in_evaluation_split", "f/9")}


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="allowed are train, dev, test"):
        find_repeats([], splits=["valid"], by="id")
