"""Whatever a command does ends in an exit status and, where it stops, in one sentence: no traceback for the user."""

from __future__ import annotations

from collections.abc import Callable

from typer import TyperException

from mralign.cli.display import display
from mralign.run import interruption, local_ray
from mralign.run.faults import user_sentence


def guarded(act: Callable[[], None]) -> int:
    """Exit status of a command that does `act`: 0 done, 1 our fault, 2 wrong input, 130 interrupted (resumable)."""
    display.open()
    return interruption.guarded(act, explain=_reason, own_fault=display.own_fault, say=display.end, close=_close)


def _close() -> None:
    """Leave the cluster while its remarks are still kept off the terminal; then give the terminal back."""
    local_ray.stop()
    display.close()


def _reason(error: BaseException) -> str | None:
    """What to tell the user in one sentence; None for a fault of ours."""
    if isinstance(error, TyperException):
        return _usage(error)
    sentence = user_sentence(error)
    if sentence is not None:
        display.remember(error)
    return sentence


def _usage(error: TyperException) -> str:
    """What is wrong with the arguments, and which help says what is allowed."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "mralign"
    message = error.format_message().rstrip(".")
    several = "; several values of an option go with commas" if "extra argument" in message else ""
    return f"{message}{several}; see {command} --help"
