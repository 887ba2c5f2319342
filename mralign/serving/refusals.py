"""Is a refused call to blame itself, or is every call refused?

A refusal is held back until that is known. An answer to a request that was sent later shows that the endpoint serves
others: the call is then its row's loss, and the run goes on. A few refusals of one kind with no such answer show that
it serves nobody (a wrong address, model or setting; a key revoked in the middle): the run stops, and none of them is
counted as a row's loss. Where nothing else is in flight that could tell, those that are held decide.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mralign.serving.calls import Failure, Refusal

_IDLE_S = 0.5  # nothing else is in flight for so long: no more calls are coming that could tell
_PATIENCE = 3  # times the limit: for refusals that may be each row's own


class Refusals:
    """Refusals of one endpoint, for one event loop. `limit` None: every refusal is its row's."""

    def __init__(self, *, limit: int | None, on_end: Callable[[Refusal], None]) -> None:
        """`on_end` is called where the held ones decide that every call is refused."""
        self._limit, self._on_end = limit, on_end
        self.answered = False  # whether there has ever been an answer
        self.held_tasks: set[asyncio.Task] = set()
        self._sent = 0  # requests so far: the number of the last one
        self._held: dict[asyncio.Future[None], tuple[Refusal, int]] = {}  # and what had been sent when it came
        self._alike: Counter[str] = Counter()  # refusals since `_alike_from`, by kind
        self._alike_from = 0
        self._exhausted = 0  # calls whose tries ran out since the last answer
        self._active = self._begun = 0  # calls that are asked and not held; calls ever begun
        self._next_hold: asyncio.Future[None] | None = None

    def sending(self) -> int:
        """The number of a request that is about to be sent."""
        self._sent += 1
        return self._sent

    def answer(self, number: int) -> None:
        """The request of that number was answered: calls that were refused before it was sent are to blame."""
        self.answered = True
        self._exhausted = 0
        if number > self._alike_from:
            self._alike.clear()
        for future, (_, came_at) in self._held.items():
            if number > came_at and not future.done():
                future.set_result(None)

    def end_all(self, refusal: Refusal) -> bool:
        """Count a refusal; whether it shows, with those before it, that every call is refused."""
        if refusal.of_row and self.answered:
            return False
        if not self._alike:
            self._alike_from = self._sent
        self._alike[refusal.signature] += 1
        if self._limit is None:
            return False
        if self._alike.total() >= self._limit * _PATIENCE:
            return True
        if refusal.of_row or (self.answered and not refusal.of_all):
            return False
        return self._alike[refusal.signature] >= self._limit

    def exhausted(self) -> bool:
        """Count a call whose tries have run out; whether so many in a row show that the endpoint is down."""
        self._exhausted += 1
        return self._limit is not None and self._exhausted >= self._limit * _PATIENCE

    async def settled(self, refusal: Refusal) -> Failure:
        """Return, once that is known, the loss of the row. The caller must ask whether all was stopped meanwhile."""
        if self._limit is not None:
            await self._hold(refusal)
        own = self.answered or refusal.of_row or self._limit is None
        return Failure("refused" if own else refusal.reason, refusal.detail)

    def release(self) -> None:
        """Hold nothing back any more."""
        for future in self._held:
            if not future.done():
                future.set_result(None)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """While a call is asked."""
        self._active += 1
        self._begun += 1
        try:
            yield
        finally:
            self._active -= 1
            self._watch()

    @property
    def next_hold(self) -> asyncio.Future[None]:
        """Done when the next call is held, and others may take its place."""
        if self._next_hold is None or self._next_hold.done():
            self._next_hold = asyncio.get_running_loop().create_future()
        return self._next_hold

    async def _hold(self, refusal: Refusal) -> None:
        task = asyncio.current_task()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        assert task is not None
        self._held[future] = refusal, self._sent
        self.held_tasks.add(task)
        self._active -= 1
        if self._next_hold is not None and not self._next_hold.done():
            self._next_hold.set_result(None)
        self._watch()
        try:
            await future
        finally:
            self._active += 1
            self.held_tasks.discard(task)
            del self._held[future]

    def _watch(self) -> None:
        if self._held and not self._active:
            asyncio.get_running_loop().call_later(_IDLE_S, self._decide, self._begun)

    def _decide(self, begun: int) -> None:
        """Nothing has been in flight for a while: end all, or let the rows have their refusals."""
        if self._active or begun != self._begun:
            return
        waiting = [refusal for future, (refusal, _) in self._held.items() if not future.done()]
        if not waiting:
            return
        ending = self._ending(waiting)
        if ending is None:
            self.release()
        else:
            self._on_end(ending)

    def _ending(self, waiting: list[Refusal]) -> Refusal | None:
        """The refusal that ends all, if one does: no row can be to blame for it, or it came once too often."""
        for refusal in waiting:
            if refusal.of_all:
                return refusal
        enough = (self._limit or 1) if self.answered else 2  # two of two, where there was nothing else
        alike = Counter(refusal.signature for refusal in waiting if not refusal.of_row)
        for refusal in waiting:
            if alike[refusal.signature] >= enough:
                return refusal
        return None
