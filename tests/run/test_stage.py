"""How a stage spreads over Ray, on a real local one."""

import time
import uuid
from pathlib import Path

import pyarrow as pa
import pytest

from mralign.config import parse
from mralign.run.events import WorkBegan, listening
from mralign.run.faults import user_sentence
from mralign.run.part_names import part_name
from mralign.run.rejects import Reject
from mralign.run.stage import Context, map_groups, map_parts, reduce_tasks, run_tasks
from mralign.run.store import StageDir

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("local_ray")]

ROWS = pa.schema({"row_id": pa.string(), "key": pa.string(), "n": pa.int64()})
GROUPS = pa.schema({"key": pa.string(), "ns": pa.list_(pa.int64())})
CONFIG = parse({"questions": {"train": [{"name": "a", "path": "a"}]}})


@pytest.fixture
def calls(tmp_path):
    """A folder in which every execution leaves one file named after the first row it saw."""
    folder = tmp_path / "calls"
    folder.mkdir()
    return folder


def seen(folder):
    return sorted(path.name.split("~")[0] for path in folder.iterdir())


def context(place):
    return Context(CONFIG, StageDir(str(place), stage=place.name, fingerprint="f"), {})


def upstream(place, *, rows, parts):
    """`rows` rows of 10 keys, dealt in order to `parts` parts."""
    source = StageDir(str(place), stage="source", fingerprint="s")
    table = pa.table(
        {
            "row_id": [f"r{n:03d}" for n in range(rows)],
            "key": [f"k{n * n % 10}" for n in range(rows)],
            "n": list(range(rows)),
        }
    )
    size = -(-rows // parts)
    for number in range(parts):
        source.commit(part_name(f"{number:05d}"), table.slice(number * size, size), schema=ROWS)
    return source


def doubling(folder):
    """Doubles n and puts the rows with n = 5 (mod 10) aside."""

    def double(table):
        rows = table.to_pylist()
        (folder / f"{rows[0]['row_id']}~{uuid.uuid4().hex}").touch()
        kept = [{**row, "n": 2 * row["n"]} for row in rows if row["n"] % 10 != 5]
        return pa.Table.from_pylist(kept, schema=ROWS), [Reject(r["row_id"], "five") for r in rows if r["n"] % 10 == 5]

    return double


def grouping(folder):
    """One row a key with its sorted numbers."""

    def group(table):
        rows = table.to_pylist()
        (folder / f"{rows[0]['key'] if rows else 'empty'}~{uuid.uuid4().hex}").touch()
        keys = sorted({row["key"] for row in rows})
        found = [{"key": key, "ns": sorted(row["n"] for row in rows if row["key"] == key)} for key in keys]
        return pa.Table.from_pylist(found, schema=GROUPS), []

    return group


def by_part(out, schema):
    return {part: out.read_parts([part], schema=schema).to_pylist() for part in out.parts()}


def test_map_parts_commits_one_part_for_each_upstream_part(tmp_path, calls):
    source, target = upstream(tmp_path / "source", rows=20, parts=4), context(tmp_path / "target")
    told = []
    with listening(told.append):
        map_parts(target, doubling(calls), source=source, schema=ROWS, upstream_schema=ROWS)
    assert told[0] == WorkBegan(total=4, done=0)
    assert [one.done for one in told[1:]] == [1, 2, 3, 4]
    assert told[-1].rejects == 2
    assert target.out.parts() == source.parts()
    found = by_part(target.out, ROWS)
    assert [row["n"] for row in found["part-00001.parquet"]] == [12, 14, 16, 18]
    assert [row["n"] for row in target.out.read(schema=ROWS).to_pylist()] == [2 * n for n in range(20) if n % 10 != 5]
    assert target.out.read_rejects().column("row_id").to_pylist() == ["r005", "r015"]
    assert seen(calls) == ["r000", "r005", "r010", "r015"]


def test_map_parts_skips_what_is_committed(tmp_path, calls):
    source, target = upstream(tmp_path / "source", rows=20, parts=4), context(tmp_path / "target")
    marker = pa.Table.from_pylist([{"row_id": "kept", "key": "k", "n": -1}], schema=ROWS)
    target.out.commit("part-00002.parquet", marker, schema=ROWS)
    told = []
    with listening(told.append):
        map_parts(target, doubling(calls), source=source, schema=ROWS, upstream_schema=ROWS)
    assert (told[0].total, told[0].done, told[-1].done) == (4, 1, 4)
    assert seen(calls) == ["r000", "r005", "r015"]
    assert by_part(target.out, ROWS)["part-00002.parquet"] == marker.to_pylist()
    map_parts(target, doubling(calls), source=source, schema=ROWS, upstream_schema=ROWS)
    assert len(seen(calls)) == 3


def test_a_part_that_raises_fails_the_call_and_leaves_the_others(tmp_path, calls):
    source, target = upstream(tmp_path / "source", rows=20, parts=4), context(tmp_path / "target")
    double, place = doubling(calls), Path(target.out.path())

    def fail_last(table):
        """Raises at the second part, once the three others are committed."""
        result = double(table)
        if table.column("n")[0].as_py() == 5:
            end = time.monotonic() + 60
            while len(list(place.glob("part-*"))) < 3 and time.monotonic() < end:
                time.sleep(0.05)
            raise ValueError("row r005 is odd")
        return result

    with pytest.raises(ValueError, match="row r005 is odd"):
        map_parts(target, fail_last, source=source, schema=ROWS, upstream_schema=ROWS)
    assert target.out.parts() == ["part-00000.parquet", "part-00002.parquet", "part-00003.parquet"]
    assert target.out.manifest() is None
    assert seen(calls) == ["r000", "r005", "r010", "r015"]  # an error of the function is not tried again
    map_parts(target, double, source=source, schema=ROWS, upstream_schema=ROWS)
    assert seen(calls) == ["r000", "r005", "r005", "r010", "r015"]
    assert target.out.parts() == source.parts()


def test_map_groups_brings_the_parts_of_a_group_together(tmp_path, calls):
    source, target = upstream(tmp_path / "source", rows=50, parts=4), context(tmp_path / "target")
    first, second, third, _ = source.parts()
    groups = {"part-a.parquet": [first, third], "part-b.parquet": [second], "part-c.parquet": []}

    def run():
        map_groups(target, grouping(calls), groups=groups, source=source, schema=GROUPS, upstream_schema=ROWS)
        return by_part(target.out, GROUPS)

    whole = run()
    expected = {}
    for n in [*range(13), *range(26, 39)]:
        expected.setdefault(f"k{n * n % 10}", []).append(n)
    assert {row["key"]: row["ns"] for row in whole["part-a.parquet"]} == expected
    assert sorted(n for row in whole["part-b.parquet"] for n in row["ns"]) == list(range(13, 26))
    assert whole["part-c.parquet"] == []
    assert len(seen(calls)) == 3
    (tmp_path / "target" / "part-b.parquet").unlink()
    assert run() == whole
    assert len(seen(calls)) == 4


def squared(number):
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number * number


def listed(name, *results):
    return name, list(results)


def test_tasks_are_run_with_each_of_their_arguments():
    assert sorted(run_tasks(squared, [(number,) for number in range(7)])) == [0, 1, 4, 9, 16, 25, 36]
    assert run_tasks(squared, []) == []


def test_results_are_put_together_in_a_task_in_the_order_of_the_arguments():
    many = [(number,) for number in range(20, 0, -1)]
    assert reduce_tasks(squared, many, into=listed, given=("all",)) == ("all", [n * n for (n,) in many])
    assert reduce_tasks(squared, [], into=listed, given=("none",)) == ("none", [])
    with pytest.raises(ValueError, match="negative") as error:
        reduce_tasks(squared, [(1,), (-1,)], into=listed, given=("some",))
    assert user_sentence(error.value) == "-1 is negative"
