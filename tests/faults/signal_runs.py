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
from kill_runs import LONGEST_S, session  # noqa: F401  # a fixture
from signal_moments import moments_of, planned

pytestmark = pytest.mark.timeout(3000)
GRACE_S = 20.0  # after which an interrupted run ends whatever it does (mralign/run/interruption.py)


@pytest.mark.parametrize("stage", ["start", *MIDDLE, "report"])
def test_every_signal_at_every_moment(session, stage, request):  # noqa: F811
    undisturbed = session.undisturbed()
    name, disk = f"signals-{stage}", session.disk
    finished = stage == "report"
    files = undisturbed if finished else run_files.before(undisturbed, stage=_first(stage), road=ROAD)
    options = () if finished else ("--until", _first(stage))
    known = fault_results.done(fault_results.SIGNALS) if request.config.getoption("--left") else ()
    found, nodes = [], 0 if stage in ("start", "report") else 1
    disk.clear(name)
    disk.put(name, files)
    for place, moment, kind in planned():
        if place != stage or f"{stage}: {moment}" in known:
            continue
        log = session.home / f"{name}.log"
        ended = _ended(session, name, options, kind=kind, moment=moments_of(stage)[moment], log=log, nodes=nodes)
        if ended is None:  # an earlier start had done so much that there was nothing to hold
            disk.clear(name)
            disk.put(name, files)
            ended = _ended(session, name, options, kind=kind, moment=moments_of(stage)[moment], log=log, nodes=nodes)
        assert ended is not None, f"no start came to: {moment}\n{log.read_text()[-2000:]}"
        found.append(moment)
        fault_results.keep_signal(stage, moment, kind=kind, **ended)
        assert ended["status"] == 130, (moment, kind, log.read_text()[-3000:])
        assert ended["left"] == 0, (moment, kind)
        assert "Traceback" not in log.read_text(), (moment, kind, log.read_text()[-3000:])
    session.pauses.want(None)()
    log = session.home / f"{name}.log"
    align_process.finish(session.start(name, disk, *options, log=log, nodes=nodes), log=log, timeout=LONGEST_S)
    wrong = run_files.differences(
        run_files.tables(disk.get(name), _first(stage)), run_files.tables(undisturbed, _first(stage))
    )
    assert not wrong, wrong
    for moment in found:
        fault_results.confirm_signal(stage, moment)
    disk.clear(name)


def _first(stage):
    """The stage that a row of the table is about; the start of Ray is tried before the first one."""
    return {"start": "questions", "report": "evaluation"}.get(stage, stage)


def _ended(session, name, options, *, kind, moment, log, nodes):  # noqa: F811
    """How a start ended that was held at the moment: its status, seconds, and what was left; None: it never came."""
    log.write_text("")
    session.pauses.want(moment)()
    pipe = session.home / "printed"
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    process = session.start(name, session.disk, *options, "--json", log=log, nodes=nodes, output=str(pipe))
    reached = session.pauses.reached(process=process, timeout=LONGEST_S, reader=reader)
    if reached is None:
        os.close(reader)
        assert process.returncode == 0, log.read_text()[-3000:]
        return None
    began = time.monotonic()
    if kind == "closed pipe":
        os.close(reader)
        session.pauses.release()
    else:
        _send(process, kind)
    status = process.wait(timeout=60)
    seconds = round(time.monotonic() - began, 1)
    if kind != "closed pipe":
        os.close(reader)
    left = _left(process, held=reached.pid)
    session.pauses.release()
    return {"status": status, "seconds": seconds, "left": left, "ray": "joined" if nodes else "its own"}


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
