"""Whatever a command does ends in an exit status and, where it stops, in one sentence: no traceback for the user."""

from __future__ import annotations

import logging
from collections.abc import Callable

from typer import TyperException

from mralign.run import interruption, local_ray
from mralign.run.disk import full_disk

log = logging.getLogger("mralign")


def guarded(act: Callable[[], None]) -> int:
    """Exit status of a command that does `act`: 0 done, 2 wrong input, 130 interrupted (resumable)."""
    logging.basicConfig(
        level=logging.WARNING,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        handlers=[interruption.Handler()],
    )
    log.setLevel(logging.INFO)
    return interruption.guarded(act, explain=_reason, close=local_ray.stop)


def _reason(error: BaseException) -> str | None:
    """What to tell the user in one sentence; None for a fault of ours."""
    if isinstance(error, TyperException):
        return _usage(error)
    return str(error) if isinstance(error, ValueError) else full_disk(error)


def _usage(error: TyperException) -> str:
    """What is wrong with the arguments, and which help says what is allowed."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "mralign"
    message = error.format_message().rstrip(".")
    several = "; several values of an option go with commas" if "extra argument" in message else ""
    return f"{message}{several}; see {command} --help"
