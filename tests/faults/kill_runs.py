"""The kill matrix, by `make test-cluster`: kill -9 of one process in the middle of a stage, then the same command.

    make test-cluster ARGS='-k driver --stages rollouts,counts'    # a part of it
    make test-cluster ARGS=--left                                  # what has no result yet

A run goes through its stages; in the middle of each a process is killed. Where that ends the run, the same command is
started again. As soon as a stage is finished, all its tables must equal the undisturbed run's. That run is made once,
on a local Ray of its own and the local disk, and every killed run is compared with it, whatever its nodes and store.
Where the first stages are left out, the run begins with them as the undisturbed run has left them. `kills.jsonl` has a
line a cell, from which fault_tables.py makes the table of cluster/README.md. FAULTS_HOME names a directory that keeps
the undisturbed run from one call to the next.
"""

import time
from collections import Counter

import align_process
import fault_results
import pytest
import ray_nodes
import run_files
import whole_road
from cells import ROAD, chains
from fault_session import LONGEST_S

pytestmark = pytest.mark.timeout(7200)
ASKING = ("annotation", "evidence", "judgements_base")  # stages that ask endpoints
MOST_AGAIN = 18  # requests that are in flight: CONCURRENCY at each of three chats, or all searches


class KilledRun:
    """One chain of cells in one run directory."""

    def __init__(self, session, chain, cells):
        self.session, self.chain, self.cells = session, chain, cells
        self.name, self.log = f"killed-{chain}", session.home / f"{chain}.log"
        self.store = session.disk if chain.store == "disk" else session.bucket
        self.undisturbed = session.undisturbed()
        self.process = None
        self.paid = Counter(whole_road.accepted(session.servers))
        self.again, self.since = 0, time.monotonic()
        self.open = []  # (cell, its result so far) of stages that are not finished yet

    def run(self):
        """Go through all cells; the wrong ones."""
        self.log.unlink(missing_ok=True)
        self.store.clear(self.name)
        files = run_files.before(self.undisturbed, stage=self.cells[0].stage, road=ROAD)
        self.store.put(self.name, files)
        wrong = []
        for cell in self.cells:
            release = self.session.pauses.want(cell.moment)
            reached = self._reach(cell, release=release)
            wrong += self._judge(until=cell.stage)
            self._kill(cell, reached)
        self._finish()
        wrong += self._judge(until=None)
        if not wrong:
            self.store.clear(self.name)
        return wrong

    def _reach(self, cell, *, release):
        """Start the command if it does not run; who waits in the middle of the cell's stage."""
        release()
        if self.process is None:
            self._start()
        reached = self.session.pauses.reached(process=self.process, timeout=LONGEST_S)
        if reached is None and self.process.returncode:  # the kill before has ended the run
            self._ended()
            self._start()
            reached = self.session.pauses.reached(process=self.process, timeout=LONGEST_S)
        assert reached, f"the run ended before {cell}: {self.process.returncode}\n{self.log.read_text()[-4000:]}"
        return reached

    def _start(self):
        options = ("--until", self.cells[-1].stage)
        self.process = self.session.start(self.name, self.store, *options, log=self.log, nodes=self.chain.nodes)

    def _ended(self):
        """Note that the last kill ended the run."""
        self.open[-1][1]["statuses"] = [self.process.returncode, 0]
        self.process = None

    def _kill(self, cell, reached):
        cluster = self.session.nodes(self.chain.nodes)
        victim = ray_nodes.find(cell.victim, driver=self.process.pid, waiting=reached.pid, cluster=cluster)
        self.open.append((cell, {"statuses": [0]}))
        self._note_cost()
        ray_nodes.kill(victim)
        cluster.reap(victim)
        if cell.victim == "driver" or (cell.victim == "raylet" and cluster.count == 1):
            self._await_held(reached.pid)
            self.process.wait(timeout=LONGEST_S)
            self._ended()
        cluster.mend()

    def _await_held(self, pid):
        """Wait until the process that is held has ended: with its file open; or, as an actor whose node is gone first
        ends what it is at, after it was let go."""
        if ray_nodes.ends(pid, within=10, unless=self.process.pid):
            self.session.pauses.release()
            return
        self.session.pauses.release()
        ray_nodes.await_end(pid)

    def _finish(self):
        """Let the run come to its end."""
        self.session.pauses.want(None)()
        if self.process is not None and self.process.wait(timeout=LONGEST_S):
            self._ended()
        if self.process is None:
            self._start()
        align_process.finish(self.process, log=self.log, timeout=LONGEST_S)

    def _note_cost(self):
        """Of the kill before: the seconds until now, and how many requests were answered a second time."""
        paid = Counter(whole_road.accepted(self.session.servers)) - self.paid
        again, now = sum(paid.values()) - len(paid), time.monotonic()
        if len(self.open) > 1:
            self.open[-2][1].setdefault("paid_again", again - self.again)
        self.open[-1][1]["seconds"] = round(now - self.since)
        self.again, self.since = again, now

    def _judge(self, *, until):
        """Compare the stages before `until` that are finished; what is wrong in them."""
        found, left = [], []
        for cell, result in self.open:
            if cell.stage == until:
                left.append((cell, result))
                continue
            paid = Counter(whole_road.accepted(self.session.servers)) - self.paid
            again = result.setdefault("paid_again", sum(paid.values()) - len(paid) - self.again)
            tables = (run_files.tables(files, cell.stage) for files in (self.store.get(self.name), self.undisturbed))
            wrong = run_files.differences(*tables)
            if again > MOST_AGAIN:
                wrong.append(f"{again} requests were asked again")
            if cell.stage not in ASKING:
                result["paid_again"] = None
            fault_results.keep(str(cell), result="unequal" if wrong else "equal", **result)
            found += [f"{cell}: {one}" for one in wrong]
        self.open = left
        return found


@pytest.mark.parametrize("chain", chains(), ids=str)
def test_killed_runs_end_as_the_undisturbed(session, chain, request):
    done = fault_results.done() if request.config.getoption("--left") else ()
    chosen = request.config.getoption("--stages").split(",")
    cells = [cell for cell in chain.cells() if str(cell) not in done and (chosen == [""] or cell.stage in chosen)]
    if not cells:
        pytest.skip("every cell of it has its result, or none is chosen")
    wrong = KilledRun(session, chain, cells).run()
    assert not wrong, "\n".join(wrong)
