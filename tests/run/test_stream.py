"""Requests through pools of actors, on a real local Ray: what is committed, asked again, stopped, and lost."""

import asyncio
import json
import os
import time
import uuid
from collections import Counter
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from mralign.run import stream as executor
from mralign.run.events import MoneySpent, WorkBegan, listening
from mralign.run.finished import Ids, add_tallies, read_tallies, settle
from mralign.run.part_names import part_name
from mralign.run.rejects import Reject, to_table
from mralign.run.store import StageDir
from mralign.run.stream import Answer, Pool, answers_of, batch_key, pack, stream, unpack

SOURCE = pa.schema({"row_id": pa.string(), "n": pa.int64()})
ROWS = pa.schema({"row_id": pa.string(), "text": pa.string()})


def table(rows):
    return pa.table({"n": list(range(rows)), "words": [["a"] * (n % 3) for n in range(rows)]})


def test_packed_batches_hold_the_rows_in_order_and_the_last_the_rest():
    batches = list(pack(table(10), rows=4))
    assert [batch.num_rows for batch in batches] == [1, 1, 1]
    assert [unpack(batch).num_rows for batch in batches] == [4, 4, 2]
    assert pa.concat_tables(map(unpack, batches)) == table(10)
    assert not list(pack(table(0), rows=4))
    assert len({batch.schema for batch in batches}) == 1


def test_the_name_of_a_batch_is_that_of_its_rows_in_any_order():
    assert batch_key(["a", "b"]) == batch_key(["b", "a"]) != batch_key(["ab"])
    assert len(batch_key([])) == 16


def test_tallies_add_up_by_name_and_by_name_within_a_name():
    one, other = {"rows": 1, "judge": {"tokens": 5}}, {"rows": 2, "judge": {"tokens": 7, "cached": 1}, "money": 0.5}
    assert add_tallies([one, {}, other]) == {"rows": 3, "judge": {"tokens": 12, "cached": 1}, "money": 0.5}
    assert one == {"rows": 1, "judge": {"tokens": 5}}
    assert add_tallies([]) == {}


def test_clocks_that_are_set_back_make_no_time_negative(monkeypatch):
    """An actor of another machine is ready an hour before it was asked for; then this machine's clock is set back."""
    days, told = iter([1e9, 1e9 - 7200, 1e9 - 7200]), []
    monkeypatch.setattr(time, "time", lambda: next(days, 1e9 - 7200))
    one = {"rows": 2, "rejects": 0, "took": {}, "stopped": "", "actor": "a", "number": 1, "figures": {}}
    for ready in (1e9 - 3600, 1e9 + 3600):
        with listening(told.append):
            done = executor._follow(iter([executor._Report(ready=ready, **one)]), total=2, kept=0, money=None)
        assert 0 <= done.engine_start_s < 5 and 0 <= done.working_s < 5
    assert all(0 <= event.worked_s < 5 for event in told) and len(told) == 2


def first(row_id):
    return row_id.partition("/")[0]


IDS = Ids(ROWS, request_of=first)


def test_rows_and_rejects_in_any_order_become_the_answers_of_their_requests():
    requests = [{"row_id": "a"}, {"row_id": "b"}]
    rows = [{"row_id": "b", "text": "1"}, {"row_id": "a", "text": "2"}, {"row_id": "b/more", "text": "3"}]
    a, b = answers_of(requests, rows=rows, rejects=[Reject("a/more", "odd")], request_of=first)
    assert a == Answer([rows[1]], [Reject("a/more", "odd")])
    assert b == Answer([rows[0], rows[2]], [])


def place(path):
    return StageDir(str(path), stage="answers", fingerprint="f")


def commit(out, name, rows, rejects=()):
    found = pa.Table.from_pylist([{"row_id": row_id, "text": name} for row_id in rows], schema=ROWS)
    out.commit(part_name(name), found, schema=ROWS, rejects=to_table([Reject(*reject) for reject in rejects]))


def stored(out):
    rows = [(row["row_id"], row["text"]) for row in out.read(schema=ROWS).to_pylist()]
    rejects = [(row["row_id"], row["reason"]) for row in out.read_rejects().to_pylist()]
    return sorted(rows), sorted(rejects)


def test_what_is_committed_is_known_by_upstream_part_and_what_may_be_mended_is_forgotten(tmp_path):
    out = place(tmp_path / "out")
    commit(out, "train-00-a1", ["a", "b", "b/more"], [("c", "truncated"), ("d", "timeout")])
    commit(out, "train-00-a2", ["e", "f"], [("f/more", "http_400")])  # f is asked again with all that it has
    commit(out, "train-01-b1", ["g"])
    commit(out, "other-b1", ["h"])
    names = [part_name(name) for name in ("train-00", "train-01", "train-02")]
    settle(out, names, ids=IDS)
    assert len(stored(out)[0]) == 7

    known = settle(out, names, ids=IDS, forget=True)
    assert [known.of[name].to_pylist() for name in names] == [["a", "b", "c", "e"], ["g"], []]
    assert len(known) == 5
    assert known.repeated == 0
    rows, rejects = stored(out)
    assert [row_id for row_id, _ in rows] == ["a", "b", "b/more", "e", "g", "h"]
    assert rejects == [("c", "truncated")]


def test_a_request_that_two_parts_answer_stays_in_the_first_and_an_answer_outlasts_a_failure(tmp_path):
    out = place(tmp_path / "out")
    commit(out, "p-1", ["a", "a/more"], [("d", "timeout")])
    commit(out, "p-2", ["a", "a/more", "b", "d"])
    commit(out, "p-3", ["c"], [("b", "odd")])
    known = settle(out, [part_name("p")], ids=IDS, forget=True)
    assert known.repeated == 2  # a of p-2 and b of p-3
    assert stored(out) == ([("a", "p-1"), ("a/more", "p-1"), ("b", "p-2"), ("c", "p-3"), ("d", "p-2")], [])
    again = settle(out, [part_name("p")], ids=IDS)
    assert (again.repeated, len(again)) == (0, 4)


@pytest.mark.parametrize("dies_at", [1, 2])
def test_a_request_that_is_forgotten_never_passes_for_answered_though_the_process_dies_meanwhile(
    tmp_path, monkeypatch, dies_at
):
    out = place(tmp_path / "out")
    commit(out, "p-1", ["a/0", "a/1", "b"], [("a/2", "timeout")])  # a is answered in part
    changes = []

    def dying(name):
        does = getattr(StageDir, name)

        def change(self, *given, **named):
            changes.append(name)
            if len(changes) == dies_at:
                raise KeyboardInterrupt
            return does(self, *given, **named)

        return change

    with monkeypatch.context() as patched:
        patched.setattr(StageDir, "write_bytes", dying("write_bytes"))
        patched.setattr(StageDir, "commit_rejects", dying("commit_rejects"))
        with pytest.raises(KeyboardInterrupt):
            settle(out, [part_name("p")], ids=IDS, forget=True)
    known = settle(out, [part_name("p")], ids=IDS, forget=True)
    assert known.of[part_name("p")].to_pylist() == ["b"]
    assert stored(out) == ([("b", "p-1")], [])


class Counted(StageDir):
    listed = 0

    def parts(self, group=""):
        Counted.listed += 1
        return super().parts(group)


def test_the_directory_is_listed_once_however_many_parts_there_are(tmp_path):
    out = Counted(str(tmp_path / "out"), stage="answers", fingerprint="f")
    for number in range(20):
        commit(out, f"{number:03d}-x", [f"r{number}"])
    Counted.listed = 0
    known = settle(out, [part_name(f"{number:03d}") for number in range(30)], ids=Ids(ROWS))
    assert Counted.listed == 1
    assert len(known) == 20


# Through Ray.


def upstream(path, *, rows=20, parts=3):
    """`rows` rows r00, r01, ... dealt in order to the parts, so that the last part is shorter."""
    source = StageDir(str(path), stage="source", fingerprint="s")
    numbers, size = list(range(rows)), -(-rows // parts)
    for number in range(parts):
        some = numbers[number * size : (number + 1) * size]
        made = pa.table({"row_id": [f"r{n:02d}" for n in some], "n": some}, schema=SOURCE)
        source.commit(part_name(f"{number:05d}"), made, schema=SOURCE)
    return source


def read(part, *, source):
    return source.read_parts([part], schema=SOURCE)


def note(folder, name):
    """A sign that outlives the process of an actor."""
    (Path(folder) / f"{name}~{uuid.uuid4().hex}").touch()


def noted(folder):
    return Counter(path.name.split("~")[0] for path in folder.iterdir())


class Squaring:
    """The first pool: it carries the square of each number."""

    def __init__(self, *, folder):
        self.folder = folder

    async def answer(self, rows):
        assert all(set(row) == {"row_id", "n"} for row in rows)
        for row in rows:
            note(self.folder, f"squared-{row['row_id']}")
        return [Answer(state={"square": row["n"] ** 2}) for row in rows]


class Writing:
    """The last pool: two rows a request, multiples of 5 are rejects; what goes wrong is told by `faults`."""

    def __init__(self, *, folder, faults=None):
        self.folder, self.faults, self.asked = Path(folder), faults or {}, 0

    async def answer(self, rows):
        self.asked += len(rows)
        return await asyncio.gather(*map(self._one, rows))

    async def _one(self, row):
        row_id, fault = row["row_id"], self.faults.get(row["row_id"])
        if fault == "dies once" and not noted(self.folder)[f"written-{row_id}"]:
            note(self.folder, f"written-{row_id}")
            os._exit(1)
        if fault == "stops":
            return Answer(stopped="the money is spent")
        note(self.folder, f"written-{row_id}")
        if fault:
            return Answer(rejects=[Reject(row_id, fault)], took={"requests": 1})
        if row["n"] % 5 == 0:
            return Answer(rejects=[Reject(row_id, "five")], took={"requests": 1})
        number = row.get("state", {}).get("square", row["n"])
        made = [{"row_id": row_id, "text": str(number)}, {"row_id": f"{row_id}/more", "text": "more"}]
        return Answer(rows=made, took={"requests": 1, "writer": {"words": 2}})

    def figures(self):
        return {"asked": self.asked}


def pools(folder, *, faults=None, both=True, actors=1):
    import ray

    arguments = {"compute": ray.data.ActorPoolStrategy(size=actors), "num_cpus": 0}
    last = Pool(Writing, given={"folder": str(folder), "faults": faults}, arguments=arguments)
    return [Pool(Squaring, given={"folder": str(folder)}, arguments=arguments), last] if both else [last]


def run(source, out, steps, **more):
    parts = {part: source.rows(part) for part in source.parts()}
    requests = partial(read, source=source)
    return stream(parts, requests=requests, pools=steps, out=out, schema=ROWS, batch=3, request_of=first, **more)


class Waiting:
    """Answers once its requests are no longer read ahead: how many parts of them had been read by then."""

    def __init__(self, *, folder):
        self.folder, self.seen = Path(folder), 0

    async def answer(self, rows):
        while self.seen < (seen := len(noted(self.folder))):
            self.seen = seen
            await asyncio.sleep(5)
        return [Answer(rows=[{"row_id": row["row_id"], "text": str(self.seen)}]) for row in rows]


def read_much(part, *, folder):
    note(folder, part)
    return pa.table({"row_id": [f"{part}-{n}" for n in range(20)], "text": ["x" * 60_000] * 20})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "calls").mkdir()
    return tmp_path / "calls"


def a_cent_each(done):
    """What the requests so far have cost."""
    return [MoneySpent(spent=done.took["requests"] / 100, currency="EUR")]


def squares(numbers):
    rows = [(f"r{n:02d}", str(n**2)) for n in numbers if n % 5]
    more = [(f"r{n:02d}/more", "more") for n in numbers if n % 5]
    return sorted(rows + more), sorted((f"r{n:02d}", "five") for n in numbers if n % 5 == 0)


ray_test = [pytest.mark.integration, pytest.mark.usefixtures("local_ray")]


class TestStream:
    pytestmark = ray_test

    def test_requests_pass_through_the_pools_and_a_second_run_asks_nothing(self, tmp_path, folder):
        source, out, left = upstream(tmp_path / "source"), place(tmp_path / "out"), []
        told = []
        with listening(told.append):
            done = run(source, out, pools(folder), announce=left.append, money=a_cent_each)
        assert left == [20]
        first_told, *others = told
        assert first_told == WorkBegan(unit="rows", total=20, done=0)
        assert (others[-2].done, others[-2].rejects) == (20, 4)
        assert others[-1] == MoneySpent(spent=0.2, currency="EUR")
        assert [one.done for one in others[::2]] == sorted({one.done for one in others[::2]})
        assert all(one.worked_s >= 0 for one in others[::2])
        assert stored(out) == squares(range(20))
        # 7, 7 and 6 requests in batches of 3, merged
        assert Counter(name.split("-")[1] for name in out.parts()) == {"00000": 1, "00001": 1, "00002": 1}
        assert done.took == {"requests": 20, "writer": {"words": 32}}
        assert list(done.figures) == [{"asked": 20}]
        assert done.repeated == 0
        taken = [tally for part in out.parts() for tally in read_tallies(out, part, schema=ROWS, request_of=first)]
        assert add_tallies(taken) == done.took
        assert set(noted(folder).values()) == {1}

        again = run(source, out, pools(folder), announce=left.append)
        assert left == [20]
        assert (again.took, again.figures, again.engine_start_s) == ({}, (), 0.0)
        assert set(noted(folder).values()) == {1}

    def test_only_what_is_missing_or_may_be_mended_is_asked_again(self, tmp_path, folder):
        source, out = upstream(tmp_path / "source"), place(tmp_path / "out")
        faults = {"r01": "timeout", "r09": "http_400", "r12": "truncated"}
        run(source, out, pools(folder, faults=faults))
        lost = next(name for name in out.parts() if name.startswith("part-00002-"))
        ids = {row_id.partition("/")[0] for row_id in out.read_parts([lost], schema=ROWS).column("row_id").to_pylist()}
        ids |= set(out.read_rejects([lost]).column("row_id").to_pylist())
        out.filesystem.delete_file(out.path(lost))  # as if the run had been killed before it came

        run(source, out, pools(folder))
        rows, rejects = squares([n for n in range(20) if n != 12])
        assert stored(out) == (rows, sorted([*rejects, ("r12", "truncated")]))
        twice = {name.split("-")[1] for name, times in noted(folder).items() if times == 2}
        assert twice == ids | {"r01", "r09"}
        assert max(noted(folder).values()) == 2

    def test_an_actor_that_is_told_to_stop_stops_all_and_what_came_is_kept(self, tmp_path, folder):
        source, out = upstream(tmp_path / "source", rows=60, parts=4), place(tmp_path / "out")
        with pytest.raises(ValueError, match=r"^the money is spent$"):
            run(source, out, pools(folder, faults={"r01": "stops"}, actors=2))
        rows, rejects = stored(out)
        kept = {row_id.partition("/")[0] for row_id, _ in rows} | {row_id for row_id, _ in rejects}
        asked = {name.split("-")[1] for name in noted(folder) if name.startswith("written-")}
        assert kept == asked  # what was asked is not lost
        assert {"r00", "r02"} <= kept  # of the same batch as the one that was stopped
        assert "r01" not in kept
        assert len(kept) < 59  # not all of the others were still asked

        done = run(source, out, pools(folder))
        assert stored(out) == squares(range(60))
        assert done.repeated == 0
        written = {name: times for name, times in noted(folder).items() if name.startswith("written-")}
        assert set(written.values()) == {1}

    def test_a_batch_whose_actor_dies_is_asked_again_and_nothing_is_twice(self, tmp_path, folder):
        source, out = upstream(tmp_path / "source"), place(tmp_path / "out")
        done = run(source, out, pools(folder, faults={"r08": "dies once"}, both=False))
        rows = [(f"r{n:02d}", str(n)) for n in range(20) if n % 5 and n != 8]
        found, rejects = stored(out)
        assert [row for row in found if row[1] != "more" and row[0] != "r08"] == rows
        assert ("r08", "dies once") in rejects
        assert done.repeated == 0

    def test_what_stands_beside_a_part_is_what_each_request_took(self, tmp_path, folder):
        source, out = upstream(tmp_path / "source", rows=2, parts=1), place(tmp_path / "out")
        run(source, out, pools(folder, both=False))
        (part,) = out.parts()
        name = f"tallies/{part.removeprefix('part-').removesuffix('.parquet')}.json"
        assert json.loads(out.read_text(name)) == {
            "r00": {"requests": 1},
            "r01": {"requests": 1, "writer": {"words": 2}},
        }


@pytest.fixture
def far(monkeypatch):
    """A store behind a URI that says all: the processes of this Ray have another environment."""
    import loopback_s3  # here, for a worker of Ray that imports this file does not find it

    with loopback_s3.serve() as (store, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        address = environment["AWS_ENDPOINT_URL"].removeprefix("http://")
        yield store, f"s3://key:secret@bucket/run?region=us-east-1&scheme=http&endpoint_override={address}"


@pytest.mark.integration
@pytest.mark.usefixtures("local_ray")
def test_a_store_that_refuses_and_drops_requests_and_an_actor_that_dies_cost_no_row(far, tmp_path, folder):
    store, uri = far
    source, out = upstream(tmp_path / "source", rows=40), StageDir(uri, stage="answers", fingerprint="f")
    store.refused_share = store.dropped_share = 0.05
    run(source, out, pools(folder, faults={"r07": "dies once"}))
    store.refused_share = store.dropped_share = 0.0
    rows, rejects = squares([n for n in range(40) if n != 7])
    assert stored(out) == (rows, sorted([*rejects, ("r07", "dies once")]))
    kept = [key for key in store.objects if key.startswith("run/part-")]
    assert sorted(key.split("-")[1] for key in kept) == ["00000", "00001", "00002"]  # one part of many batches each
    assert len(store.calls) > 60


@pytest.mark.integration
@pytest.mark.long
@pytest.mark.usefixtures("local_ray")
def test_requests_are_read_ahead_of_the_actors_only_so_far(tmp_path, folder, monkeypatch):
    """Small batches that wait lie in the driver's memory: 12 parts of 1.2 MB, of which 4 MB may wait."""
    monkeypatch.setattr(executor, "WAITING_BYTES", 4 * 2**20)
    import ray

    parts = {part_name(f"{number:05d}"): 20 for number in range(12)}
    pool = Pool(Waiting, given={"folder": str(folder)}, arguments={"compute": ray.data.ActorPoolStrategy(size=1)})
    out = place(tmp_path / "out")
    requests = partial(read_much, folder=str(folder))
    stream(parts, requests=requests, pools=[pool], out=out, schema=ROWS, batch=1)
    found = out.read_parts(out.parts(), schema=ROWS).column("text").to_pylist()
    assert len(found) == 240
    assert min(map(int, found)) < 9
