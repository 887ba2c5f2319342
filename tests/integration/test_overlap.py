"""Annotators are asked while answers are sampled: the tables of a run without that, through kill -9, nothing twice.

Both sides are endpoints that a loopback server plays: one samples, one is annotators and adjudicator. Their counts say
what was asked. The candidates and the annotation of a run in turn are the oracle.
"""

import json
import time
from functools import partial

import pyarrow.parquet as pq
import pytest
from align_process import finish, kill, start, wait_for
from loopback_server import Fault, LoopbackServer
from scripted_annotators import answer_to, request_of
from slow_endpoints import draw_key, sampler, settings

from mralign.config import load
from mralign.plan import pipeline
from mralign.presets import PRESETS

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CONCURRENCY = 4


def arguments(sampling, asking, *, count, order="needed"):
    at_once = {"sampled_at_once": CONCURRENCY, "asked_at_once": CONCURRENCY}
    return settings(sampling, asking, count=count, order=order, **at_once)


def walk(run, overrides):
    config = load("miniworld", overrides=[f"run.dir={run}", *overrides], presets_dir=PRESETS)
    planned = pipeline.plan(config, until="annotation")
    with pipeline.writing(config, planned) as planned:
        return pipeline.run(config, planned, start_ray=lambda: None)


def tables(run):
    """Rows of candidates and annotation, and their rejects, by row_id."""
    found = {}
    for stage in ("candidates", "annotation"):
        for kind in ("part-*.parquet", "rejects/part-*.parquet"):
            rows = [row for part in run.glob(f"{stage}/*/{kind}") for row in pq.read_table(part).to_pylist()]
            found[stage, kind] = sorted(rows, key=lambda row: row["row_id"])
    assert len(found["annotation", "part-*.parquet"]) > 10
    return found


def figures(run):
    (manifest,) = run.glob("annotation/*/manifest.json")
    return json.loads(manifest.read_text())["figures"]


class Patient:
    """A plan of the server that samples: once it is told to, it answers the last draws when a label was asked for."""

    def __init__(self):
        self.after, self.of = 0, None

    def wait_for(self, draws, *, of):
        self.after, self.of = draws, of

    def __call__(self, prompt, attempt):
        if self.of is not None:
            self.after -= 1
            end = time.monotonic() + 60
            while self.after < 0 and not self.of.log and time.monotonic() < end:
                time.sleep(0.01)
        return Fault.NONE


@pytest.mark.usefixtures("local_ray")
@pytest.mark.long
@pytest.mark.parametrize("order", ["needed", "all"])
def test_the_tables_are_those_of_a_run_in_turn_and_nothing_is_asked_twice(tmp_path, order):
    count, plan = 40, Patient()
    with LoopbackServer(plan, prompt=draw_key, answer=sampler(count)) as sampling:
        with LoopbackServer(prompt=request_of, answer=answer_to) as asking:
            walk(tmp_path / "turn", arguments(sampling, asking, count=count, order=order))
            once, asked = dict(sampling.accepted), dict(asking.accepted)
        assert set(asked.values()) == set(once.values()) == {1}
        with LoopbackServer(prompt=request_of, answer=answer_to) as asking:
            plan.wait_for(len(once) * 3 // 4, of=asking)
            walk(tmp_path / "overlap", [*arguments(sampling, asking, count=count, order=order), "run.overlap=true"])
        assert asking.accepted == asked  # the same requests, each once
        assert sampling.accepted == dict.fromkeys(once, 2)
        last_draw = sampling.log[-1][0]
        beside = sum(when < last_draw for when, _, _ in asking.log)
    assert tables(tmp_path / "overlap") == tables(tmp_path / "turn")
    assert 0 < beside <= figures(tmp_path / "overlap")["asked_ahead"]["replies"] <= len(asked)
    assert "asked_ahead" not in figures(tmp_path / "turn")


def more_than(wanted, server):
    return len(server.accepted) > wanted


@pytest.mark.long
def test_a_run_that_is_killed_twice_on_the_way_ends_with_the_same_tables(tmp_path):
    count = 80
    with (
        LoopbackServer(prompt=draw_key, answer=sampler(count), latency_s=0.2) as sampling,
        LoopbackServer(prompt=request_of, answer=answer_to, latency_s=0.2) as asking,
    ):
        common = [*arguments(sampling, asking, count=count), "--until", "annotation"]
        run, turn, log = tmp_path / "overlap", tmp_path / "turn", tmp_path / "log"
        for wanted in (15, 50):  # in the midst of the rollouts, which are not sealed yet
            process = start(run, *common, "run.overlap=true", log=log)
            wait_for(partial(more_than, wanted, asking), process=process, log=log)
            assert not list(run.glob("rollouts/*/manifest.json"))
            kill(process)
        finish(start(run, *common, "run.overlap=true", log=log), log=log)
        asked, total = len(asking.accepted), sum(asking.accepted.values())
        assert asked <= total <= asked + 2 * 3 * CONCURRENCY  # in flight at three endpoints at each kill
        draws, drawn = len(sampling.accepted), sum(sampling.accepted.values())
        assert draws <= drawn <= draws + 2 * CONCURRENCY
        finish(start(turn, *common, log=log), log=log)
        assert (len(asking.accepted), len(sampling.accepted)) == (asked, draws)  # the same requests, and no others
    assert tables(run) == tables(turn)
    assert "Traceback" not in log.read_text()
