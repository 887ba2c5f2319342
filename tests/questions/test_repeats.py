"""Repeats found by keys alone, against a loop over dictionaries."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mralign.questions.repeats import KEYS, REPEATS, drop_repeats, find_repeats, question_keys
from mralign.rows.schema import QUESTIONS

SPLITS = ("train", "dev", "test")


def table(*pairs, split="train"):
    rows = [
        {"question_id": key, "dataset": "d", "split": split, "question": question, "answers": ["x"], "extra": "{}"}
        for key, question in pairs
    ]
    return pa.Table.from_pylist(rows, schema=QUESTIONS)


def drop(*parts, splits, **arguments):
    """Each part without its repeats, and the rejects of each as (row id, reason, detail, raw)."""
    found = find_repeats([question_keys(part) for part in parts], splits=splits, **arguments)
    assert found.schema == REPEATS
    kept, rejects = [], []
    for number, part in enumerate(parts):
        table, dropped = drop_repeats(part, found.filter(pa.compute.equal(found.column("part"), number)))
        assert table.schema == QUESTIONS
        kept.append(table.column("question_id").to_pylist())
        rejects.append([(r.row_id, r.reason, r.detail, r.raw) for r in dropped])
    return kept, rejects


def test_the_first_of_each_normalised_question_stays():
    part = table(("d/1", "Who is it?"), ("d/2", "???"), ("d/3", "who is the it"), ("d/4", "!"), ("d/5", "???"))
    kept, rejects = drop(part, splits=["train"])
    assert kept == [["d/1", "d/2", "d/4"]]
    assert rejects == [
        [
            ("d/3", "duplicate_question", "same question as d/1", "who is the it"),
            ("d/5", "duplicate_question", "same question as d/2", "???"),
        ]
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("中国的首都是哪里？", "中国的首都是哪里"),
        ("中国的首都是哪里？", "中国的 首都是哪里?"),
        ("Who wrote “Émile”?", "who wrote 'E\u0301mile'"),
        ("Who won in １９６９–７０?", "Who won in 1969-70?"),
        ("Where is New\u00a0York?", "Where is\u200b New York?"),
        ("？", "?"),
    ],
)
def test_a_question_that_is_typed_otherwise_is_a_repeat_and_a_leak(one, other):
    train, test = table(("a/1", one), ("a/2", other)), table(("b/1", other))
    kept, rejects = drop(train, test, splits=["train", "test"])
    assert kept == [[], ["b/1"]]
    assert [reason for _, reason, _, _ in rejects[0]] == ["in_evaluation_split", "duplicate_question"]


def test_parts_are_read_in_their_order_and_splits_apart():
    parts = [
        table(("a/1", "x"), ("a/2", "y")),
        table(("b/1", "X?"), ("b/2", "z")),
        table(("c/1", "the z"), ("c/2", "Z")),
    ]
    kept, rejects = drop(*parts, splits=["train", "train", "dev"])
    assert kept == [["a/1", "a/2"], [], ["c/1"]]
    assert rejects[1:] == [
        [
            ("b/1", "duplicate_question", "same question as a/1", "X?"),
            ("b/2", "in_evaluation_split", "same question as c/1", "z"),
        ],
        [("c/2", "duplicate_question", "same question as c/1", "Z")],
    ]


def test_evaluation_questions_leave_the_train_split_and_dev_is_named_before_test():
    train, test, dev = (
        table(("d/1", "q"), ("d/2", "Q"), ("d/3", "p")),
        table(("t/1", "Q"), ("t/2", "P")),
        table(("e/1", "q!")),
    )
    kept, rejects = drop(train, test, dev, splits=["train", "test", "dev"])
    assert kept == [[], ["t/1", "t/2"], ["e/1"]]  # dev and test may share a question
    assert [(row, reason, detail) for row, reason, detail, _ in rejects[0]] == [
        ("d/1", "in_evaluation_split", "same question as e/1"),
        ("d/2", "duplicate_question", "same question as d/1"),
        ("d/3", "in_evaluation_split", "same question as t/2"),
    ]


def test_repeated_ids_leave_first_and_count_no_more():
    parts = [table(("d/1", "x"), ("d/1", "y")), table(("d/2", "y"), ("d/1", "x")), table(("d/1", "z"))]
    keys, splits = [question_keys(part) for part in parts], ["train", "train", "dev"]
    ids = find_repeats(keys, splits=splits, by="id")
    assert ids.select(["part", "row", "reason", "same_part", "same_row", "same_id"]).to_pylist() == [
        {"part": 0, "row": 1, "reason": "duplicate_id", "same_part": 0, "same_row": 0, "same_id": "d/1"},
        {"part": 1, "row": 1, "reason": "duplicate_id", "same_part": 0, "same_row": 0, "same_id": "d/1"},
    ]
    assert find_repeats(keys, splits=splits, without=ids).num_rows == 0  # d/2 is the first `y` left
    assert drop(*parts, splits=splits, by="id")[1][0] == [("d/1", "duplicate_id", "an earlier row has the id d/1", "y")]


def naive(parts, splits, *, by):
    """[(part, row, reason, same part, same row)] by dictionaries."""
    first = {split: {} for split in SPLITS}
    found = {}
    for part, (pairs, split) in enumerate(zip(parts, splits, strict=True)):
        for row, pair in enumerate(pairs):
            key = pair[0 if by == "id" else 1]
            if key in first[split]:
                found[part, row] = (f"duplicate_{by}", *first[split][key])
            else:
                first[split][key] = (part, row)
    if by == "question":
        for key, place in first["train"].items():
            held = first["dev"].get(key) or first["test"].get(key)
            if held:
                found[place] = ("in_evaluation_split", *held)
    return [(*place, *rest) for place, rest in sorted(found.items())]


letters = st.sampled_from("bcdefgh")
partitions = st.lists(st.tuples(st.sampled_from(SPLITS), st.lists(st.tuples(letters, letters), max_size=6)), max_size=8)


@settings(max_examples=200, deadline=None)
@given(partitions, st.sampled_from(["id", "question"]), st.integers(1, 4))
def test_any_partition_gives_what_a_loop_over_dictionaries_gives(partition, by, buckets):
    splits, parts = [split for split, _ in partition], [pairs for _, pairs in partition]
    keys = [question_keys(table(*pairs)) for pairs in parts]
    tables = [find_repeats(keys, splits=splits, by=by, bucket=b, buckets=buckets) for b in range(buckets)]
    found = [
        (row["part"], row["row"], row["reason"], row["same_part"], row["same_row"])
        for row in pa.concat_tables(tables).to_pylist()
    ]
    assert sorted(found) == naive(parts, splits, by=by)
    for row in pa.concat_tables(tables).to_pylist():
        assert row["same_id"] == parts[row["same_part"]][row["same_row"]][0]


def test_keys_that_agree_in_one_half_only_are_different():
    columns = {"row": [0, 1, 2, 3], "id_hi": [0, 1, 0, 0], "id_lo": [0, 0, 1, 0], "question_id": list("abcd")}
    columns |= {"question_hi": columns["id_hi"], "question_lo": columns["id_lo"]}
    keys = pa.table(columns).select(KEYS.names).cast(KEYS)
    assert find_repeats([keys], splits=["train"]).column("row").to_pylist() == [3]


def test_buckets_share_the_keys_out_evenly():
    keys = question_keys(table(*((f"d/{n}", f"question {n}") for n in range(4000))))
    shares = np.bincount(keys.column("question_lo").to_numpy() % np.uint64(4), minlength=4)
    assert np.all(np.abs(shares - 1000) < 150)  # 5 standard deviations


def test_nothing_is_no_repeat_and_unknown_names_are_refused():
    assert find_repeats([], splits=[]).num_rows == 0
    assert question_keys(QUESTIONS.empty_table()).schema == KEYS
    empty = find_repeats([question_keys(QUESTIONS.empty_table())], splits=["dev"], without=REPEATS.empty_table())
    assert drop_repeats(table(("d/1", "x")), empty) == (table(("d/1", "x")), [])
    with pytest.raises(ValueError, match=r"splits \['valid'\] is not known; allowed are train, dev, test"):
        find_repeats([question_keys(table())], splits=["valid"])
    with pytest.raises(ValueError, match=r"by \['answer'\]"):
        find_repeats([], splits=[], by="answer")
