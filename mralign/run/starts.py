"""An actor whose process ends again and again while it starts is not started for ever.

What an actor is about to load enters as a name. A MachineFault leaves, in place of a next try, once its process has
ended so `MOST` times in a row on one node: a model that does not fit the memory, a library that crashes. Ray starts
such an actor again without end and without a word. What raises while it loads needs nothing of this, Ray hands that on.

The tries are counted in a small file of the node, under the actor's name, which is gone once the actor has started.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mralign.run.faults import MachineFault

MOST = 3
_KEPT_S = 86_400  # of a tally that nobody counts on


@contextmanager
def starting(what: str) -> Iterator[None]:
    """Around all that an actor loads, once in its constructor; `what` names it to the user. Elsewhere it does nothing.

    Raises MachineFault in an actor whose process has ended `MOST` times in here on this node.
    """
    tally = _tally()
    ended = _read(tally)
    try:
        if ended >= MOST:
            raise MachineFault(
                f"a process ended {ended} times in a row while it started, and raised nothing: memory ran out (Ray's "
                f"raylet.out and the kernel's dmesg tell), or a library crashed (Ray's log of the process). It was "
                f"{what}, on {socket.gethostname()}"
            )
        _write(tally, ended + 1)
        yield
    finally:  # it has started, or what was raised tells why not
        if tally is not None:
            with contextlib.suppress(OSError):
                tally.unlink(missing_ok=True)


def _tally() -> Path | None:
    """This actor's file, if this is one: it keeps its name when Ray starts it again."""
    import ray

    actor = ray.get_runtime_context().get_actor_id() if ray.is_initialized() else None
    if not actor:
        return None
    prefix = f"mralign-starts-{os.getuid()}-"
    try:
        home = Path(tempfile.gettempdir())
    except OSError:
        return None
    for left in home.glob(f"{prefix}*"):  # by actors that were ended while they started
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _KEPT_S:
                left.unlink()
    return home / f"{prefix}{actor}"


def _read(tally: Path | None) -> int:
    try:
        return int(tally.read_text(encoding="ascii")) if tally is not None else 0
    except (OSError, ValueError):
        return 0


def _write(tally: Path | None, ended: int) -> None:
    if tally is None:
        return
    with contextlib.suppress(OSError):  # a full disk: then nothing is counted
        tally.write_text(str(ended), encoding="ascii")
