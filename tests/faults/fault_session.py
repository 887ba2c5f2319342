"""What the runs with faults share: endpoints, the undisturbed run, an S3, Ray nodes, and how the command is started."""

import json
import os
import signal
import socket
import time
from contextlib import ExitStack

import align_process
import forked_start
import loopback_s3
import ray_nodes
import run_files
import whole_road
from moments import Pauses

LONGEST_S = 240  # from one moment of a run to the next


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
        self.variables["RAY_worker_niceness"] = "0"  # at Ray's 15 they starve beside whatever else this machine does
        os.environ.update(self.variables)  # for the nodes, and for what is forked
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

    def start(self, name, store, *options, log, nodes=0, output=None):
        """The command, on a cluster of so many nodes; 0: a real start, and a local Ray of its own."""
        given, named = (store.uri(name), *self.settings, *options), {"log": log, "output": output}
        if nodes:
            variables = {**self.variables, "RAY_ADDRESS": self.nodes(nodes).cluster.address}
            process = forked_start.start(*given, variables=variables, **named)
        else:
            process = align_process.start(*given, variables=self.variables, **named)
        self.stack.callback(_end, process)
        return process

    def nodes(self, count):
        """The cluster of so many nodes, all of them alive."""
        if self.cluster is not None and self.cluster.count != count:
            self.cluster.close()
            self.cluster = None
        if self.cluster is None:
            self.cluster = ray_nodes.RayNodes(count)
        self.cluster.mend()
        return self.cluster

    def close(self):
        """End everything."""
        self.stack.close()
        if self.cluster is not None:
            self.cluster.close()


def _end(process):
    """Kill what is left of a start when the tests end early."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def _free_ports(count):
    listeners = [socket.socket() for _ in range(count)]
    for listener in listeners:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports
