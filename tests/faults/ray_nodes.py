"""Three Ray nodes on this machine, of which two work; processes of a run by what they are; the kill of one of them."""

import os
import signal
import tempfile
import time

import psutil


class ThreeNodes:
    """A head that runs no task and two worker nodes; one that was killed is replaced."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        self.directory = tempfile.mkdtemp(prefix="mralign-ray-", dir="/tmp")  # Ray's sockets need a short path
        head = {"num_cpus": 0, "temp_dir": self.directory, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args={**head, "object_store_memory": 100 * 2**20})
        self.workers = [self._add() for _ in range(2)]

    def _add(self):
        return self.cluster.add_node(num_cpus=4, object_store_memory=100 * 2**20)

    def mend(self):
        """Put new nodes in the place of those whose raylet is gone."""
        for place, node in enumerate(self.workers):
            (entry,) = node.all_processes["raylet"]
            if entry.process.poll() is not None:
                self.cluster.remove_node(node, allow_graceful=False)
                self.workers[place] = self._add()
        self.cluster.wait_for_nodes()

    def raylets(self):
        """Process ids of the raylets of the worker nodes."""
        return [node.all_processes["raylet"][0].process.pid for node in self.workers]

    def close(self):
        """End all three."""
        self.cluster.shutdown()


def find(victim, *, driver, waiting, cluster):
    """The process id of the victim. `waiting`: the process that is held in the stage."""
    if victim == "driver":
        return driver
    if victim == "raylet":
        return _raylet(waiting, cluster=cluster, driver=driver)
    if victim == "train controller":
        (found,) = [one.pid for one in psutil.Process().children(recursive=True) if "TrainController" in _name(one)]
        return found
    assert waiting != driver, f"the driver is held, no {victim}"
    return waiting


def _raylet(waiting, *, cluster, driver):
    """The raylet of the held process's node; where that is the driver or on the head, of any worker node."""
    parents = [one for one in psutil.Process(waiting).parents() if "raylet" in _name(one)]
    if cluster is None:
        own = parents or [one for one in psutil.Process(driver).children() if "raylet" in _name(one)]
        return own[0].pid
    near = [one.pid for one in parents if one.pid in cluster.raylets()]
    return (near or cluster.raylets())[0]


def _name(process):
    try:
        return process.cmdline()[0] if process.cmdline() else ""
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def kill(pid):
    """kill -9, and wait until the process is gone."""
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 30
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.05)
