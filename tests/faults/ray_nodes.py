"""Ray nodes on this machine; processes of a run by what they are; the kill of one of them."""

import os
import signal
import tempfile
import time

import psutil


class RayNodes:
    """One node, or a head that runs no task and two worker nodes. One whose raylet was killed is replaced."""

    def __init__(self, count):
        self.count = count
        self._start()

    def _start(self):
        from ray.cluster_utils import Cluster

        directory = tempfile.mkdtemp(prefix="mralign-ray-", dir="/tmp")  # Ray's sockets need a short path
        head = {"num_cpus": 0 if self.count > 1 else 6, "temp_dir": directory, "include_dashboard": False}
        head["object_store_memory"] = 100 * 2**20
        self.cluster = _started(lambda: Cluster(initialize_head=True, head_node_args=head))
        self.workers = [self._add() for _ in range(self.count - 1)]

    def _add(self):
        return _started(lambda: self.cluster.add_node(num_cpus=4, object_store_memory=100 * 2**20))

    @property
    def nodes(self):
        """Those that work."""
        return self.workers or [self.cluster.head_node]

    def mend(self):
        """Put new nodes in the place of those whose raylet is gone; where that was the only one, a new cluster."""
        lost = [node for node in self.nodes if node.all_processes["raylet"][0].process.poll() is not None]
        if lost and self.count == 1:
            self.close()
            self._start()
            return
        for node in lost:
            self.workers.remove(node)
            self.cluster.remove_node(node, allow_graceful=False)
            self.workers.append(self._add())

    def reap(self, pid):
        """Take note that a raylet has ended: as a zombie it would pass for alive with the workers of its node."""
        for node in self.nodes:
            process = node.all_processes["raylet"][0].process
            if process.pid == pid:
                process.wait(timeout=60)  # its main thread may be gone before the others

    def raylets(self):
        """Process ids of the raylets of the nodes that work."""
        return [node.all_processes["raylet"][0].process.pid for node in self.nodes]

    def close(self):
        """End all of it."""
        self.cluster.shutdown()


def _started(start, *, tries=3):
    """What `start` returns; on a busy machine a node may not come within the 30 s that Ray gives it."""
    for _ in range(tries - 1):
        try:
            return start()
        except Exception as error:  # Ray has no type for it
            if "timed out during startup" not in str(error):
                raise
    return start()


def find(victim, *, driver, waiting, cluster):
    """The process id of the victim. `waiting`: the process that is held in the stage."""
    if victim == "driver":
        return driver
    if victim == "raylet":
        near = [one.pid for one in psutil.Process(waiting).parents() if one.pid in cluster.raylets()]
        return (near or cluster.raylets())[0]  # where the driver is held, or somebody on the head: any
    if victim == "train controller":
        (found,) = [one.pid for one in psutil.Process().children(recursive=True) if "TrainController" in _name(one)]
        return found
    assert waiting != driver, f"the driver is held, no {victim}"
    return waiting


def _name(process):
    try:
        return process.cmdline()[0] if process.cmdline() else ""
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def kill(pid):
    """kill -9, and wait until the process is gone."""
    os.kill(pid, signal.SIGKILL)
    await_end(pid)


def await_end(pid):
    """Wait until a process is gone."""
    assert ends(pid, within=60), f"process {pid} is still there"


def ends(pid, *, within, unless=None):
    """Whether a process is gone within so many seconds; for the process `unless` nobody waits."""
    end = time.monotonic() + within
    while pid != unless and psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
