"""Annotators are asked while answers are sampled: the tables of a run without that, through kill -9, nothing twice.

Both sides are endpoints that a loopback server plays: one samples, one is annotators and adjudicator. Their counts say
what was asked. The candidates and the annotation of a run in turn are the oracle.
"""

import json
import re
from functools import partial

import pyarrow.parquet as pq
import pytest
from align_process import finish, kill, start, wait_for
from loopback_server import LoopbackServer
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
    """Rows and rejects of candidates and annotation by their directory, which their fingerprint names."""
    found = {}
    for stage in ("candidates", "annotation"):
        for kind in ("part-*.parquet", "rejects/part-*.parquet"):
            for part in sorted(run.glob(f"{stage}/*/{kind}")):
                key = str(part.parent.relative_to(run))
                found.setdefault(key, []).extend(pq.read_table(part).to_pylist())
    return {key: sorted(rows, key=lambda row: row["row_id"]) for key, rows in found.items()}


def figures(run):
    (manifest,) = run.glob("annotation/*/manifest.json")
    return json.loads(manifest.read_text())["figures"]


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("order", ["needed", "all"])
def test_the_tables_are_those_of_a_run_in_turn_and_nothing_is_asked_twice(tmp_path, order):
    count = 40
    with (
        LoopbackServer(prompt=draw_key, answer=sampler(count), latency_s=0.1) as sampling,
        LoopbackServer(prompt=request_of, answer=answer_to, latency_s=0.1) as asking,
    ):
        common = arguments(sampling, asking, count=count, order=order)
        walk(tmp_path / "turn", common)
        once, asked = dict(sampling.accepted), dict(asking.accepted)
        last = len(sampling.log)
        walk(tmp_path / "overlap", [*common, "run.overlap=true"])
        assert set(asked.values()) == set(once.values()) == {1}
        assert asking.accepted == dict.fromkeys(asked, 2)
        assert sampling.accepted == dict.fromkeys(once, 2)
        drawn_last = sampling.log[-1][0]
        second = [when for when, _, _ in asking.log[len(asked) :]]
        beside = sum(when < drawn_last for when in second)
        assert len(sampling.log) == 2 * last and beside > len(asked) / 4
    found = tables(tmp_path / "overlap")
    assert found == tables(tmp_path / "turn")
    assert sum(len(rows) for key, rows in found.items() if re.fullmatch("annotation/[0-9a-f]+", key)) > 10
    told = figures(tmp_path / "overlap")
    assert beside <= told["asked_ahead"]["replies"] <= len(asked)
    assert "asked_ahead" not in figures(tmp_path / "turn")


def more_than(wanted, server):
    return len(server.accepted) > wanted


@pytest.mark.long
def test_a_run_that_is_killed_twice_on_the_way_ends_with_the_same_tables(tmp_path):
    count = 150
    with (
        LoopbackServer(prompt=draw_key, answer=sampler(count), latency_s=0.2) as sampling,
        LoopbackServer(prompt=request_of, answer=answer_to, latency_s=0.2) as asking,
    ):
        common = [*arguments(sampling, asking, count=count), "--until", "annotation"]
        run, turn, log = tmp_path / "overlap", tmp_path / "turn", tmp_path / "log"
        for wanted in (20, 80):  # in the midst of the rollouts, which are not sealed yet
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
