"""Calls that are answered by a server's Batch API: gathered, uploaded together, waited for, and paid half.

Calls enter one by one; a reply leaves for each that a batch has answered, and None for those it has not, which are then
asked live. A batch is written down beside the cache before it is made (`batches/<mark>.state`), under a mark that the
server keeps too: a run that was killed finds its batches again, uploads nothing twice, and takes answers that came in
the meantime. Before an upload the most it can cost is held against what is left of the budget.

What can go wrong with a batch is expected here: results in any order, twice, of calls that nobody made, or not at all;
a batch that expires, fails or is cancelled. The first whole answer of a call counts, the rest is not looked at.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from typing import Any

import aiohttp
from pyarrow import fs

from mralign.config import Http
from mralign.run.store import Directory
from mralign.serving.api_key import ApiKey
from mralign.serving.backoff import Clock, backoff_s
from mralign.serving.batch_api import ENDED, BatchApi, BatchRefused, BatchState, BatchUnanswered
from mralign.serving.calls import BudgetExceeded, Call, EndpointRefused, Reply, Stopped
from mralign.serving.http_response import Response, read_response
from mralign.serving.pacing import estimated_tokens

log = logging.getLogger("mralign")

_SHELF = "batches"


@dataclass(frozen=True)
class Sent:
    """What is written down of a batch: its calls by key, with the row that each is for, and the server's id of it."""

    mark: str
    path: str
    rows: Mapping[str, str]
    base_url: str
    key_env: str
    id: str = ""  # empty: whether it was made is not known
    done: bool = False


@dataclass
class _Waiting:
    """A call that nobody has answered yet."""

    call: Call
    answer: asyncio.Future[Reply | None]


@dataclass
class Gathered:
    """Calls by key, in the order in which they came."""

    calls: dict[str, _Waiting] = field(default_factory=dict)

    def take(self, *, most: int) -> dict[str, _Waiting]:
        """Remove and return the first calls of one path."""
        path = next(iter(self.calls.values())).call.path
        keys = [key for key, waiting in self.calls.items() if waiting.call.path == path][:most]
        return {key: self.calls.pop(key) for key in keys}


class Batches:
    """The batches of one `Endpoint`, for one event loop.

    `read(key)` is the answer in the cache; `keep(reply, key, row_id, share)` puts a paid one there, at that share of
    the price; `room()` is the money that is left (None: no limit).
    """

    def __init__(
        self,
        settings: Http,
        *,
        key: ApiKey,
        cache: Directory,
        read: Callable[[str], Awaitable[Reply | None]],
        keep: Callable[[Reply, str, str, Decimal], Awaitable[None]],
        room: Callable[[], Decimal | None],
        clock: Clock | None = None,
    ) -> None:
        self.settings, self._key, self._cache = settings, key, cache
        self._read, self._keep, self._room, self._clock = read, keep, room, clock or Clock()
        self._api = BatchApi(settings, key=key, clock=self._clock)
        self._gathered = Gathered()
        self._under_way: dict[str, list[asyncio.Future[Reply | None]]] = {}  # by key: calls of batches that run
        self._reserved = Decimal(0)
        self._last = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._recovered: asyncio.Task[None] | None = None
        self._gathering: asyncio.Task[None] | None = None

    async def reply(self, session: aiohttp.ClientSession, call: Call, *, key: str) -> Reply | None:
        """The answer of a batch (or of the cache) to a call; None: there is none, ask live.

        Raises Stopped where no further batch may be paid for, or the server takes none.
        """
        if self._recovered is None:
            self._recovered = asyncio.create_task(self._recover(session))
        await asyncio.shield(self._recovered)
        answer: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        if key in self._under_way:  # looked at before the cache, where its answer may arrive at any moment
            self._under_way[key].append(answer)
            return await answer
        known = await self._read(key)
        if known is not None:
            return known
        self._gathered.calls[key] = _Waiting(call, answer)
        self._last = self._clock.now()
        if self._gathering is None or self._gathering.done():
            self._gathering = asyncio.create_task(self._gather(session))
        return await answer

    async def close(self) -> None:
        """Stop waiting. The batches go on at the server, and the next run finds them."""
        tasks = [task for task in (*self._tasks, self._gathering, self._recovered) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _gather(self, session: aiohttp.ClientSession) -> None:
        """Make batches of what comes, until nothing is left."""
        while self._gathered.calls:
            quiet = self._clock.now() - self._last
            enough = len(self._gathered.calls) >= self.settings.batch_requests
            if not enough and quiet < self.settings.batch_gather_s:
                await self._clock.sleep(min(1.0, self.settings.batch_gather_s - quiet))
                continue
            try:
                taken = self._affordable(self._gathered.take(most=self.settings.batch_requests))
            except Stopped as reason:
                self._refuse_all(reason)
                return
            if not taken:  # what is under way may cost less than was set aside for it
                await self._clock.sleep(self.settings.batch_poll_s)
                continue
            cost = sum((self._cost(waiting.call) for waiting in taken.values()), Decimal(0))
            self._reserved += cost
            for key, waiting in taken.items():
                self._under_way[key] = [waiting.answer]
            self._start(self._send(session, taken, cost=cost))

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _affordable(self, taken: dict[str, _Waiting]) -> dict[str, _Waiting]:
        """As many of the calls as the budget allows; the others wait. Raises BudgetExceeded if none ever can be."""
        left = self._room()
        if left is None:
            return taken
        left -= self._reserved
        for number, (key, waiting) in enumerate(taken.items()):
            left -= self._cost(waiting.call)
            if left < 0:
                kept = list(taken)[:number]
                later = {key: taken[key] for key in list(taken)[number:]}
                self._gathered.calls = later | self._gathered.calls
                if not kept and not self._under_way:
                    raise BudgetExceeded(self._too_dear(waiting.call, key=key))
                return {key: taken[key] for key in kept}
        return taken

    def _cost(self, call: Call) -> Decimal:
        """The most that a call can cost in a batch."""
        written = max(call.payload.get(name) or 0 for name in ("max_tokens", "max_completion_tokens"))
        most = self.settings.most_money(prompt=estimated_tokens(call.payload) - written, completion=written)
        return most * Decimal(str(self.settings.batch_price))

    def _too_dear(self, call: Call, *, key: str) -> str:
        most = self._cost(call)
        return (
            f"http.budget={self.settings.budget:g}: {self._room():f} of it is left, and the next request may cost up "
            f"to {most:f}. Raise http.budget and run the same command again; answers so far are kept and cost nothing"
        )

    def _refuse_all(self, reason: Stopped) -> None:
        for waiting in self._gathered.calls.values():
            if not waiting.answer.done():
                waiting.answer.set_exception(reason)
        self._gathered.calls.clear()

    async def _send(self, session: aiohttp.ClientSession, taken: dict[str, _Waiting], *, cost: Decimal) -> None:
        """Upload the calls as one batch, and wait for what comes of it; `cost` is set aside until then."""
        rows = {key: waiting.call.key_id for key, waiting in taken.items()}
        path = next(iter(taken.values())).call.path
        sent = Sent(uuid.uuid4().hex, path, rows, self.settings.base_url, self.settings.key_env)
        try:
            await asyncio.to_thread(self._write, sent)
            lines = jsonl({key: waiting.call for key, waiting in taken.items()})
            file = await self._api.upload(session, name=sent.mark, lines=lines)
            state = await self._create(session, file=file, sent=sent)
            sent = replace(sent, id=state.id)
            await asyncio.to_thread(self._write, sent)
            log.info("batch %s of %d requests is at the endpoint", state.id, len(rows))
            await self._wait(session, sent, state=state)
        except (BatchRefused, BatchUnanswered) as error:
            self._fail(rows, EndpointRefused(self._refused(error)))
        except Exception as error:
            self._fail(rows, error)
        finally:
            self._reserved -= cost

    async def _create(self, session: aiohttp.ClientSession, *, file: str, sent: Sent) -> BatchState:
        """Make the batch once, also where the server's answer gets lost."""
        failed = 0
        while True:
            try:
                return await self._api.create(session, file=file, path=sent.path, mark=sent.mark)
            except BatchUnanswered:
                failed += 1
                made = await self._api.find(session, mark=sent.mark)
                if made is not None:
                    return made
                if failed > self.settings.max_retries:
                    raise
                wait = backoff_s(failed, longest_s=self.settings.max_backoff_s, draw=random.random())
                await self._clock.sleep(wait)

    def _refused(self, error: Exception) -> str:
        return (
            f"http.base_url={self.settings.base_url} takes no batch: {error}. Run the same command again to go on, or "
            f"give http.batch=false to ask one by one; answers so far are kept"
        )

    def _fail(self, rows: Mapping[str, str], error: BaseException) -> None:
        for key in rows:
            for answer in self._under_way.pop(key, ()):
                if not answer.done():
                    answer.set_exception(error)

    async def _wait(self, session: aiohttp.ClientSession, sent: Sent, *, state: BatchState) -> None:
        """Look until the batch has ended, then hand out what it has answered."""
        while state.status not in ENDED:
            await self._clock.sleep(self.settings.batch_poll_s)
            state = await self._api.look(session, sent.id)
        lines = await self._api.lines(session, state.output_file)
        replies = replies_of(lines, rows=sent.rows, key=self._key, priced=self._is_priced())
        share = Decimal(str(self.settings.batch_price))
        for key, reply in replies.items():
            await self._keep(reply, key, sent.rows[key], share)
        await asyncio.to_thread(self._write, replace(sent, done=True))
        left = len(sent.rows) - len(replies)
        words = f" {state.words}" if state.words else ""
        log.info(
            "batch %s: %s, %d answers, %d requests are asked live%s", sent.id, state.status, len(replies), left, words
        )
        for key in sent.rows:
            for answer in self._under_way.pop(key, ()):
                if not answer.done():
                    answer.set_result(replies.get(key))

    def _is_priced(self) -> bool:
        return self.settings.priced

    async def _recover(self, session: aiohttp.ClientSession) -> None:
        """Go on with the batches of earlier runs on this cache."""
        for sent in await asyncio.to_thread(read_sent, self._cache):
            if sent.done:
                continue
            for key in sent.rows:
                self._under_way.setdefault(key, [])
            self._start(self._go_on(session, sent))

    async def _go_on(self, session: aiohttp.ClientSession, sent: Sent) -> None:
        try:
            found = await (self._api.look(session, sent.id) if sent.id else self._api.find(session, mark=sent.mark))
            if found is None:  # it was never made
                await asyncio.to_thread(self._write, replace(sent, done=True))
                self._give_back(sent.rows)
                return
            log.info("batch %s of an earlier run: %s", found.id, found.status)
            await self._wait(session, replace(sent, id=found.id), state=found)
        except BatchRefused as error:
            if not error.missing:  # a wrong key must not lose what is paid for: the next run looks again
                self._fail(sent.rows, EndpointRefused(self._refused(error)))
                return
            log.warning("batch %s of an earlier run is lost: %s", sent.id or sent.mark, error)
            await asyncio.to_thread(self._write, replace(sent, done=True))
            self._give_back(sent.rows)
        except BatchUnanswered as error:
            self._fail(sent.rows, EndpointRefused(self._refused(error)))
        except Exception as error:
            self._fail(sent.rows, error)

    def _give_back(self, rows: Mapping[str, str]) -> None:
        """Nothing will come: whoever waits asks live."""
        for key in rows:
            for answer in self._under_way.pop(key, ()):
                if not answer.done():
                    answer.set_result(None)

    def _write(self, sent: Sent) -> None:
        self._cache.write_text(f"{_SHELF}/{sent.mark}.state", json.dumps(asdict(sent)))


def jsonl(calls: Mapping[str, Call]) -> bytes:
    """The lines that are uploaded, one a call by its key."""
    lines = []
    for key, call in calls.items():
        line = {"custom_id": key, "method": "POST", "url": f"/v1{call.path}", "body": call.payload}
        lines.append(json.dumps(line))  # ASCII: no character of a text can end a line
    return ("\n".join(lines) + "\n").encode()


def replies_of(lines: Sequence[Any], *, rows: Mapping[str, str], key: ApiKey, priced: bool) -> dict[str, Reply]:
    """The first whole answer to each of the calls in `rows`, from the lines of a batch's results."""
    found: dict[str, Reply] = {}
    for line in lines:
        custom_id = line.get("custom_id") if isinstance(line, dict) else None
        if not isinstance(custom_id, str) or custom_id not in rows or custom_id in found:
            continue
        response = line.get("response")
        if not isinstance(response, dict) or response.get("status_code") != 200:
            continue
        raw = json.dumps(response.get("body")).encode()
        try:
            answer = read_response(Response(200, "application/json", raw), key=key, priced=priced, tries=1)
        except EndpointRefused:
            continue
        if isinstance(answer, Reply):
            found[custom_id] = answer
    return found


def read_sent(cache: Directory) -> list[Sent]:
    """The batches that are written down beside a cache; what cannot be read is left out."""
    selector = fs.FileSelector(cache.path(_SHELF), allow_not_found=True)
    names = sorted(info.base_name for info in cache.filesystem.get_file_info(selector))
    found = []
    for name in names:
        if not name.endswith(".state"):
            continue
        try:
            found.append(Sent(**json.loads(cache.read_text(f"{_SHELF}/{name}"))))
        except (ValueError, TypeError) as error:
            log.warning("%s is no batch of ours: %s", cache.path(f"{_SHELF}/{name}"), error)
    return found
