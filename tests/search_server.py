"""A search endpoint on 127.0.0.1 that answers from a script: a list of answers a query, the last one for ever."""

import asyncio
import json
import threading
from collections import Counter

from aiohttp import web


class Answer:
    """A status, a body (JSON, or bytes as they are) and headers, after `hang` seconds; `echo` repeats that header of
    the request instead of the body."""

    def __init__(self, body=None, *, status=200, headers=None, hang=0.0, echo=""):
        self.body, self.status, self.headers, self.hang, self.echo = body, status, headers or {}, hang, echo


class SearchServer:
    """`with SearchServer(script) as server:` serves in a thread of its own; `script` is query -> its answers."""

    def __init__(self, script, *, port=0):
        self.port = port
        self.script, self.received, self.payloads, self.headers = script, Counter(), [], []
        self.busy = self.most_busy = 0
        self._loop = asyncio.new_event_loop()

    def __enter__(self):
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(self, *_):
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self):
        app = web.Application()
        app.router.add_post("/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v2/search/"

    async def _serve(self, request):
        payload = await request.json()
        query = payload["query"]
        answers = self.script(query)
        answer = answers[min(self.received[query], len(answers) - 1)]
        self.received[query] += 1
        self.payloads.append((request.path, payload))
        self.headers.append(dict(request.headers))
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        await asyncio.sleep(answer.hang)
        self.busy -= 1
        if answer.echo:
            body = json.dumps({"error": f"you sent {request.headers.get(answer.echo)}"}).encode()
        else:
            body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        return web.Response(
            body=body, status=answer.status, headers={"Content-Type": "application/json"} | answer.headers
        )


def hits(*texts):
    """A good answer with these texts."""
    return Answer({"results": [{"id": f"d{n}", "text": text, "score": 1.0 / (n + 1)} for n, text in enumerate(texts)]})
