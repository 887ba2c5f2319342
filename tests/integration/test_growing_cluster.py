"""A cluster whose autoscaler starts and ends nodes as the work asks: up from none, back to none, through lost nodes.

The autoscaler is Ray's own, with its provider of nodes on one machine. An engine that sleeps stands for vLLM
(fake_engine.py), but for the last test.
"""

import logging
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from align_process import SMALL, finish, rows, stage_dir, start, wait_for
from fake_engine import SCHEMA, FakeEngine, requests_of
from ray_head import head, raylet_of, scaling_of

from mralign.config import Engine
from mralign.run import capacity, waiting
from mralign.run.placement import DEALING, Workers
from mralign.run.store import StageDir
from mralign.run.stream import Pool, stream
from mralign.serving.streaming import engine_pool, engine_workers

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.long]

ENGINE = Engine(min_replicas=2, max_replicas=2, cpus_per_replica=2, batch_size=2, max_num_seqs=2)
WORKERS = [engine_workers(ENGINE), DEALING]


@pytest.fixture(scope="module")
def cluster():
    """A head without CPUs, and up to two workers of three CPUs and a GPU in Ray's sense. This process has joined it."""
    import ray

    with pytest.MonkeyPatch.context() as patch, head(cpus=0, scaling=scaling_of({"CPU": 3, "GPU": 1}, most=2)) as found:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_ADDRESS", found.address)
        environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}
        ray.init(logging_level=logging.ERROR, log_to_driver=False, runtime_env=environment)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield found
        ray.shutdown()


def workers_alive():
    """Ids of the nodes that are alive, without the head."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    return {node["NodeID"] for node in alive if "node:__internal_head__" not in node["Resources"]}


def wait_until(condition, *, within_s=120):
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.fixture(autouse=True)
def none_at_first(cluster):
    """Every test begins and ends without workers."""
    wait_until(lambda: not workers_alive())
    yield
    wait_until(lambda: not workers_alive())


def answered(tmp_path, *, start_s=0.5, batch_s=0.5):
    """The nodes that have answered, by row; as a stage: its room is waited for, and its workers are watched."""
    out = StageDir(str(tmp_path / "out"), stage="rollouts")
    pool = Pool(FakeEngine, given={"start_s": start_s, "batch_s": batch_s}, arguments=engine_pool(ENGINE))
    waiting.await_room("rollouts", WORKERS, patience_s=120)
    with waiting.watching("rollouts", WORKERS, patience_s=120):
        stream({"a": 40, "b": 40}, requests=requests_of, pools=[pool], out=out, schema=SCHEMA, batch=ENGINE.batch_size)
    rows = [row for part in out.parts() for row in out.read_parts([part], schema=SCHEMA).to_pylist()]
    assert len(rows) == 80
    assert {row["row_id"] for row in rows} == {f"{part}/{number}" for part in "ab" for number in range(40)}
    return {row["row_id"]: row["node"] for row in rows}


def test_up_from_none_to_two_while_they_are_needed_and_back(cluster, tmp_path):
    found = capacity.joined()
    assert str(found) == "1 node with 0 CPU in all; up to 2 nodes may be added: 2 of worker (3 CPU, 1 GPU each)"
    assert capacity.lacks_by_stage({"rollouts": WORKERS}, found) == []
    nodes = answered(tmp_path)
    assert len(set(nodes.values())) == 2
    assert set(nodes.values()) == workers_alive()
    assert capacity.joined().growth.most == 0


def killing(after, *, name, cluster):
    """Kill -9 the raylet of a node on which a worker of that name lives, once `after()` holds: the node is lost, and
    all that runs there."""
    lost = {}

    def kill():
        wait_until(after)
        wait_until(lambda: raylet_of(name, directory=cluster.directory))
        lost["alive"] = workers_alive()
        raylet_of(name, directory=cluster.directory).kill()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread, lost


def test_a_killed_worker_is_replaced(cluster, tmp_path):
    parts = Path(tmp_path, "out")
    thread, lost = killing(lambda: len(list(parts.glob("part-*"))) >= 4, name="MapBatches(FakeEngine)", cluster=cluster)
    nodes = answered(tmp_path, batch_s=3)
    thread.join()
    assert len(lost["alive"]) == 2
    assert set(nodes.values()) - lost["alive"]  # a node that was not there before has answered


def test_a_node_that_is_lost_while_its_engine_starts_costs_no_row(cluster, tmp_path):
    thread, lost = killing(lambda: len(workers_alive()) == 2, name="MapBatches(FakeEngine)", cluster=cluster)
    nodes = answered(tmp_path, start_s=8, batch_s=3)
    thread.join()
    assert len(lost["alive"]) == 2
    assert set(nodes.values()) - lost["alive"]


TOO_MANY = [Workers("training workers", "training.workers, training.gpu", gpus=1, least=3, most=3)]


def test_what_the_autoscaler_may_not_start_is_refused_before_anything_runs(cluster):
    with pytest.raises(ValueError, match="stage training: 3 GPU are needed at the same time") as refused:
        capacity.check_room({"rollouts": WORKERS, "training": TOO_MANY}, patience_s=60)
    assert "the cluster has 0 and may grow to 2. The cluster can become no larger (1 node with 0 CPU" in str(
        refused.value
    )
    assert not workers_alive()


def test_a_stage_that_waits_says_what_is_missing_and_ends(cluster, monkeypatch, caplog):
    """As on a cluster of which nobody knows how far it grows."""
    monkeypatch.setattr(capacity, "limits_at", lambda address: None)
    monkeypatch.setattr(logging.getLogger("mralign"), "propagate", True)
    capacity.check_room({"training": TOO_MANY}, patience_s=12)
    assert "unless the cluster grows, the run ends after waiting run.patience_s=12 s" in caplog.text
    with pytest.raises(ValueError, match="stage training waits for nodes") as ended:
        waiting.await_room("training", TOO_MANY, patience_s=12)
    assert "3 training workers take 1 GPU each (training.workers, training.gpu), and the cluster has none" in str(
        ended.value
    )
    assert "a larger run.patience_s" in str(ended.value)
    said = [record.message for record in caplog.records if "waits for nodes (1" in record.message]
    assert said
    assert len(said) == 1


TWO_ENGINES = [*SMALL, "engine.min_replicas=2", "engine.max_replicas=2", "engine.cpus_per_replica=2"]


def test_a_run_waits_for_what_others_hold_until_its_patience_is_over_or_it_is_stopped(cluster, tmp_path):
    from ray.util import placement_group, placement_group_table, remove_placement_group

    others, log = placement_group([{"CPU": 3}]), tmp_path / "log"
    wait_until(lambda: others.wait(1))
    impatient = start(tmp_path / "run", "--until", "rollouts", *TWO_ENGINES, "run.patience_s=40", log=log)
    assert impatient.wait(timeout=240) == 2, log.read_text()
    missing = r"it needs 5 CPU on nodes with room for them, and others leave|5 CPU are needed at the same time"
    said = rf"stopped: stage rollouts waits for nodes \(4\d of run\.patience_s=40 s\): ({missing})"
    assert re.search(said, log.read_text()), log.read_text()

    log.write_text("")
    patient = start(tmp_path / "run", "--until", "rollouts", *TWO_ENGINES, log=log)
    wait_for(lambda: "stage rollouts waits for nodes" in log.read_text(), process=patient, log=log)
    patient.send_signal(signal.SIGTERM)
    assert patient.wait(timeout=30) == 130
    wait_until(
        lambda: [one["state"] for one in placement_group_table().values() if one["state"] != "REMOVED"] == ["CREATED"]
    )
    remove_placement_group(others)


def test_a_real_engine_whose_node_is_lost_while_it_starts_costs_no_row(cluster, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    process = start(run, "--until", "rollouts", *TWO_ENGINES, log=log)
    wait_for(lambda: raylet_of("ray::KeptEngine", directory=cluster.directory), process=process, log=log)
    before = workers_alive()
    raylet_of("ray::KeptEngine", directory=cluster.directory).kill()
    assert not list(run.glob("rollouts/*/part-*"))
    wait_for(lambda: workers_alive() - before, process=process, log=log)  # another node takes its place
    finish(process, log=log)
    ids = [row["row_id"] for row in rows(stage_dir(run, "rollouts"))]
    assert len(ids) == len(set(ids)) == 150 * 2 * 3
