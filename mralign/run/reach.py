"""Whether places answer: buckets and other far file systems, and a cluster; found out within a time limit.

Addresses enter; for each that does not answer, or refuses, a sentence leaves. A library that waits for a server that
nobody runs may hear no signal for minutes, so it is another process that asks, and this one ends it when its time is
over. A local path is looked at in this process.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from urllib.parse import urlsplit

from pyarrow import fs

from mralign.run.store import Directory, absolute

LIMIT_S = 20.0  # for all places together, and again for a cluster
_CONNECT_S = 5.0
_KEPT_S = 60.0  # what was found is believed so long: several steps of one command ask for the same places
# What `ray health-check` does, without the imports of Ray's command line, which take three times as long.
_ASK_HEAD = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
_PACKAGE = Path(__file__).resolve().parents[2]

_OTHER_REGION = re.compile(r"status 301|PermanentRedirect|AuthorizationHeaderMalformed")
_DENIED = re.compile(r"ACCESS_DENIED|AccessDenied|PERMISSION_DENIED|UNAUTHENTICATED")  # of S3, of Google

_found: dict[tuple[str, bool], tuple[float, str | None]] = {}


def shown(uri: str) -> str:
    """A URI without the user and password that may stand in it."""
    return re.sub(r"(?<=://)[^/@]*@", "", uri)


def is_far(path: str) -> bool:
    """Whether a path leads to another machine, or may do so."""
    return "://" in path and not path.startswith(("pkg://", "hub://", "file://"))


def faults(uris: Sequence[str], *, write: bool = False, limit_s: float = LIMIT_S) -> dict[str, str]:
    """What is wrong with each of these far places, by URI: it refuses, or does not answer within the time limit.

    `write`: whether a file can be written and deleted there, else whether one can be looked for. That nothing is there
    is no fault.
    """
    known = {uri: _believed(uri, write=write) for uri in dict.fromkeys(uris)}
    asked = [uri for uri, found in known.items() if found is None]
    told = _ask(asked, write=write, limit_s=limit_s) if asked else {}
    for uri in asked:
        said = told.get(uri, f"does not answer within {limit_s:.0f} s")
        _found[uri, write] = (time.monotonic(), said or "")
    return {uri: text for uri in known if (text := _believed(uri, write=write) or "")}


def _believed(uri: str, *, write: bool) -> str | None:
    """What was found a moment ago; empty for a place that answers, None where nothing is known."""
    when, said = _found.get((uri, write), (0.0, None))
    return said if said is not None and time.monotonic() - when < _KEPT_S else None


def _ask(uris: Sequence[str], *, write: bool, limit_s: float) -> dict[str, str | None]:
    """What another process finds within the time limit; None for a place that answers."""
    path = os.pathsep.join(filter(None, [str(_PACKAGE), os.environ.get("PYTHONPATH")]))
    order = json.dumps({"uris": list(uris), "write": write, "limit_s": limit_s})
    command = [sys.executable, "-m", "mralign.run.reach"]
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            said, _ = process.communicate(order, timeout=limit_s + 10)  # its own limit counts when it has started
        except subprocess.TimeoutExpired:
            said = ""
        finally:
            process.kill()
    return dict(map(json.loads, said.splitlines()))


def local_fault(path: str) -> str | None:
    """Why nothing can be written into a local directory, which need not be there yet; None if it can."""
    place = Path(absolute(path))
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        return f"{place} is a file and no directory"
    if not os.access(place, os.W_OK | os.X_OK, effective_ids=True):
        return f"this user may not write into {place}"
    return None


def cluster_fault(address: str, *, limit_s: float = LIMIT_S) -> str | None:
    """Why the cluster of an address, as RAY_ADDRESS gives it, cannot be joined; None if its head answers."""
    if address in ("", "auto", "local"):
        return None
    if _believed(address, write=False) is None:
        _found[address, False] = (time.monotonic(), _cluster_fault(address, limit_s=limit_s) or "")
    return _believed(address, write=False) or None


def _cluster_fault(address: str, *, limit_s: float) -> str | None:
    place = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = place.hostname, place.port
    except ValueError:
        host, port = None, None
    if host is None or port is None or place.scheme not in ("", "ray"):
        return "is no address of a cluster; give HOST:PORT of its head (6379 unless it was started otherwise)"
    try:
        socket.create_connection((host, port), timeout=_CONNECT_S).close()
    except OSError as error:
        return f"leads to nobody ({error})"
    if place.scheme == "ray":
        return None
    return _health(f"{host}:{port}", limit_s=limit_s)


def _health(address: str, *, limit_s: float) -> str | None:
    """Whether it is a head of Ray that listens there."""
    command = [sys.executable, "-c", _ASK_HEAD]
    try:
        done = subprocess.run([*command, address], timeout=limit_s, capture_output=True, check=False)
    except subprocess.TimeoutExpired:
        return f"leads to something that does not answer as the head of a Ray cluster within {limit_s:.0f} s"
    return None if done.returncode == 0 else "leads to something that is no head of a Ray cluster"


def _look(uri: str, *, write: bool) -> None:
    """Raise what opening the place raises."""
    directory = Directory(uri)
    if not write:
        directory.exists()
        return
    name = f"_probe-{uuid.uuid4().hex}"
    directory.write_bytes(name, b"")
    try:  # nothing is there, so that one short answer tells whether listing is allowed
        directory.filesystem.get_file_info(fs.FileSelector(directory.path(f"{name}.none"), allow_not_found=True))
    finally:
        directory.filesystem.delete_file(directory.path(name))


def _try(look: Callable[[], None]) -> str | None:
    """The first line of what a look raises."""
    try:
        look()
    except Exception as error:  # every file system has exceptions of its own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return f"refuses: {shown(lines[0]):.300}{_advice(lines[0])}"
    return None


def _advice(said: str) -> str:
    """What to do about a refusal whose cause is known, else nothing."""
    advice = (
        (
            _OTHER_REGION,
            "the bucket lies in another region: set AWS_REGION to it (a file to read may have ?region=... behind it)",
        ),
        (_DENIED, "the role or key may not do this: a run needs to list the bucket and to get, put and delete objects"),
    )
    return next((f"; {what}" for pattern, what in advice if pattern.search(said)), "")


def _answer_all(order: Mapping[str, object]) -> None:
    """Print what is found of each place as it is found; ends when all have answered or the time is over."""
    uris, write, limit_s = order["uris"], bool(order["write"]), float(str(order["limit_s"]))
    assert isinstance(uris, list)
    answers: SimpleQueue[tuple[str, str | None]] = SimpleQueue()

    def look(uri: str) -> None:
        answers.put((uri, _try(lambda: _look(uri, write=write))))

    for uri in uris:
        threading.Thread(target=look, args=(uri,), daemon=True).start()
    end = time.monotonic() + limit_s
    with suppress(Empty):
        for _ in uris:
            print(json.dumps(answers.get(timeout=max(0.0, end - time.monotonic()))), flush=True)


if __name__ == "__main__":
    _answer_all(json.load(sys.stdin))
    os._exit(0)  # a thread that waits for a server would keep this process
