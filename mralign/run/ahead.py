"""What a stage can ask of endpoints before it begins, for rows that flow to it from a stage that is still under way.

Stages run and are sealed one after the other. While an earlier one commits its parts, they are read here as they
appear; a `Flow` makes of them the rows that will reach the later stage, as far as nothing that is missing can change
them; an `Asker` asks for these rows what the later stage would ask. Every reply is kept in the run directory as always
(serving/response_cache.py), under a key of the whole request. Nothing else is kept, and nothing is committed: the later
stage reads its sealed upstream as ever, and finds the replies. So its tables are those of a run without this, whatever
is killed or goes wrong here, and no reply is asked for twice. A row that came out otherwise in the end would have other
requests, under other keys, and nothing of the first would be in any table.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pyarrow as pa

from mralign.run.events import MoneySpent, tell
from mralign.run.store import StageDir

log = logging.getLogger("mralign")

_LOOK_S = 1.0  # between two looks for new parts
_TELL_S = 1.0  # between two events

Row = dict[str, Any]


@dataclass(frozen=True)
class Flow:
    """How rows of a stage follow from parts of its upstream stage `source`, which are of `schema`.

    `rows` is given each part once, and gives the rows that have become whole with it.
    """

    source: str
    schema: pa.Schema
    rows: Callable[[pa.Table], Sequence[Row]]


class Asker(Protocol):
    """Asks for rows what a stage would ask; used in one event loop, inside `async with`."""

    at_once: int  # rows that are asked about at the same time

    async def __aenter__(self) -> Any: ...

    async def __aexit__(self, *error: Any) -> None: ...

    async def ask(self, row: Row) -> None:
        """Ask about a row. Raises ValueError with the reason where nothing may be asked any more."""
        ...

    def stop(self) -> None:
        """Begin no further request; those that were sent come to their end."""
        ...

    def spent(self) -> list[MoneySpent]:
        """What asking has cost so far."""
        ...

    def took(self) -> Mapping[str, Any]:
        """What asking took, as the stage counts it."""
        ...


class AskingAhead:
    """A thread that asks about the rows that flow from `source` to the stage of that name."""

    def __init__(self, asker: Asker, *, flow: Flow, source: StageDir, stage: str) -> None:
        self.asker, self.flow, self.source, self.stage = asker, flow, source, stage
        self.asked, self._told = 0, 0.0
        self._thread = threading.Thread(target=self._run, name=f"ahead of {stage}", daemon=True)
        self._loop = asyncio.new_event_loop()
        self._ending = asyncio.Event()
        self._work: asyncio.Task[Any] | None = None

    def start(self) -> None:
        """Begin to look for parts."""
        self._thread.start()

    def finish(self) -> Mapping[str, Any]:
        """Begin nothing more, and wait for what was sent: its answers are paid for. Returns what all of it took."""
        self._call(self._end)
        self._thread.join()
        self._tell(self.asker.spent())
        log.info("%s: %d rows were asked about before the stage began", self.stage, self.asked)
        return self.asker.took()

    def abandon(self) -> None:
        """Leave at once; what is in flight is lost, as where a run is killed."""
        self._call(lambda: self._work.cancel() if self._work else None)

    def _call(self, act: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(act)

    def _end(self) -> None:
        self._ending.set()
        self.asker.stop()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._ask_all())
        except asyncio.CancelledError:
            pass
        except Exception as error:  # whatever fails here, the stage asks in its turn, and says what is wrong
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        log.warning("%s: nothing more is asked before the stage begins: %.500s", self.stage, error)

    async def _ask_all(self) -> None:
        self._work = asyncio.current_task()
        room = asyncio.Semaphore(self.asker.at_once)
        async with self.asker, asyncio.TaskGroup() as group:
            async for row in self._rows():
                await room.acquire()
                if self._ending.is_set():
                    return
                group.create_task(self._ask(row, room=room))

    async def _ask(self, row: Row, *, room: asyncio.Semaphore) -> None:
        try:
            await self.asker.ask(row)
            self.asked += 1
        except ValueError as reason:
            if not self._ending.is_set():
                self._warn(reason)
                self._end()
        finally:
            room.release()
        if time.monotonic() - self._told >= _TELL_S:
            self._tell(self.asker.spent())

    async def _rows(self) -> AsyncIterator[Row]:
        """The rows as they become whole, until nothing more is to be begun."""
        seen: set[str] = set()
        while not self._ending.is_set():
            for part in await asyncio.to_thread(self.source.parts):
                if part not in seen:
                    seen.add(part)
                    for row in await asyncio.to_thread(self._rows_of, part):
                        yield row
            try:
                await asyncio.wait_for(self._ending.wait(), _LOOK_S)
            except TimeoutError:
                continue

    def _rows_of(self, part: str) -> Sequence[Row]:
        return self.flow.rows(self.source.read_parts([part], schema=self.flow.schema))

    def _tell(self, spent: Sequence[MoneySpent]) -> None:
        self._told = time.monotonic()
        for one in spent:
            tell(replace(one, stage=self.stage, ahead=one.spent))
