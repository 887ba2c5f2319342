"""Google's object store on loopback (gcp-storage-emulator), so that pyarrow's own client is what the tests run against.

Objects are kept in memory. The client is told of the server by `CLOUD_STORAGE_EMULATOR_ENDPOINT`, and asks nobody for
credentials where the URI begins with `gs://anonymous@`. The server is a process of its own: as a thread of the process
that reads, it got no turn to answer while pyarrow waited for it.
"""

import socket
import subprocess
import sys
import time
from contextlib import contextmanager

HOME = "gs://anonymous@bucket"
_BEGINS_WITHIN_S = 30


@contextmanager
def serve():
    """A running server: the environment in which `HOME` is found there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--in-memory", "--host=127.0.0.1"]
    command += [f"--port={port}", "--default-bucket=bucket"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _await(port, server=server)
            yield {"CLOUD_STORAGE_EMULATOR_ENDPOINT": f"http://127.0.0.1:{port}"}
        finally:
            server.kill()


def _await(port, *, server):
    """Wait until the server answers."""
    end = time.monotonic() + _BEGINS_WITHIN_S
    while time.monotonic() < end and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"gcp_storage_emulator does not answer at port {port} within {_BEGINS_WITHIN_S} s")
