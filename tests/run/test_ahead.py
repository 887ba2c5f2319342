"""Rows of a stage that is under way are asked about once each, in a thread that never ends a run."""

import asyncio
import logging
import threading
import time

import pyarrow as pa
import pytest

from mralign.run.ahead import AskingAhead, Flow
from mralign.run.events import MoneySpent, listening
from mralign.run.part_names import part_name
from mralign.run.store import StageDir

SCHEMA = pa.schema({"row_id": pa.string()})


class Asker:
    """Asks nobody: notes the rows, and holds those of `slow` until it is told to let go."""

    def __init__(self, *, at_once=4, slow=(), refuses=()):
        self.at_once, self.slow, self.refuses = at_once, slow, refuses
        self.begun, self.ended, self.busy, self.most = [], [], 0, 0
        self.may_go, self.stopped, self.closed = threading.Event(), False, False

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        self.closed = True

    async def ask(self, row):
        name = row["row_id"]
        if name in self.refuses:
            raise ValueError("the budget is spent")
        self.begun.append(name)
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            while name in self.slow and not self.may_go.is_set():
                await asyncio.sleep(0.005)
            await asyncio.sleep(0)
        finally:
            self.busy -= 1
        self.ended.append(name)

    def stop(self):
        self.stopped = True

    def spent(self):
        return [MoneySpent(spent=float(len(self.ended)), currency="EUR")]

    def took(self):
        return {"first": {"requests": len(self.ended)}}


def whole(part):
    """Of two rows that are in a part one reaches the stage."""
    return [row for row in part.to_pylist() if not row["row_id"].startswith("dropped")]


def commit(source, name, *rows):
    table = pa.table({"row_id": pa.array([*rows, f"dropped-{name}"], pa.string())})
    source.commit(part_name(name), table, schema=SCHEMA)


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture(name="source")
def _source(tmp_path):
    return StageDir(str(tmp_path / "rollouts" / "f"), stage="rollouts", fingerprint="f")


def ahead_of(source, asker, rows=whole):
    ahead = AskingAhead(asker, flow=Flow("rollouts", SCHEMA, rows), source=source, stage="annotation")
    ahead.start()
    return ahead


def test_each_row_is_asked_about_once_whenever_its_part_comes_and_so_many_at_a_time(source):
    asker = Asker(at_once=2)
    commit(source, "a", *map(str, range(5)))
    ahead = ahead_of(source, asker)
    wait_for(lambda: len(asker.ended) == 5)
    commit(source, "b", "x", "y")
    wait_for(lambda: len(asker.ended) == 7)
    told = []
    with listening(told.append):
        took = ahead.finish()
    assert sorted(asker.begun) == ["0", "1", "2", "3", "4", "x", "y"]
    assert took == {"first": {"requests": 7}} and ahead.asked == 7 and asker.most == 2
    assert asker.stopped and asker.closed
    assert told == [MoneySpent(spent=7.0, currency="EUR", ahead=7.0, stage="annotation")]


def test_the_end_waits_for_what_was_sent_and_begins_nothing_more(source):
    asker = Asker(at_once=1, slow=("0",))
    commit(source, "a", "0", "1", "2")
    ahead = ahead_of(source, asker)
    wait_for(lambda: asker.begun == ["0"])
    threading.Timer(0.2, asker.may_go.set).start()
    ahead.finish()
    assert asker.ended == ["0"] == asker.begun


def test_a_run_that_stops_leaves_at_once(source):
    asker = Asker(slow=("0",))
    commit(source, "a", "0")
    ahead = ahead_of(source, asker)
    wait_for(lambda: asker.begun == ["0"])
    ahead.abandon()
    wait_for(lambda: asker.closed)
    assert asker.ended == []
    ahead.abandon()  # it has ended; nothing is left to do
    ahead.finish()


def test_where_nothing_may_be_asked_any_more_the_run_is_told_and_goes_on(source, caplog):
    asker = Asker(at_once=1, refuses=("1",))
    commit(source, "a", "0", "1", "2")
    with caplog.at_level(logging.WARNING, logger="mralign"):
        ahead = ahead_of(source, asker)
        wait_for(lambda: asker.closed)
    assert asker.begun == ["0"] and "the budget is spent" in caplog.text
    assert ahead.finish() == {"first": {"requests": 1}}


def test_a_fault_of_ours_is_told_and_ends_no_run(source, caplog):
    def broken(part):
        raise KeyError("a column is missing")

    commit(source, "a", "0")
    with caplog.at_level(logging.WARNING, logger="mralign"):
        ahead = ahead_of(source, Asker(), rows=broken)
        assert ahead.finish() == {"first": {"requests": 0}}
