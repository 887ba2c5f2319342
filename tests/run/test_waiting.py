"""How long a stage on a cluster waits for nodes while it runs: by a clock of the test's own, without a cluster."""

import logging

import pytest

from mralign.run import events, waiting
from mralign.run.placement import Workers

ENGINES = [Workers("engines", "engine", cpus=2)]


@pytest.fixture
def run(monkeypatch, caplog):
    """Watch a stage for some seconds: `nodes(now)` are those of the cluster, `act(now)` is done at every look. What was
    said, and whether the run was ended."""
    monkeypatch.setattr(logging.getLogger("mralign"), "propagate", True)
    monkeypatch.setattr(waiting, "_launches", lambda: "1 node is being started")

    def watch(nodes, *, patience_s, seconds, act=lambda now, patience: None):
        ended = []
        clock = Clock(until=seconds)
        monkeypatch.setattr(waiting.time, "monotonic", lambda: clock.now)
        monkeypatch.setattr(waiting, "alive_nodes", lambda: nodes(clock.now))
        monkeypatch.setattr(waiting.interruption, "end_run", lambda: ended.append(clock.now))
        patience = waiting._Patience(patience_s)
        clock.act = lambda: act(clock.now, patience)
        waiting._watch("rollouts", ENGINES, patience, clock)
        return [record.message for record in caplog.records], ended

    return watch


class Clock:
    """Stands in for the event that ends the watching: every wait takes as long as it says."""

    def __init__(self, *, until):
        self.now, self.until = 0.0, until

    def wait(self, seconds):
        self.now += seconds
        self.act()
        return self.now > self.until


GONE = [{"CPU": 0}]
THERE = [{"CPU": 0}, {"CPU": 2}]


def test_a_stage_whose_nodes_are_gone_says_so_every_minute_and_ends_the_run(run):
    said, ended = run(lambda now: GONE, patience_s=150, seconds=1000)
    assert ended == [150]
    whole = "engines take 2 CPU each (engine), and the cluster has none; 1 node is being started"
    assert said[:3] == [
        f"stage rollouts waits for nodes ({seconds} of run.patience_s=150 s): {whole}" for seconds in (10, 70, 130)
    ]
    assert said[3].startswith(f"stage rollouts waits for nodes (150 of run.patience_s=150 s): {whole}; let the cluster")
    assert len(said) == 4


def test_nodes_that_come_back_begin_the_patience_anew(run):
    _, ended = run(lambda now: THERE if 60 <= now <= 65 else GONE, patience_s=80, seconds=500)
    assert ended == [65 + 80]


def test_where_the_nodes_stay_nothing_is_said(run):
    assert run(lambda now: THERE, patience_s=10, seconds=500) == ([], [])


def test_what_still_gets_done_begins_the_patience_anew(run):
    """With one node of two left a stage goes on, if slowly."""

    def advance(now, patience):
        if now <= 200:
            patience.begin()

    _, ended = run(lambda now: GONE, patience_s=50, seconds=1000, act=advance)
    assert ended == [250]


def test_progress_is_heard(monkeypatch):
    begun = []
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(waiting, "_watch", lambda *given: None)
    monkeypatch.setattr(waiting._Patience, "begin", lambda self: begun.append(self))
    with waiting.watching("rollouts", ENGINES, patience_s=10):
        events.tell(events.StageBegan(stage="rollouts"))
        assert len(begun) == 1  # when it was made
        events.tell(events.WorkAdvanced(done=3, worked_s=1.0))
        events.tell(events.TrainingStepped(step=1))
    assert len(begun) == 3


def test_on_a_ray_of_this_machine_nothing_is_waited_for(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    waiting.await_room("rollouts", ENGINES, patience_s=1)
    with waiting.watching("rollouts", ENGINES, patience_s=1):
        pass
