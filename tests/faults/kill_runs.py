"""The kill matrix, by `make test-cluster`: kill -9 of one process in the middle of a stage, then the same command.

    make test-cluster ARGS='-k "rollouts and disk"'    # a part of it
    make test-cluster ARGS=--left                      # what has no result yet

Each cell begins with the stages before its own as an undisturbed run has left them, and ends with that stage: all its
tables must equal the undisturbed run's. That run is made once, on one node and the local disk, and every cell is
compared with it, whatever its nodes and store. `kills.jsonl` has a line a cell, from which fault_results.py writes the
table of cluster/README.md. FAULTS_HOME names a directory that keeps the undisturbed run from one call to the next.
"""

import json
import os
import socket
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import align_process
import fault_results
import loopback_s3
import pytest
import ray_nodes
import run_files
import whole_road
from cells import ROAD, cells
from moments import Pauses

pytestmark = pytest.mark.timeout(1500)
LONGEST_S = 240


class Session:
    """The servers, the undisturbed run, and the nodes, started when a cell first needs them."""

    def __init__(self, home):
        self.home, self.stack = home, ExitStack()
        self.pauses = Pauses(home / "pauses")
        self.disk = run_files.Disk(home / "runs")
        ports = home / "ports.json"
        if not ports.exists():
            ports.write_text(json.dumps(_free_ports(2)))
        self.servers = self.stack.enter_context(whole_road.endpoints(json.loads(ports.read_text())))
        self.settings = whole_road.settings(self.servers, directory=home)
        store, environment = self.stack.enter_context(loopback_s3.serve())
        self.bucket = run_files.Bucket(store)
        path = os.pathsep.join([str(align_process.ROOT), os.environ.get("PYTHONPATH", "")])
        self.variables = {**environment, **self.pauses.environment(path), "RAY_AUTH_MODE": "disabled"}
        self.cluster = None

    def undisturbed(self):
        """The files of the undisturbed run."""
        if not (self.home / "finished").exists():
            self.pauses.want(None)
            log = self.home / "undisturbed.log"
            began = time.monotonic()
            align_process.finish(self.start("undisturbed", self.disk, log=log), log=log, timeout=900)
            (self.home / "finished").write_text(f"{time.monotonic() - began:.0f} s\n")
        return self.disk.get("undisturbed")

    def start(self, name, store, *options, log, nodes=1, output=None):
        """The command."""
        variables = dict(self.variables)
        if nodes == 3:
            variables["RAY_ADDRESS"] = self.nodes().cluster.address
        given = (*self.settings, *options)
        return align_process.start(store.uri(name), *given, log=log, variables=variables, output=output)

    def nodes(self):
        """The three nodes, all of them alive."""
        if self.cluster is None:
            with pytest.MonkeyPatch.context() as patch:
                for name, value in self.variables.items():
                    patch.setenv(name, value)
                self.cluster = ray_nodes.ThreeNodes()
            self.stack.callback(self.cluster.close)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.variables.items():
                patch.setenv(name, value)
            self.cluster.mend()
        return self.cluster


def _free_ports(count):
    listeners = [socket.socket() for _ in range(count)]
    for listener in listeners:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@pytest.fixture(scope="session")
def session(tmp_path_factory):
    home = Path(os.environ.get("FAULTS_HOME") or tmp_path_factory.mktemp("faults"))
    home.mkdir(parents=True, exist_ok=True)
    found = Session(home)
    yield found
    found.stack.close()


@pytest.mark.parametrize("cell", cells(), ids=str)
def test_a_killed_run_ends_as_the_undisturbed(session, cell):
    began = time.monotonic()
    undisturbed = session.undisturbed()
    store = session.disk if cell.store == "disk" else session.bucket
    name, log = f"cell-{cell}", session.home / f"{cell}.log"
    log.unlink(missing_ok=True)
    store.clear(name)
    store.put(name, run_files.before(undisturbed, stage=cell.stage, road=ROAD))
    asked = Counter(whole_road.accepted(session.servers))
    statuses = _killed(session, cell, name=name, store=store, log=log)
    paid = Counter(whole_road.accepted(session.servers)) - asked
    files = store.get(name)
    wrong = run_files.differences(run_files.tables(files, cell.stage), run_files.tables(undisturbed, cell.stage))
    again = sum(paid.values()) - len(paid)
    fault_results.keep(
        str(cell),
        result="unequal" if wrong else "equal",
        statuses=statuses,
        paid_again=again if paid else None,
        seconds=round(time.monotonic() - began),
    )
    assert not wrong, (wrong, log.read_text()[-4000:])
    assert again <= 3 * whole_road.CONCURRENCY, paid
    store.clear(name)


def _killed(session, cell, *, name, store, log):
    """Exit statuses of the command until it is done: once, or twice where the kill ended it. -9: it was killed."""
    options = ("--until", cell.stage)
    cluster = session.nodes() if cell.nodes == 3 else None
    session.pauses.want(cell.moment)
    process = session.start(name, store, *options, log=log, nodes=cell.nodes)
    reached = session.pauses.reached(process=process, timeout=LONGEST_S)
    assert reached, f"the run ended before it came to {cell.moment}:\n{log.read_text()[-3000:]}"
    victim = ray_nodes.find(cell.victim, driver=process.pid, waiting=reached.pid, cluster=cluster)
    ray_nodes.kill(victim)
    if cell.victim == "driver":
        _await_end(process)  # whoever is held dies with its file open
    session.pauses.release()
    first = process.wait(timeout=LONGEST_S)
    _await_end(process)
    if first == 0:
        return [0]
    session.pauses.want(None)
    if cell.nodes == 3:
        session.nodes()
    again = session.start(name, store, *options, log=log, nodes=cell.nodes)
    align_process.finish(again, log=log, timeout=LONGEST_S)
    return [first, 0]


def _await_end(process):
    """Wait until what the run has started is gone, but for Ray's agents: they stay for a minute of their own accord."""
    end = time.monotonic() + 60
    while left := [pid for pid, name in align_process.members(process.pid).items() if "Agent" not in name]:
        assert time.monotonic() < end, f"still there: {left}"
        time.sleep(0.2)
