"""A server on 127.0.0.1 with OpenAI's Batch API, which misbehaves as it is told to, and live chats beside it.

It counts what it was given: uploads, batches, and by prompt how often it was asked in a batch and live. The answer to a
prompt follows from the prompt alone.
"""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class Plan:
    """What goes wrong. Numbers count how often; names of results are prompts."""

    lost_creates: int = 0  # a batch is made, and its answer is a 500
    refused_creates: int = 0  # 503, and none is made
    busy_uploads: int = 0  # 503
    no_batches: bool = False  # 404 for all of it
    status: str = "completed"  # how a batch ends
    looks: int = 2  # before it ends
    missing: frozenset[str] = frozenset()  # no line
    failed: frozenset[str] = frozenset()  # a line in the errors' file
    broken: frozenset[str] = frozenset()  # status 200, and an error inside
    twice: frozenset[str] = frozenset()  # a second, other answer
    strange: bool = False  # lines of unknown calls, and lines that are no JSON
    forgotten: bool = False  # 404 for a batch that is looked at
    never: bool = False  # batches never end
    wrong_key: bool = False  # 401 for a batch that is looked at


def answer_to(prompt):
    return f"answer to {prompt}"


def prompt_of(payload):
    return payload["messages"][-1]["content"]


def completion_of(answer):
    message = {"role": "assistant", "content": answer}
    usage = {"prompt_tokens": 1000, "completion_tokens": 100}
    return {"id": "c", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}


@dataclass
class BatchServer:
    """`with BatchServer(plan) as server:` serves in a thread of its own."""

    plan: Plan = field(default_factory=Plan)
    prompt: Callable[[dict], str] = prompt_of  # what of a request counts as its prompt
    answer: Callable[[str], str] = answer_to
    uploads: int = 0
    live: Counter = field(default_factory=Counter)
    batched: Counter = field(default_factory=Counter)
    files: dict = field(default_factory=dict)
    batches: dict = field(default_factory=dict)

    def __enter__(self):
        self._loop = asyncio.new_event_loop()
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
        app = web.Application(client_max_size=2**26)
        routes = [
            web.post("/v1/files", self._upload),
            web.get("/v1/files/{id}/content", self._content),
            web.post("/v1/batches", self._create),
            web.get("/v1/batches", self._list),
            web.get("/v1/batches/{id}", self._look),
            web.post("/v1/batches/{id}/cancel", self._cancel),
            web.post("/v1/chat/completions", self._chat),
        ]
        app.add_routes(routes)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.base_url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"

    async def _chat(self, request):
        prompt = self.prompt(await request.json())
        self.live[prompt] += 1
        return web.json_response(completion_of(self.answer(prompt)))

    async def _upload(self, request):
        if self.plan.no_batches:
            return web.json_response({"error": {"message": "no such route"}}, status=404)
        if self.plan.busy_uploads:
            self.plan.busy_uploads -= 1
            return web.Response(status=503)
        form = await request.post()
        assert form["purpose"] == "batch"
        self.uploads += 1
        name = f"file-{self.uploads}"
        self.files[name] = form["file"].file.read().decode()
        return web.json_response({"id": name, "object": "file"})

    async def _create(self, request):
        if self.plan.refused_creates:
            self.plan.refused_creates -= 1
            return web.Response(status=503)
        payload = await request.json()
        number = len(self.batches) + 1
        batch = {"id": f"batch-{number}", "status": "in_progress", "looks": 0, **payload}
        self.batches[batch["id"]] = batch
        for line in self.files[payload["input_file_id"]].splitlines():
            self.batched[self.prompt(json.loads(line)["body"])] += 1
        if self.plan.lost_creates:
            self.plan.lost_creates -= 1
            return web.Response(status=500)
        return web.json_response(self._shown(batch))

    async def _list(self, request):
        every = list(self.batches.values())[::-1]
        names = [batch["id"] for batch in every]
        start = names.index(request.query["after"]) + 1 if "after" in request.query else 0
        page = every[start : start + 1]  # one a page
        more = start + 1 < len(every)
        return web.json_response({"data": [self._shown(batch) for batch in page], "has_more": more})

    async def _look(self, request):
        batch = self.batches.get(request.match_info["id"])
        if self.plan.wrong_key:
            return web.json_response({"error": {"message": "wrong key"}}, status=401)
        if batch is None or self.plan.forgotten:
            return web.json_response({"error": {"message": "no such batch"}}, status=404)
        batch["looks"] += 1
        if batch["looks"] > self.plan.looks and batch["status"] == "in_progress" and not self.plan.never:
            batch["status"] = self.plan.status
            self._finish(batch)
        return web.json_response(self._shown(batch))

    async def _cancel(self, request):
        batch = self.batches[request.match_info["id"]]
        batch["status"] = "cancelled"
        return web.json_response(self._shown(batch))

    async def _content(self, request):
        return web.Response(text=self.files[request.match_info["id"]])

    def _shown(self, batch):
        names = ("id", "status", "metadata", "output_file_id", "error_file_id", "errors")
        return {name: batch[name] for name in names if name in batch}

    def _finish(self, batch):
        if batch["status"] == "failed":
            batch["errors"] = {"data": [{"code": "token_limit_exceeded", "message": "too many tokens are enqueued"}]}
            return
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        results, errors = self._results(lines)
        self.files[f"{batch['id']}-output"] = "\n".join(results)
        batch["output_file_id"] = f"{batch['id']}-output"
        self.files[f"{batch['id']}-errors"] = "\n".join(errors)
        batch["error_file_id"] = f"{batch['id']}-errors"

    def _results(self, lines):
        results, errors = [], []
        for line in reversed(lines):  # in another order
            name, prompt = line["custom_id"], self.prompt(line["body"])
            if prompt in self.plan.missing:
                continue
            if prompt in self.plan.failed:
                errors.append(result(name, status=500, body={"error": {"message": "it broke"}}))
            elif prompt in self.plan.broken:
                results.append(result(name, status=200, body={"error": {"message": "the provider failed"}}))
            else:
                results.append(result(name, status=200, body=completion_of(self.answer(prompt))))
            if prompt in self.plan.twice:
                results.append(result(name, status=200, body=completion_of("another one")))
        if self.plan.strange:
            results.insert(0, result("nobody's", status=200, body=completion_of("?")))
            results.insert(0, '{"custom_id": ')
            results.insert(0, "[1, 2]")
            results.insert(0, '{"custom_id": ["x"]}')
        return results, errors


def result(name, *, status, body):
    return json.dumps({"id": "r", "custom_id": name, "response": {"status_code": status, "body": body}, "error": None})
