"""Records are counted before anything has run, within a time limit."""

import pytest

from mralign.config import parse
from mralign.questions.counting import SourceCount, count_questions


def counted(tmp_path, rows, *, limit_s=60.0, **source):
    (tmp_path / "a.jsonl").write_text('{"question": "q", "answer": "a"}\n' * rows)
    questions = {"train": [{"name": "a", "path": f"{tmp_path}/a.jsonl", **source}]}
    (found,) = count_questions(parse({"questions": questions}), limit_s=limit_s)
    return found


@pytest.mark.parametrize(
    ("source", "number"),
    [({}, 2_000), ({"limit": 700}, 700), ({"skip": 1_900}, 100), ({"skip": 1_900, "limit": 50}, 50)],
)
def test_what_a_source_leaves_is_counted(tmp_path, source, number):
    assert counted(tmp_path, 2_000, **source) == SourceCount("train", "a", number)


def test_a_sample_of_more_than_there_is_keeps_all(tmp_path):
    assert counted(tmp_path, 20, sample=7).records == 7
    assert counted(tmp_path, 20, sample=70).records == 20


def test_a_count_that_takes_too_long_says_so(tmp_path):
    found = counted(tmp_path, 5_000, limit_s=0.0)
    assert (found.records, found.exact) == (500, False)
    assert str(found) == "a more than 500"


def test_a_file_that_cannot_be_read_is_unknown(tmp_path):
    found = counted(tmp_path, 1, file="parquet")
    assert str(found) == "a unknown"
