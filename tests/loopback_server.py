"""An OpenAI-compatible server on 127.0.0.1, written on raw sockets, that fails as it is told to.

A plan names the fault of each try of each call; the server counts what it received, what it accepted (a whole, valid
answer that was written out) and what it charged (once for each `Idempotency-Key`). The answer to a prompt follows from
the prompt alone, so that a test can tell a right reply without the code under test.
"""

import asyncio
import gzip
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from enum import Enum, auto


class Fault(Enum):
    """What the server does with one request."""

    NONE = auto()
    BUSY = auto()  # 429
    BUSY_SECONDS = auto()  # 429 with Retry-After: 0.02
    BUSY_DATE = auto()  # 429 with Retry-After: an HTTP date that has passed
    LONG_PAUSE = auto()  # 429 with Retry-After: 3600
    ERROR_JSON = auto()  # 500 with a JSON body
    ERROR_TEXT = auto()  # 503 with plain text
    ECHO = auto()  # 500 that repeats the Authorization header
    ECHO_ANSWER = auto()  # a whole answer that repeats it
    HANG = auto()  # nothing, until the client leaves
    HANG_BODY = auto()  # headers, half of the body, then nothing
    TRUNCATED = auto()  # half of the body, then a proper end of the connection
    RESET = auto()  # charged, then a reset connection instead of an answer
    GARBAGE = auto()  # no HTTP at all
    ENDLESS = auto()  # 200 with a body that never ends
    BOMB = auto()  # 200 with a packed body of 100 KB that unpacks to 100 MB of blanks
    WRONG_JSON = auto()
    WRONG_TYPE = auto()  # 200 with HTML
    ERROR_IN_200 = auto()
    NO_CHOICES = auto()
    NO_USAGE = auto()
    NO_KEY = auto()  # 401 that repeats the header
    NO_MONEY = auto()  # 429 insufficient_quota
    BAD_REQUEST = auto()  # 400
    REDIRECT = auto()  # 307


@dataclass(frozen=True)
class Said:
    """A response of a gateway, word for word; `{credential}` in its body becomes what the request held."""

    status: int
    body: dict | list | str
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = "application/json"


PASSING = (
    *(Fault.BUSY, Fault.BUSY_SECONDS, Fault.BUSY_DATE, Fault.ERROR_JSON, Fault.ERROR_TEXT, Fault.ECHO, Fault.TRUNCATED),
    *(Fault.RESET, Fault.GARBAGE, Fault.WRONG_JSON, Fault.WRONG_TYPE, Fault.ERROR_IN_200, Fault.NO_CHOICES),
)
Plan = Callable[[str, int], Fault | Said]  # (prompt, number of this try from 0) -> fault


class Window:
    """A plan: so many requests in each window of so many seconds are answered, the others get `busy(seconds left)`."""

    def __init__(
        self, requests: int, seconds: float, *, busy: Callable[[float], Said], now: Callable[[], float] = time.monotonic
    ) -> None:
        self.requests, self.seconds, self.busy, self.now = requests, seconds, busy, now
        self.began, self.taken, self.refused = float("-inf"), 0, 0

    def __call__(self, prompt: str, attempt: int) -> Fault | Said:
        now = self.now()
        if now >= self.began + self.seconds:
            self.began, self.taken = now, 0
        if self.taken < self.requests:
            self.taken += 1
            return Fault.NONE
        self.refused += 1
        return self.busy(self.began + self.seconds - now)


def no_faults(prompt: str, attempt: int) -> Fault:
    return Fault.NONE


def random_faults(seed: int, *, share: float = 0.5, hangs: float = 0.02) -> Plan:
    """Faults that depend on the prompt and the try only, not on the order in which requests come."""

    def plan(prompt: str, attempt: int) -> Fault:
        dice = random.Random(f"{seed}:{prompt}:{attempt}")
        drawn = dice.random()
        if drawn < hangs:
            return dice.choice([Fault.HANG, Fault.HANG_BODY])
        return dice.choice(PASSING) if drawn < share else Fault.NONE

    return plan


def answer_to(prompt: str) -> str:
    return f"the answer to {prompt}, café ✓"


def tokens_of(prompt: str) -> tuple[int, int]:
    """Tokens of the prompt and of its completion, as the server counts them."""
    return len(prompt), 1 + len(prompt) % 7


class LoopbackServer:
    """`with LoopbackServer(plan) as server:` serves in a thread of its own; the counts are keyed by prompt."""

    def __init__(
        self,
        plan: Plan = no_faults,
        *,
        latency_s: float = 0.0,
        slow: str = "",
        after: dict[str, str] | None = None,
        prompt: Callable[[dict], str] | None = None,
        answer: Callable[[str], str] | None = None,
        port: int = 0,
    ) -> None:
        """Answers take up to `latency_s` seconds; those to the prompt `slow` a quarter of a second more; a prompt in
        `after` is answered once the one that it names has come. `prompt` says what of a payload counts as its prompt,
        `answer` what is answered to it."""
        self.plan, self.latency_s, self.slow, self.after = plan, latency_s, slow, after or {}
        self.prompt, self.answer = prompt or prompt_of, answer or answer_to
        self.received: Counter[str] = Counter()
        self.accepted: Counter[str] = Counter()
        self.charged: Counter[str] = Counter()
        self.keys: dict[str, set[str]] = {}
        self.connections = self.busy = self.most_busy = 0
        self.sent = 0  # bytes of bodies without end
        self.log: list[tuple[float, str, Fault | Said]] = []
        self.port = port  # 0: any that is free
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> "LoopbackServer":
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._in_loop(asyncio.start_server(self._serve, "127.0.0.1", self.port))
        self.port = self._server.sockets[0].getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self._in_loop(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _in_loop(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _stop(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while (head := await reader.readuntil(b"\r\n\r\n")) and await self._request(head, reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _request(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False ends the connection."""
        lines = head.decode().split("\r\n")
        headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines[1:] if line)}
        payload = json.loads(await reader.readexactly(int(headers["content-length"])))
        prompt = self.prompt(payload)
        fault = self.plan(prompt, self.received[prompt])
        self.received[prompt] += 1
        self.keys.setdefault(prompt, set()).add(headers.get("idempotency-key", ""))
        self.log.append((time.monotonic(), prompt, fault))
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        try:
            while prompt in self.after and not self.received[self.after[prompt]]:
                await asyncio.sleep(0.01)
            await asyncio.sleep(self.latency_s * random.random() + 0.25 * (prompt == self.slow))
            return await self._act(fault, prompt, headers.get("authorization", ""), reader, writer)
        finally:
            self.busy -= 1

    async def _act(self, fault: Fault | Said, prompt: str, credential: str, reader, writer) -> bool:
        if isinstance(fault, Said):
            text = fault.body if isinstance(fault.body, str) else json.dumps(fault.body)
            text = text.replace("{credential}", credential.removeprefix("Bearer "))
            headers = "".join(f"{name}: {value}\r\n" for name, value in fault.headers.items())
            writer.write(whole(fault.status, text, kind=fault.kind, headers=headers))
            await writer.drain()
            return True
        if fault in (Fault.HANG, Fault.HANG_BODY):
            if fault is Fault.HANG_BODY:
                writer.write(whole(200, body_of(prompt, self.answer(prompt)))[:-40])
            await reader.read()  # until the client gives up
            return False
        if fault in (Fault.RESET, Fault.TRUNCATED):
            self.charged[prompt] = 1  # the work was done: a server with idempotency keys charges it once
            if fault is Fault.TRUNCATED:
                writer.write(whole(200, body_of(prompt, self.answer(prompt)))[:-40])
                await writer.drain()
            else:
                writer.transport.abort()
            return False
        if fault is Fault.GARBAGE:
            writer.write(b"\x00\xffnot HTTP\r\n\r\n")
            return False
        if fault is Fault.ENDLESS:
            writer.write(b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
            piece = b" " * 2**16
            while True:  # until the client leaves: then drain raises ConnectionError
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await writer.drain()
                self.sent += len(piece)
        if fault is Fault.BOMB:
            packed = gzip.compress(b" " * 100_000_000)
            head = f"HTTP/1.1 200 X\r\nContent-Type: application/json\r\nContent-Length: {len(packed)}\r\n"
            writer.write(head.encode() + b"Content-Encoding: gzip\r\n\r\n" + packed)
            await writer.drain()
            return False
        writer.write(response_to(fault, prompt, credential, self.answer(prompt)))
        await writer.drain()
        if fault in (Fault.NONE, Fault.ECHO_ANSWER):
            self.charged[prompt] = 1
            self.accepted[prompt] += 1
        return True


def prompt_of(payload: dict) -> str:
    if "messages" in payload:
        return payload["messages"][-1]["content"]
    prompt = payload["prompt"]
    return prompt if isinstance(prompt, str) else ",".join(map(str, prompt))


def body_of(prompt: str, answer: str) -> dict:
    prompt_tokens, completion_tokens = tokens_of(prompt)
    choice = {"index": 0, "text": answer, "finish_reason": "stop", "token_ids": [5, 6, 7]}
    choice["message"] = {"role": "assistant", "content": answer}
    return {
        "id": "cmpl-1",
        "choices": [choice],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens},
    }


def whole(status: int, body: dict | str, *, kind: str = "application/json", headers: str = "") -> bytes:
    raw = (body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(raw)}\r\n{headers}\r\n"
    return head.encode() + raw


def response_to(fault: Fault, prompt: str, credential: str, answer: str) -> bytes:
    right, error = body_of(prompt, answer), {"error": {"message": "try later", "type": "server_error"}}
    echo = {"error": {"message": f"you sent {credential}; as a URL: ?k={credential.removeprefix('Bearer ')}"}}
    return {
        Fault.NONE: lambda: whole(200, right),
        Fault.BUSY: lambda: whole(429, error),
        Fault.BUSY_SECONDS: lambda: whole(429, error, headers="Retry-After: 0.02\r\n"),
        Fault.BUSY_DATE: lambda: whole(429, error, headers=f"Retry-After: {formatdate(usegmt=True)}\r\n"),
        Fault.LONG_PAUSE: lambda: whole(429, error, headers="Retry-After: 3600\r\n"),
        Fault.ERROR_JSON: lambda: whole(500, error),
        Fault.ERROR_TEXT: lambda: whole(503, "overloaded", kind="text/plain"),
        Fault.ECHO: lambda: whole(500, echo),
        Fault.ECHO_ANSWER: lambda: whole(200, right | {"system_fingerprint": credential}),
        Fault.WRONG_JSON: lambda: whole(200, json.dumps(right)[:-9]),
        Fault.WRONG_TYPE: lambda: whole(200, "<html>Bad gateway</html>", kind="text/html"),
        Fault.ERROR_IN_200: lambda: whole(200, error),
        Fault.NO_CHOICES: lambda: whole(200, right | {"choices": []}),
        Fault.NO_USAGE: lambda: whole(200, {"choices": right["choices"]}),
        Fault.NO_KEY: lambda: whole(401, echo),
        Fault.NO_MONEY: lambda: whole(429, {"error": {"code": "insufficient_quota", "message": credential}}),
        Fault.BAD_REQUEST: lambda: whole(400, {"error": {"message": f"no such field; you sent {credential}"}}),
        Fault.REDIRECT: lambda: whole(307, "", headers="Location: http://127.0.0.1:9/\r\n"),
    }[fault]()
