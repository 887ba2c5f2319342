"""Metrics of a run: what events and batches become, and what a real Ray hands to Prometheus of it."""

import asyncio
import re
import socket
import sys
import time
import urllib.request

import pyarrow as pa
import pytest

from mralign.config import load
from mralign.plan import pipeline
from mralign.presets import PRESETS
from mralign.run import metrics, stream
from mralign.run.events import (
    MoneySpent,
    Noted,
    StageBegan,
    StageEnded,
    TrainingStepped,
    WorkAdvanced,
    WorkBegan,
    listening,
    tell,
)
from mralign.run.rejects import Reject
from mralign.run.store import StageDir
from mralign.run.stream import Answer


@pytest.fixture
def shown(monkeypatch):
    """What would be shown: (name, value, tags)."""
    found = []

    def note(metric, value, **tags):
        assert set(tags) == set(metric.tags)
        found.append((metric.name.removeprefix("mralign_"), value, tags))

    monkeypatch.setattr(metrics, "show", note)
    return found


def test_a_batch_is_counted_with_its_reasons_and_tokens(shown):
    metrics.committed("rollouts", rows=3, reasons=["truncated", "empty", "truncated"], tokens={"completion": 70})
    assert shown == [
        ("rows_total", 3, {"stage": "rollouts"}),
        ("rejects_total", 2, {"stage": "rollouts", "reason": "truncated"}),
        ("rejects_total", 1, {"stage": "rollouts", "reason": "empty"}),
        ("tokens_total", 70, {"stage": "rollouts", "kind": "completion"}),
    ]


def test_tokens_are_summed_over_rows_and_over_tallies_by_name():
    rows = [{"row_id": "a", "completion_tokens": 5}, {"row_id": "b", "completion_tokens": None, "prompt_tokens": 2}]
    tally = {"annotator_a": {"requests": 1, "prompt_tokens": 10, "completion_tokens": 20}, "seconds": 3}
    assert metrics.tokens_of([*rows, tally]) == {"completion": 25, "prompt": 12}
    assert metrics.tokens_of([]) == {}


def test_what_waits_is_what_is_planned_less_what_is_done(shown):
    for event in (
        StageBegan(stage="rollouts"),
        WorkBegan(unit="rows", total=10, done=4, stage="rollouts"),
        WorkAdvanced(done=7, worked_s=1.0, stage="rollouts"),
        StageEnded(stage="rollouts", rows_in=10, rows_out=10),
        WorkBegan(total=None, stage="matrices"),
        WorkAdvanced(done=1, worked_s=1.0, stage="matrices"),
    ):
        metrics.hear(event)
    stage = {"stage": "rollouts"}
    assert shown == [
        ("stage_running", 1, stage),
        ("rows_waiting", 6, stage),
        ("rows_waiting", 3, stage),
        ("stage_running", 0, stage),
        ("rows_waiting", 0, stage),
    ]


def test_money_and_training_are_shown_as_they_are_told(shown):
    metrics.hear(MoneySpent(spent=1.5, before=3.0, currency="EUR", stage="annotation"))
    metrics.hear(TrainingStepped(step=2, of=40, figures={"loss": 0.5, "tokens_per_s": 900.0, "z0": 1.0}))
    metrics.hear(TrainingStepped(step=3))
    metrics.hear(Noted(level="INFO", text="nothing to show"))
    assert shown == [
        ("spent_money", 1.5, {"stage": "annotation", "currency": "EUR"}),
        ("training_step", 2, {}),
        ("training_steps_planned", 40, {}),
        ("training_loss", 0.5, {}),
        ("training_tokens_per_second", 900.0, {}),
        ("training_step", 3, {}),
    ]


def test_a_run_is_heard_while_it_goes_on(shown, monkeypatch, tmp_path):
    def stages(*_, **__):
        tell(TrainingStepped(step=9))
        return []

    monkeypatch.setattr(pipeline, "_run_stages", stages)
    config = load("miniworld", overrides=[f"run.dir={tmp_path}"], presets_dir=PRESETS)
    pipeline.run(config, [], start_ray=lambda: None)
    tell(TrainingStepped(step=10))
    assert shown == [("training_step", 9, {})]


class Answering:
    """An actor that puts the first row aside and answers the others."""

    async def answer(self, rows):
        first, *others = [row["row_id"] for row in rows]
        took = {"annotator_a": {"completion_tokens": 4}}
        return [Answer(rejects=[Reject(first, "empty")])] + [Answer([{"row_id": name}], took=took) for name in others]


def test_what_an_actor_commits_is_counted(shown, tmp_path):
    schema = pa.schema([("row_id", pa.string())])
    out = StageDir(str(tmp_path), stage="annotation", fingerprint="0")
    worker = stream._Worker(actor=Answering, given={}, out=out, schema=schema)
    columns = {"row_id": ["a", "b", "c"], "_part": ["0"] * 3, "_state": ["null"] * 3, "_stopped": [""] * 3}
    (block,) = stream.pack(pa.table(columns), rows=3)
    asyncio.run(worker(block))
    assert shown == [
        ("rows_total", 3, {"stage": "annotation"}),
        ("rejects_total", 1, {"stage": "annotation", "reason": "empty"}),
        ("tokens_total", 8, {"stage": "annotation", "kind": "completion"}),
    ]


def test_without_ray_nothing_is_shown_and_nothing_is_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    metrics.committed("rollouts", rows=1, reasons=["x"], tokens={"prompt": 1})
    metrics.hear(StageBegan(stage="rollouts"))
    assert "ray" not in sys.modules


@pytest.mark.long
@pytest.mark.integration
def test_a_real_ray_hands_them_to_prometheus():
    """From the driver and from a worker, under Ray's prefix; a second Ray in the same process shows them as well."""
    import ray

    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, _metrics_export_port=port)
        try:
            told = ray.remote(metrics.committed).remote(
                "rollouts", rows=3, reasons=["empty"], tokens={"completion": 70}
            )
            ray.get(told)
            with listening(metrics.hear):
                tell(WorkBegan(unit="rows", total=10, done=4, stage="rollouts"))
                tell(TrainingStepped(step=2, of=40, figures={"loss": 0.5}))
            found = wait_for_metrics(port, wanted={"ray_mralign_rows_total", "ray_mralign_training_loss"})
        finally:
            ray.shutdown()
        assert found["ray_mralign_rows_total", "rollouts", ""] == 3
        assert found["ray_mralign_rejects_total", "rollouts", "empty"] == 1
        assert found["ray_mralign_tokens_total", "rollouts", "completion"] == 70
        assert found["ray_mralign_rows_waiting", "rollouts", ""] == 6
        assert found["ray_mralign_training_step", "", ""] == 2
        assert found["ray_mralign_training_steps_planned", "", ""] == 40
        assert found["ray_mralign_training_loss", "", ""] == 0.5


def wait_for_metrics(port, *, wanted):
    """Our metrics by name, stage, and reason or kind, once those that are `wanted` are there."""
    found = {}
    for _ in range(120):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
                text = response.read().decode()
        except OSError:
            text = ""
        for name, tags, value in re.findall(r"^(ray_mralign_\w+)\{([^}]*)\} (\S+)$", text, re.MULTILINE):
            given = dict(re.findall(r'(\w+)="([^"]*)"', tags))
            found[name, given.get("stage", ""), given.get("reason", given.get("kind", ""))] = float(value)
        if wanted <= {name for name, _, _ in found}:
            return found
        time.sleep(0.5)
    raise AssertionError(f"after a minute only {sorted(found)}; {text[-500:]}")
