"""Records on the shelf: each lies in one place, that of its question, in the order of its file."""

from unittest.mock import patch

import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from mralign.rollouts import import_shelf
from mralign.rollouts.import_files import Imported
from mralign.rollouts.import_shelf import SHELVED, QuestionPlaces, RecordShelf, files_by_place, mark, shelve
from mralign.rows import Mode

IDS = [f"far/{n}" for n in range(12)]
FILES = st.fixed_dictionaries({mode: st.lists(st.sampled_from(IDS), max_size=40) for mode in Mode})


def record(question_id, *, mode, number):
    return Imported(mode, number, question_id, raw="x" * 10, answers=["a"], response=f"{mode} {number}")


def put(shelf, files, *, parts, characters):
    """The question ids of each mode's records on the shelf, in files of so many characters."""
    places = QuestionPlaces(parts)
    with patch.object(import_shelf, "_CHARACTERS", characters), patch.object(import_shelf, "_LEAST_ROWS", 2):
        for mode, ids in files.items():
            records = (record(one, mode=mode, number=number) for number, one in enumerate(ids))
            written = list(shelve(records, mode=mode, places=places, shelf=shelf))
            assert sum(rows for _, rows in written) == len(ids)


def read(shelf, place):
    names = files_by_place(shelf).get(place, [])
    return shelf.read_parts([str(place), *names], schema=SHELVED).to_pylist()


@given(FILES, st.integers(1, 4), st.integers(1, 200), st.randoms(use_true_random=False))
def test_each_record_lies_in_the_place_of_its_question(tmp_path_factory, files, count, characters, random):
    shelf = RecordShelf(str(tmp_path_factory.mktemp("shelf")))
    part_of = {one: random.randrange(count) for one in IDS[:8]}  # four questions are in no part
    parts = [[one for one, part in part_of.items() if part == number] for number in range(count)]
    put(shelf, files, parts=parts, characters=characters)
    place_of = {}
    seen = []
    for place in range(count):
        rows = read(shelf, place)
        for row in rows:
            assert place_of.setdefault(row["question_id"], place) == place  # all of a question meet
            assert row["known"] == (row["question_id"] in part_of)
            assert part_of.get(row["question_id"], place) == place
            assert files[row["mode"]][row["number"]] == row["question_id"]
            assert row["response"] == f"{row['mode']} {row['number']}"
        for mode in Mode:
            numbers = [row["number"] for row in rows if row["mode"] == mode]
            assert numbers == sorted(numbers)
        seen += [(row["mode"], row["number"]) for row in rows]
    assert sorted(seen) == sorted((mode, number) for mode in Mode for number in range(len(files[mode])))


def test_of_a_large_file_only_what_a_place_needs_is_read(tmp_path):
    """Where records come in no order, every file of the shelf has some of every place."""
    shelf = RecordShelf(str(tmp_path))
    ids = [f"far/{n * 7919 % 4000}" for n in range(4000)]
    parts = [[f"far/{n}" for n in range(start, start + 400)] for start in range(0, 4000, 400)]
    put(shelf, {Mode.ON: ids, Mode.OFF: []}, parts=parts, characters=10**9)
    (name,) = files_by_place(shelf)[3]
    file = pq.ParquetFile(shelf.path(name))
    assert {row["question_id"] for row in read(shelf, 3)} == set(parts[3])
    holding = [group for group in range(file.num_row_groups) if import_shelf._may_hold(file, group, place=3)]
    assert sum(file.metadata.row_group(group).num_rows for group in holding) <= 800


def test_a_mark_is_written_last(tmp_path):
    shelf = RecordShelf(str(tmp_path))
    records = (record(one, mode=Mode.ON, number=number) for number, one in enumerate(IDS))
    with patch.object(import_shelf, "_CHARACTERS", 10):
        written = shelve(records, mode=Mode.ON, places=QuestionPlaces([IDS]), shelf=shelf)
        for _ in IDS:
            name, rows = next(written)
            assert rows == 1 and shelf.exists(name) and not shelf.exists(mark(Mode.ON))
        assert list(written) == []
    assert shelf.exists(mark(Mode.ON))


def test_a_question_part_without_a_question_takes_what_is_dealt_to_it():
    place_M, known_M = QuestionPlaces([[], []]).find(["a", "b", "c", "d", "e", "f"])
    assert not known_M.any()
    assert set(place_M.tolist()) == {0, 1}
