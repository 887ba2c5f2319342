"""Signals at chosen moments of each stage, by `make test-signals`: always 130, nothing left, and the run goes on.

Each stage begins with the stages before it as an undisturbed run has left them. The same command is started again and
again; each start is held at the next moment of the stage, and ended there by the signal whose turn it is. The last
start is left alone: the tables of the stage are then the undisturbed run's. In the rows `start` and `report` the
command starts a Ray of its own, else it joins one of one node: a start is quicker then.
"""

import os
import signal
import time

import align_process
import fault_results
import psutil
import pytest
import run_files
from cells import MIDDLE, ROAD
from fault_session import LONGEST_S
from signal_moments import moments_of, planned

pytestmark = pytest.mark.timeout(3000)


class Interrupted:
    """The starts of one row of the table, in one run directory."""

    def __init__(self, session, stage):
        self.session, self.stage, self.disk = session, stage, session.disk
        self.name, self.log = f"signals-{stage}", session.home / f"signals-{stage}.log"
        self.nodes = 0 if stage in ("start", "report") else 1
        self.undisturbed = session.undisturbed()
        self.options = () if stage == "report" else ("--until", _first(stage))

    def begin(self):
        """Put the stages before this one there, and nothing else."""
        whole = self.stage == "report"
        files = run_files.before(self.undisturbed, stage=_first(self.stage), road=ROAD)
        self.disk.clear(self.name)
        self.disk.put(self.name, self.undisturbed if whole else files)

    def interrupt(self, moment, *, kind):
        """End a start at the moment; if the starts before have done so much that it does not come, begin anew."""
        ended = self._ended(moment, kind=kind)
        if ended is None:
            self.compare()
            self.begin()
            ended = self._ended(moment, kind=kind)
        assert ended is not None, f"no start came to: {moment}\n{self.log.read_text()[-2000:]}"
        traceback = "Traceback" in self.log.read_text()
        fault_results.keep_signal(self.stage, moment, kind=kind, traceback=traceback, **ended)
        assert ended["status"] == 130, (moment, kind, self.log.read_text()[-3000:])
        assert ended["left"] == 0, (moment, kind)
        assert not traceback, (moment, kind, self.log.read_text()[-3000:])

    def finish(self):
        """Start once more, and leave it alone."""
        self.session.pauses.want(None)()
        process = self.session.start(self.name, self.disk, *self.options, log=self.log, nodes=self.nodes)
        align_process.finish(process, log=self.log, timeout=LONGEST_S)
        self.compare()
        self.disk.clear(self.name)

    def compare(self):
        """The finished stage against the undisturbed run's; after which signals it went on is then known."""
        stage = _first(self.stage)
        found = run_files.tables(self.disk.get(self.name), stage)
        wrong = run_files.differences(found, run_files.tables(self.undisturbed, stage))
        assert not wrong, wrong
        fault_results.confirm_signals(self.stage)

    def _ended(self, name, *, kind):
        """How a start ended that was held at the moment: its status, seconds, what was left; None: it never came."""
        self.log.write_text("")
        self.session.pauses.want(moments_of(self.stage)[name])()
        pipe = self.session.home / "printed"
        pipe.unlink(missing_ok=True)
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        given = {"log": self.log, "nodes": self.nodes, "output": str(pipe)}
        process = self.session.start(self.name, self.disk, *self.options, "--json", **given)
        reached = self.session.pauses.reached(process=process, timeout=LONGEST_S, reader=reader)
        if reached is None:
            os.close(reader)
            assert process.returncode == 0, self.log.read_text()[-3000:]
            return None
        began = time.monotonic()
        if kind == "closed pipe":
            os.close(reader)
            self.session.pauses.release()
        else:
            _send(process, kind)
        status = process.wait(timeout=60)
        seconds = round(time.monotonic() - began, 1)
        if kind != "closed pipe":
            os.close(reader)
        left = _left(process, held=reached.pid)
        self.session.pauses.release()
        return {"status": status, "seconds": seconds, "left": left, "ray": "joined" if self.nodes else "its own"}


@pytest.mark.parametrize("stage", ["start", *MIDDLE, "report"])
def test_every_signal_at_every_moment(session, stage, request):
    known = fault_results.lines(fault_results.SIGNALS) if request.config.getoption("--left") else {}
    run = Interrupted(session, stage)
    known = {name: line for name, line in known.items() if name.startswith(f"{stage}: ")}
    ended = {name for name, line in known.items() if fault_results.awaits_the_end(line)}
    if not session.disk.exists(run.name):
        ended = set()  # a run that is gone cannot go on
    done = ended | {name for name, line in known.items() if line["result"] == "equal"}
    if not ended:
        run.begin()
    for place, moment, kind in planned():
        if place == stage and f"{stage}: {moment}" not in done:
            run.interrupt(moment, kind=kind)
    run.finish()


def _first(stage):
    """The stage that a row of the table is about; the start of Ray is tried before the first one."""
    return {"start": "questions", "report": "evaluation"}.get(stage, stage)


def _send(process, kind):
    """To the driver alone; a closed terminal tells every process of it."""
    if kind == "SIGHUP":
        os.killpg(process.pid, signal.SIGHUP)
        return
    process.send_signal(signal.SIGTERM if kind == "SIGTERM" else signal.SIGINT)
    if kind == "second SIGINT":
        time.sleep(0.1)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)


def _left(process, *, held):
    """How many processes of the run are there a second after it has ended: of its session, and whoever was held, who
    may be of a cluster that the run had joined."""
    time.sleep(1)
    there = {pid for pid in align_process.members(process.pid) if pid != process.pid}
    end = time.monotonic() + 10  # until the cluster has ended the workers of a run that is gone
    while held != process.pid and psutil.pid_exists(held) and time.monotonic() < end:
        time.sleep(0.1)
    return len(there | ({held} & set(psutil.pids()) - {process.pid}))
