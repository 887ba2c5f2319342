"""What went wrong, in one sentence: the exception that Ray carries is taken out of Ray's wrapping, here only.

An exception enters, as the driver caught it. A ValueError, wherever it was raised, is what the user gave and can mend;
anything else is a fault of ours or of the machine. A function that runs in a task or an actor raises to its caller what
Ray makes of it: a class of Ray's with the whole remote traceback as its text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mralign.run.disk import full_disk
from mralign.run.printable import one_line, printable

_LONGEST = 400  # characters of a message that is not ours
_GO_ON = "what was committed is kept: run the same command to go on"
_ONCE_MENDED = "once that is mended, run the same command: what was committed is kept"
_ADVICE = re.compile(r"\nFailed to [^\n]+ after \d+/\d+ attempts \(total backoff .*", re.DOTALL)


class MachineFault(RuntimeError):
    """What a machine, or what is installed there, does to a run, in words of our own."""


def carried(error: BaseException) -> BaseException:
    """The exception that was raised, where Ray (its tasks, Ray Data, Ray Train) hands on one of its own instead."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        inner = next(_inside(error), None)
        if inner is None:
            break
        error = inner
    return _without_advice(error)


def _without_advice(error: BaseException) -> BaseException:
    """The exception without what Ray Data writes behind its text: how to have it try again."""
    if error.args and isinstance(error.args[0], str):
        error.args = (_ADVICE.sub("", error.args[0]), *error.args[1:])
    return error


def _inside(error: BaseException) -> Iterator[BaseException]:
    """What an exception of Ray's carries; nothing of any other, which is what it is."""
    if not _is_of_ray(type(error)):
        return
    found: list[Any] = [getattr(error, "cause", None), *getattr(error, "worker_failures", {}).values()]
    # Ray Data puts an exception that says nothing behind each that it does not lay at a user's door.
    found += [getattr(error, "controller_failure", None)]
    found += [None if type(error.__cause__).__name__ == "SystemException" else error.__cause__]
    found += error.args  # of an actor that could not start
    yield from (one for one in found if isinstance(one, BaseException))


def _is_of_ray(kind: type) -> bool:
    return any(base.__module__.partition(".")[0] == "ray" for base in kind.__mro__)


def _has_no_type(error: BaseException) -> bool:
    """Whether Ray itself raised a bare Exception, as its core does where a node is gone."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    name = "" if place is None else place.tb_frame.f_globals.get("__name__", "")
    return type(error) is Exception and name.partition(".")[0] == "ray"


def user_sentence(error: BaseException) -> str | None:
    """What the user is told who can mend it; None where it is no fault of the user's."""
    raised = carried(error)
    if isinstance(raised, ValueError):
        return printable(str(raised))
    return full_disk(error)


def own_sentence(error: BaseException) -> str:
    """One sentence of a fault that is not the user's: its type, and what it says of itself."""
    raised = carried(error)
    said = one_line(str(raised), longest=_LONGEST)
    if isinstance(raised, MachineFault):
        return f"the cluster failed: {said}; {_ONCE_MENDED}"
    name = type(raised).__name__
    if _is_of_ray(type(raised)) or _has_no_type(raised):
        failed = f"the cluster failed: {name}: {said.rstrip('.')}" if said else f"the cluster failed: {name}"
        return f"{failed}; {_GO_ON}"
    return f"a fault of mralign, not of your input: {name}: {said}" if said else f"a fault of mralign: {name}"
