"""Calls to an OpenAI-compatible endpoint: bounded in number, tried again, paid once, stopped by a budget.

Calls enter; a reply or a failure leaves for each, in the order in which they come to an end. A reply is in the response
cache before anybody sees it, so a run that was killed or has stopped at its budget goes on where it was and pays for no
answer twice. What cannot be helped: an answer that the server made but that never arrived whole (connection reset, body
cut, timeout) is asked for again, and its cost is not known here. The requests carry the cache key as `Idempotency-Key`;
a server that honours it charges once all the same. How fast it is asked is `pacing.py`, what a response means
`http_response.py`, and whether a refusal is of one row or of all `refusals.py`.

aiohttp, not httpx: one timeout for a whole response where httpx has one for each read, no log lines of its own, Ray
brings it along, and 64 requests at once cost it 0.14 ms of CPU each where httpx takes 4 ms (loopback, two cores).
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from decimal import Decimal
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import aiohttp

from mralign.config import Http
from mralign.run.store import Directory
from mralign.serving.api_key import ApiKey
from mralign.serving.backoff import Clock, backoff_s, used_up_wait_s
from mralign.serving.batch_requests import Batches
from mralign.serving.cache_hints import told_to_cache
from mralign.serving.calls import (
    BudgetExceeded,
    Call,
    EndpointRefused,
    Failure,
    Refusal,
    Reply,
    Stopped,
    failure_detail,
)
from mralign.serving.endpoint_use import EndpointUse
from mralign.serving.http_response import Response, read_response
from mralign.serving.pacing import Pace, estimated_tokens
from mralign.serving.refusals import Refusals
from mralign.serving.response_cache import Entry, ResponseCache, call_key
from mralign.serving.stop_messages import StopMessages
from mralign.serving.usage import usage_of

_CONNECT_S = 30.0  # longest wait for a connection
LARGEST_BODY = 2**26  # bytes, unpacked: a response without end must not fill the memory


class Endpoint:
    """One endpoint and the cache of its replies, for one event loop.

    The budget holds for all that lies in the cache: one directory for each `Http` section, used by one
    `Endpoint` at a time.
    """

    def __init__(
        self,
        settings: Http,
        *,
        cache: Directory,
        clock: Clock | None = None,
        key: ApiKey | None = None,
        fault_of: Callable[[Any], str] | None = None,
        setting: str = "http.base_url",
    ) -> None:
        """Raises ValueError for an address or a budget that cannot be meant. The key is read from the environment.

        An endpoint that is no chat gives its own `key`, `fault_of` (see read_response), and the name of its setting.
        """
        check_settings(settings)
        self.settings, self.tally = settings, EndpointUse()
        self._base_url, self._cache = settings.base_url.rstrip("/"), ResponseCache(cache)
        self._key = key or ApiKey.from_environment(settings.key_env)
        self._fault_of, self._messages = fault_of, StopMessages(settings, key=self._key, setting=setting)
        self._clock = clock or Clock()
        self._pace = Pace(settings, clock=self._clock)
        self._refusals = Refusals(limit=settings.max_refusals, on_end=self._end_refused)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._opening, self._session = asyncio.Lock(), None
        self._batches = self._make_batches(cache) if settings.batch else None
        self._ending, self._reached = "", False  # why nothing more is sent; whether any response has ever come

    _session: aiohttp.ClientSession | None

    async def __aenter__(self) -> Endpoint:
        await self._open()
        return self

    async def __aexit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def _make_batches(self, cache: Directory) -> Batches:
        return Batches(
            self.settings,
            key=self._key,
            cache=cache,
            read=self._cached,
            keep=self._keep_of_batch,
            room=self._left,
            clock=self._clock,
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._batches is not None:
            await self._batches.close()
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def complete(self, call: Call) -> Reply | Failure:
        """The reply to a call, from the cache if it is there; calls that are equal wait for the first of them.

        Raises BudgetExceeded or EndpointRefused where nothing may be sent any more.
        """
        await self._open()
        key = call_key(call, base_url=self._base_url)
        async with self._locks.setdefault(key, asyncio.Lock()):
            if self._batches is not None:
                assert self._session is not None
                batched = await self._batches.reply(self._session, call, key=key)
                if batched is not None:
                    return batched
            with self._refusals.asking():
                known = await self._cached(key)
                if known is not None:
                    return known
                answer = await self._ask(call, key=key)
        self.tally.failed += isinstance(answer, Failure)
        return answer

    async def _cached(self, key: str) -> Reply | None:
        entry = await asyncio.to_thread(self._cache.read, key)
        if entry is None:
            return None
        self.tally.cached += 1
        self._refusals.answered = True
        return entry.reply()

    async def stream(self, calls: Iterable[Call]) -> AsyncIterator[tuple[Call, Reply | Failure]]:
        """Each call with its reply or failure, as they come; `calls` is drawn from only when there is room.

        A call whose refusal is held back gives its room to others: their answers tell whether it is to blame.
        When nothing may be sent any more, the requests in flight still arrive and are yielded; then raises
        BudgetExceeded or EndpointRefused. Closing the iterator early abandons what is in flight.
        """
        coming, running = iter(calls), dict[asyncio.Task[Reply | Failure], Call]()
        stopped = False
        try:
            while True:
                while not stopped and len(running.keys() - self._refusals.held_tasks) < self.settings.concurrency:
                    call = next(coming, None)
                    if call is None:
                        break
                    running[asyncio.create_task(self.complete(call))] = call
                if not running:
                    break
                ends: set[asyncio.Future[Any]] = {*running, self._refusals.next_hold}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in running if task.done()]:
                    call = running.pop(task)
                    if isinstance(task.exception(), Stopped):
                        stopped = True
                    else:
                        yield call, task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        if stopped:
            self._check_may_send()  # now, so that its figures hold what has arrived since

    async def _open(self) -> None:
        async with self._opening:
            if self._session is None:
                if self.settings.priced:
                    self.tally.spent_before = await asyncio.to_thread(self._cache.spent) - self.tally.spent
                total = self.settings.timeout_s
                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=self.settings.concurrency),
                    timeout=aiohttp.ClientTimeout(total=total, sock_connect=min(_CONNECT_S, total)),
                    cookie_jar=aiohttp.DummyCookieJar(),
                )

    async def _ask(self, call: Call, *, key: str) -> Reply | Failure:
        """Send a call until it is answered, refused, or out of tries. A 429 takes none of them: it is of everybody."""
        sent = failed = 0
        while True:
            sent += 1
            answer = await self._send(call, key=key, tries=sent)
            if isinstance(answer, Reply):
                return answer
            if isinstance(answer, Refusal):
                return await self._settle(answer)
            failed += answer.reason != "rate_limited"
            if failed > self.settings.max_retries:
                self._give_up(answer)
                return answer
            self._check_may_send()
            self.tally.retries[answer.reason] += 1
            if answer.reason != "rate_limited":
                wait = backoff_s(failed, longest_s=self.settings.max_backoff_s, draw=random.random())
                await self._pace.rest(self._clock.sleep(wait))

    async def _send(self, call: Call, *, key: str, tries: int) -> Reply | Failure:
        """One try, when its turn has come."""
        tokens = estimated_tokens(call.payload)
        async with self._pace.turn(tokens=tokens, may_send=self._check_may_send) as turn:
            number = self._refusals.sending()
            try:
                answer = await self._post(call, key=key, tries=tries)
            except EndpointRefused as error:
                self._end(str(error))
                raise
            if isinstance(answer, Reply):
                self._pace.answered(more_tokens=answer.prompt_tokens + answer.completion_tokens - tokens)
                await self._keep(answer, key=key, row_id=call.key_id)
                self._refusals.answer(number)
            elif answer.reason == "rate_limited":
                self._slow_down(answer, turn=turn)
            elif answer.wait_s is not None:
                self._pace.shut(answer.wait_s, words=answer.detail)
            return answer

    async def _post(self, call: Call, *, key: str, tries: int) -> Reply | Failure:
        """Send the request and read the whole response. Exceptions end here: some of aiohttp's hold the headers."""
        assert self._session is not None
        self.tally.requests += 1
        headers = {"Content-Type": "application/json", "Idempotency-Key": key} | self._key.headers()
        now = time.time()
        try:
            data = json.dumps(told_to_cache(call.payload, how=self.settings.prompt_cache))
            place = self._base_url + call.path
            async with self._session.post(place, data=data, headers=headers, allow_redirects=False) as response:
                self._reached = True
                raw, now = await body_of(response), time.time()
                if raw is None:
                    return Failure("malformed_reply", f"the body is longer than {LARGEST_BODY} bytes")
                whole = Response(response.status, response.content_type, raw, response.headers, now)
        except aiohttp.ClientConnectorCertificateError as error:
            detail = failure_detail(f"{type(error).__name__}: {error}", key=self._key)
            raise EndpointRefused(self._messages.untrusted(detail)) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Failure(_reason(error), failure_detail(f"{type(error).__name__}: {error}", key=self._key))
        used_up = used_up_wait_s(whole.headers, now=now) if whole.status == 200 else None
        if used_up is not None:  # as long as the server would have us wait, but it has not refused anything yet
            self._pace.shut(min(used_up, self.settings.max_backoff_s), words="its limit is used up")
        return read_response(whole, key=self._key, priced=self.settings.priced, tries=tries, fault_of=self._fault_of)

    async def _settle(self, refusal: Refusal) -> Failure:
        """The loss of a refused row. Raises EndpointRefused where every row is refused."""
        if self._refusals.end_all(refusal):
            self._end_refused(refusal)
        else:
            failure = await self._refusals.settled(refusal)
        if self._ending:
            raise EndpointRefused(self._ending)
        return failure

    async def _keep_of_batch(self, reply: Reply, key: str, row_id: str, share: Decimal) -> None:
        self.tally.batched += 1
        await self._keep(reply, key=key, row_id=row_id, share=share)

    async def _keep(self, reply: Reply, *, key: str, row_id: str, share: Decimal = Decimal(1)) -> None:
        """Count the money at once, so that no request is sent beyond it, then write the entry."""
        prompt, completion, usage = reply.prompt_tokens, reply.completion_tokens, usage_of(reply.body)
        prefix, written = usage.prefix_tokens, usage.written_tokens
        cost = share * self.settings.money(prompt=prompt, completion=completion, prefix=prefix, written=written)
        self.tally.accepted += 1
        self.tally.prompt_tokens += prompt
        self.tally.prefix_tokens += prefix
        self.tally.written_tokens += written
        self.tally.completion_tokens += completion
        self.tally.spent += cost
        if self._reason_to_stop() is not None:
            self._pace.wake()
        entry = Entry(key, row_id, str(cost), reply.prompt_tokens, reply.completion_tokens, reply.body)
        await asyncio.to_thread(self._cache.write, entry)

    def _check_may_send(self) -> None:
        stop = self._reason_to_stop()
        if stop is not None:
            raise stop

    def stop(self, reason: str) -> None:
        """Send nothing more: who waits for a turn gets EndpointRefused, what is in flight still arrives."""
        self._end(reason)

    def _end(self, reason: str) -> None:
        """Nothing more is sent: whoever waits is told so."""
        self._ending = self._ending or reason
        self._pace.wake()
        self._refusals.release()

    def _end_refused(self, refusal: Refusal) -> None:
        """End because every call is refused."""
        self._end(self._messages.refused(refusal))

    def _slow_down(self, failure: Failure, *, turn: int) -> None:
        """All requests wait. Raises EndpointRefused where that would last longer than `max_rate_limited_s`."""
        silent_s = self._pace.slow_down(turn=turn, asked_s=failure.wait_s, words=failure.detail)
        if silent_s > self.settings.max_rate_limited_s:
            self._end(self._messages.limited(failure, silent_s=silent_s))
            raise EndpointRefused(self._ending)

    def _give_up(self, failure: Failure) -> None:
        """Raise EndpointRefused where the tries of a call have run out and no other would fare better."""
        if failure.reason == "connection" and not self._reached:
            self._end(self._messages.unreachable(failure))
        if failure.reason == "usage_missing":
            self._end(self._messages.without_usage(failure))
        if self._refusals.exhausted():
            self._end(self._messages.down(failure))
        if self._ending:
            raise EndpointRefused(self._ending)

    def _left(self) -> Decimal | None:
        """Money that may still be spent; None: no limit."""
        budget, spent = self.settings.budget, self.tally.spent_before + self.tally.spent
        return None if budget is None else Decimal(str(budget)) - spent

    def _reason_to_stop(self) -> Stopped | None:
        if self._ending:
            return EndpointRefused(self._ending)
        budget, spent = self.settings.budget, self.tally.spent_before + self.tally.spent
        if budget is not None and spent >= Decimal(str(budget)):
            return BudgetExceeded(self._messages.spent(spent, cache=self._cache.directory.uri))
        return None


async def body_of(response: aiohttp.ClientResponse) -> bytes | None:
    """The body of a response, unpacked; None, and nothing more is read, where it is longer than LARGEST_BODY."""
    pieces, size = [], 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > LARGEST_BODY:
            response.close()
            return None
        pieces.append(piece)
    return b"".join(pieces)


def _reason(error: Exception) -> str:
    """Failure's reason for what aiohttp raised."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "connection"
    if isinstance(error, TimeoutError):
        return "timeout"
    broken = (aiohttp.ClientPayloadError, aiohttp.ClientResponseError)  # a body cut short; no HTTP
    return "malformed_reply" if isinstance(error, broken) else "connection"


def check_settings(settings: Http) -> None:
    """Raise ValueError for an address that is none or holds a secret, and for a budget that nothing counts towards."""
    place = f"the environment variable {settings.key_env} (http.key_env)"
    check_address(settings.base_url, setting="http.base_url", form="http(s)://HOST[:PORT]/v1", key_place=place)
    if settings.budget is not None and not settings.priced:
        raise ValueError(
            f"http.budget={settings.budget:g} with both prices 0 would never be reached; give http.price_prompt and "
            f"http.price_completion (money for a million tokens), or set budget to null"
        )


def check_address(url: str, *, setting: str, form: str, key_place: str) -> None:
    """Raise ValueError for an address that is none or holds a secret; `key_place` is where a secret belongs."""
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{setting}={shown!r} is no address; write {form}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            f"{setting}={shown!r} holds credentials or a query, and would be written into files; put the key into "
            f"{key_place} and write {form}"
        )
