"""OpenAI's protocol for batches, as far as a run needs it: upload, create, look, list, read, cancel.

Requests enter as lines of JSON; a batch's state and the lines of its results leave. What passes (429, 5xx, timeouts,
broken connections) is tried again here; a refusal raises BatchRefused with the server's words.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from mralign.config import Http
from mralign.serving.api_key import ApiKey
from mralign.serving.backoff import Clock, backoff_s
from mralign.serving.calls import failure_detail

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})


class BatchRefused(Exception):
    """The server does not take this: its words, the key blacked out. `missing`: it knows no such thing (404)."""

    def __init__(self, words: str, *, missing: bool = False) -> None:
        super().__init__(words)
        self.missing = missing


class BatchUnanswered(Exception):
    """No whole answer came, however often it was tried: what came last, the key blacked out."""


@dataclass(frozen=True)
class BatchState:
    """What a server says of a batch. `status` is one of ENDED when nothing more will come."""

    id: str
    status: str
    output_file: str = ""
    error_file: str = ""
    mark: str = ""  # our own name of the batch, from its metadata
    counts: Mapping[str, int] = field(default_factory=dict)
    words: str = ""  # why it failed

    @classmethod
    def of(cls, body: Any) -> BatchState:
        """Raises BatchRefused for what is no batch."""
        if not isinstance(body, dict) or not isinstance(body.get("id"), str):
            raise BatchRefused(f"no batch: {body!s:.300}")
        metadata, errors = body.get("metadata"), body.get("errors")
        return cls(
            id=body["id"],
            status=str(body.get("status", "")),
            output_file=body.get("output_file_id") or "",
            error_file=body.get("error_file_id") or "",
            mark=str(metadata.get("mralign", "")) if isinstance(metadata, dict) else "",
            counts=body.get("request_counts") or {},
            words=json.dumps(errors)[:500] if errors else "",
        )


class BatchApi:
    """The batches of one endpoint. `session` is opened by whoever asks, and closed there."""

    def __init__(self, settings: Http, *, key: ApiKey, clock: Clock | None = None) -> None:
        self.settings, self._key, self._clock = settings, key, clock or Clock()
        self._base_url = settings.base_url.rstrip("/")

    async def upload(self, session: aiohttp.ClientSession, *, name: str, lines: bytes) -> str:
        """The id of a new file with these lines."""

        def form() -> aiohttp.FormData:  # a form is sent once
            data = aiohttp.FormData()
            data.add_field("purpose", "batch")
            data.add_field("file", lines, filename=f"{name}.jsonl", content_type="application/jsonl")
            return data

        body = _json(await self._send(session, "POST", "/files", form=form))
        if not isinstance(body, dict) or not isinstance(body.get("id"), str):
            raise BatchRefused(f"no file: {self._words(str(body))}")
        return str(body["id"])

    async def create(self, session: aiohttp.ClientSession, *, file: str, path: str, mark: str) -> BatchState:
        """A new batch of an uploaded file, for the calls of one path; `mark` is our own name of it.

        It is asked for once: where the answer gets lost (BatchUnanswered), `find` tells whether it was made.
        """
        payload = {
            "input_file_id": file,
            "endpoint": f"/v1{path}",
            "completion_window": "24h",
            "metadata": {"mralign": mark},
        }
        return BatchState.of(_json(await self._send(session, "POST", "/batches", json_body=payload, tries=1)))

    async def look(self, session: aiohttp.ClientSession, batch: str) -> BatchState:
        """The batch as it stands."""
        return BatchState.of(_json(await self._send(session, "GET", f"/batches/{batch}")))

    async def find(self, session: aiohttp.ClientSession, *, mark: str) -> BatchState | None:
        """The batch of that mark, if the server has one that was not cancelled."""
        async for state in self._all(session):
            if state.mark == mark and state.status != "cancelled":
                return state
        return None

    async def cancel(self, session: aiohttp.ClientSession, batch: str) -> BatchState:
        """Cancel it; what it has answered by then can still be read."""
        return BatchState.of(_json(await self._send(session, "POST", f"/batches/{batch}/cancel")))

    async def lines(self, session: aiohttp.ClientSession, file: str) -> list[Any]:
        """The JSON values of a file's lines; a line that is none is left out. No file: no lines."""
        if not file:
            return []
        raw = await self._send(session, "GET", f"/files/{file}/content")
        found = []
        for line in raw.decode("utf-8", "replace").split("\n"):  # not at a U+2028 inside of a text
            try:
                found.append(json.loads(line))
            except (ValueError, RecursionError):
                continue
        return found

    async def _all(self, session: aiohttp.ClientSession) -> AsyncIterator[BatchState]:
        after = ""
        while True:
            page = f"&after={after}" if after else ""
            body = _json(await self._send(session, "GET", f"/batches?limit=100{page}"))
            rows = body.get("data") if isinstance(body, dict) else None
            for row in rows or ():
                yield BatchState.of(row)
            if not rows or not body.get("has_more"):
                return
            after = rows[-1]["id"]

    async def _send(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        *,
        form: Callable[[], aiohttp.FormData] | None = None,
        json_body: Any = None,
        tries: int | None = None,
    ) -> bytes:
        """The body of the answer; tried again for as long as that may help, at most `tries` times."""
        failed = 0
        while True:
            try:
                data = None if form is None else form()
                async with session.request(
                    method,
                    self._base_url + path,
                    data=data,
                    json=json_body,
                    headers=self._key.headers(),
                    allow_redirects=False,
                ) as response:
                    raw = await response.read()
                    if response.status == 200:
                        return raw
                    words = self._words(f"HTTP {response.status}: {raw.decode('utf-8', 'replace')}")
                    if response.status < 500 and response.status not in (408, 409, 425, 429):
                        raise BatchRefused(words, missing=response.status == 404)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                words = self._words(f"{type(error).__name__}: {error}")
            failed += 1
            if failed >= (tries or 1 + self.settings.max_retries):
                raise BatchUnanswered(words)
            wait = backoff_s(failed, longest_s=self.settings.max_backoff_s, draw=random.random())
            await self._clock.sleep(wait)

    def _words(self, text: str) -> str:
        return failure_detail(text, key=self._key)[:500]


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None
