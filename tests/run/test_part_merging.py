"""Many parts become one: the same rows, rejects and tallies, whatever moment the process is killed at."""

import json
from collections import Counter
from itertools import count

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mralign.run import part_merging
from mralign.run.finished import Ids, read_tallies, settle, settle_and_merge
from mralign.run.part_merging import finish, merge, pieces_of, tally_name
from mralign.run.part_names import part_name, parts_by_upstream, standing_parts
from mralign.run.rejects import Reject, to_table
from mralign.run.store import Manifest, StageDir

ROWS = pa.schema({"row_id": pa.string(), "n": pa.int64()})
UPSTREAM = [part_name("train-00"), part_name("train-01")]


def place(path):
    return StageDir(str(path), stage="rollouts", fingerprint="f")


def commit(out, key, ids, rejects=()):
    rows = pa.table({"row_id": list(ids), "n": [hash(row_id) % 97 for row_id in ids]}, schema=ROWS)
    out.commit(part_name(key), rows, schema=ROWS, rejects=to_table([Reject(row_id, "odd") for row_id in rejects]))
    tallies = {row_id: {"tokens": 3} for row_id in [*ids, *rejects]}
    out.write_text(tally_name(part_name(key)), json.dumps(tallies))


def committed(out):
    """Two upstream parts, answered in three and in two parts, and one of another stage's cut."""
    commit(out, "train-00-b", ["c", "d"], ["e"])
    commit(out, "train-00-a", ["a", "b"])
    commit(out, "train-00-c", [], ["f"])
    commit(out, "train-01-a", ["g"])
    commit(out, "train-01-b", ["h"], ["i"])


def found(out):
    """Everything that a reader sees, sorted; the order of rows is looked at elsewhere."""
    tallies = [took["tokens"] for part in out.parts() for took in read_tallies(out, part, schema=ROWS)]
    rows = sorted(out.read(schema=ROWS).column("row_id").to_pylist())
    return rows, sorted(out.read_rejects().column("row_id").to_pylist()), len(tallies)


EXPECTED = (["a", "b", "c", "d", "g", "h"], ["e", "f", "i"], 9)


def test_one_part_holds_the_rows_of_many_in_their_order_with_rejects_and_tallies(tmp_path):
    out = place(tmp_path)
    committed(out)
    before = out.read(schema=ROWS)
    for pieces in pieces_of(out, UPSTREAM):
        merge(out, pieces, schema=ROWS)
    assert out.read(schema=ROWS) == before
    assert found(out) == EXPECTED
    assert {name: len(parts) for name, parts in parts_by_upstream(out.parts(), UPSTREAM).items()} == dict.fromkeys(
        UPSTREAM, 1
    )
    files = [path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path.is_file()]
    assert Counter(name.partition("-")[0] for name in files) == {"part": 2, "rejects": 2, "tallies": 2}
    assert pieces_of(out, UPSTREAM) == []
    sealed = out.seal(Manifest("rollouts", "f", {}, {}, {}, 9, 6, {"odd": 3}, 1.0, {}))
    assert {name: rows for name, (rows, _) in sealed.parts.items() if "/" not in name} == out.counts()
    assert sum(rows for rows, _ in sealed.parts.values()) == 9


def test_a_large_part_is_written_in_row_groups_and_only_they_are_in_memory(tmp_path, monkeypatch):
    out = place(tmp_path)
    for number in range(12):
        commit(out, f"train-00-{number:02d}", [f"{number}/{row}" for row in range(500)])
    size = max(out.sizes()[part] for part in out.parts())
    monkeypatch.setattr(part_merging, "_ROW_GROUP", 3 * size)
    (pieces,) = pieces_of(out, UPSTREAM)
    merge(out, pieces, schema=ROWS)
    groups = pq.ParquetFile(tmp_path / pieces.merged).metadata
    assert [groups.row_group(number).num_rows for number in range(groups.num_row_groups)] == [1500] * 4
    commit(out, "train-00-zz", ["late"])  # asked again after a part was damaged
    monkeypatch.setattr(part_merging, "_ROW_GROUP", size)
    read = []
    taking = StageDir.read_files
    monkeypatch.setattr(
        StageDir, "read_files", lambda self, names, **named: read.append(names) or taking(self, names, **named)
    )
    (pieces,) = pieces_of(out, UPSTREAM)
    merge(out, pieces, schema=ROWS)
    assert ["part-train-00-zz.parquet"] in read and all(len(names) <= 1 for names in read)
    assert out.read(schema=ROWS).num_rows == 6001


class Killed(BaseException):
    """The process is no more."""


class Dying:
    """A file system whose process is killed before its change number `last`."""

    def __init__(self, real, *, last):
        self.real, self.left = real, last

    def __getattr__(self, name):
        does = getattr(self.real, name)
        if name not in ("open_output_stream", "move", "delete_file", "create_dir"):
            return does

        def change(*given, **named):
            self.left -= 1
            if self.left < 0:
                raise Killed
            return does(*given, **named)

        return change


def dying(path, *, last):
    out = place(path)
    out.__dict__["_opened"] = (Dying(out.filesystem, last=last), out.path())
    return out


@pytest.mark.parametrize("again", ["stage", "task"])
def test_killed_before_any_change_the_rows_stand_once_and_the_next_try_ends_it(tmp_path, monkeypatch, again):
    monkeypatch.setattr(part_merging, "READERS", 1)  # so that the changes have an order
    kills = 0
    for last in count():
        path = tmp_path / str(last)
        committed(place(path))
        pieces = pieces_of(place(path), UPSTREAM)
        process = dying(path, last=last)
        try:
            for one in pieces:
                settle_and_merge(process, one, ids=Ids(ROWS))
        except Killed:
            kills += 1
        else:
            break
        out = place(path)
        assert found(out) == EXPECTED, last
        if again == "stage":
            marked = any(name.startswith("merging") for name in out.sizes())
            known = settle(out, UPSTREAM, ids=Ids(ROWS), forget=True)
            assert (len(known), known.repeated) == (9, 0), last
            left = [name for name in out.sizes() if "merging" in name or "_tmp" in name]
            assert not left or not marked, last  # a file that was to be the mark itself stays, as of any killed writer
            pieces = pieces_of(out, UPSTREAM)
        for one in pieces:  # Ray runs the same task again
            assert settle_and_merge(place(path), one, ids=Ids(ROWS)) == 0
        assert found(place(path)) == EXPECTED, last
        names = [name for name in place(path).sizes() if "_tmp" not in name]
        assert Counter(name.partition("-")[0] for name in names) == {
            "part": 2,
            "rejects/part": 2,
            "tallies/train": 2,
        }, last
    assert kills > 20


def test_killed_while_the_rest_is_deleted_the_next_start_deletes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(part_merging, "READERS", 1)
    for last in count():
        path = tmp_path / str(last)
        out = place(path)
        committed(out)
        pieces, _ = pieces_of(out, UPSTREAM)
        monkeypatch.setattr(part_merging, "finish_merging", lambda out, pieces: None)
        merge(out, pieces, schema=ROWS)
        monkeypatch.undo()
        monkeypatch.setattr(part_merging, "READERS", 1)
        try:
            finish(dying(path, last=last))
        except Killed:
            assert found(out) == EXPECTED
            continue
        assert found(out) == EXPECTED
        assert len(out.parts()) == 3 and not [name for name in out.sizes() if name.startswith("merging")]
        break
    assert last > 5


def test_rejects_of_a_part_that_somebody_has_deleted_do_not_come_back(tmp_path):
    out = place(tmp_path)
    for answered in ([], ["b"]):  # the second time b has an answer; the batches are the same, and so is their part
        commit(out, "train-00-a", ["a"])
        commit(out, "train-00-b", answered, [] if answered else ["b"])
        (pieces,) = pieces_of(out, UPSTREAM)
        merge(out, pieces, schema=ROWS)
        rows, rejects, _ = found(out)
        assert (rows, rejects) == (["a", *answered], [] if answered else ["b"])
        (tmp_path / pieces.merged).unlink()


def test_requests_that_two_parts_answer_are_merged_once(tmp_path):
    out = place(tmp_path)
    commit(out, "train-00-a", ["a", "b"])
    commit(out, "train-00-b", ["c"], ["b"])  # a batch that was cut otherwise
    (pieces,) = pieces_of(out, UPSTREAM)
    assert settle_and_merge(out, pieces, ids=Ids(ROWS)) == 1
    assert found(out)[:2] == (["a", "b", "c"], [])


def test_the_names_alone_tell_which_parts_stand():
    names = ["part-a-1.parquet", "part-a-2.parquet", "part-b-1.parquet", "manifest.json", "rejects/part-a-1.parquet"]
    assert standing_parts(names) == ["part-a-1.parquet", "part-a-2.parquet", "part-b-1.parquet"]
    assert standing_parts([*names, "merging-a-3"]) == standing_parts(names)
    assert standing_parts([*names, "merging-a-3", "part-a-3.parquet"]) == ["part-a-3.parquet", "part-b-1.parquet"]
