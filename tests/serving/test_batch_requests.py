"""Calls through a server's Batch API, real HTTP on loopback: all are answered, paid once, half of it for a batch."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import pytest
from loopback_batches import BatchServer, Plan, answer_to
from python_path import python_path

from mralign.asking.interview import price
from mralign.config import Http
from mralign.run.forecast import chat_cost
from mralign.run.store import Directory
from mralign.serving.batch_requests import read_sent
from mralign.serving.calls import BudgetExceeded, Call, EndpointRefused, Reply
from mralign.serving.endpoint import Endpoint

PRICES = {"price_prompt": 1.0, "price_completion": 10.0}  # a call costs 0.002 live, 0.001 in a batch
LIVE, BATCHED = Decimal("0.002"), Decimal("0.001")


def settings(server, **changes):
    quick = {"batch_gather_s": 0.1, "batch_poll_s": 0.02, "max_backoff_s": 0.02, "max_retries": 3}
    return Http(base_url=server.base_url, batch=True, model="m", key_env="NO_SUCH_KEY", **{**quick, **changes})


def call(prompt):
    message = {"role": "user", "content": prompt}
    return Call(prompt, "/chat/completions", {"model": "m", "messages": [message], "max_tokens": 100})


PROMPTS = [f"p{number}" for number in range(12)]


async def ask(http, cache, *, prompts=PROMPTS):
    """Every prompt at once; by prompt what came, an exception included."""
    async with Endpoint(http, cache=Directory(str(cache))) as endpoint:
        came = await asyncio.gather(*(endpoint.complete(call(p)) for p in prompts), return_exceptions=True)
        return dict(zip(prompts, came, strict=True)), endpoint.tally


def said(reply):
    assert isinstance(reply, Reply), reply
    return reply.body["choices"][0]["message"]["content"]


FAULTS = {
    "none": (Plan(), 0),
    "lines": (
        Plan(
            missing=frozenset({"p1", "p2"}),
            failed=frozenset({"p3"}),
            broken=frozenset({"p4"}),
            twice=frozenset({"p5", "p6"}),
            strange=True,
        ),
        4,
    ),
    "expired": (Plan(status="expired", missing=frozenset(PROMPTS[6:])), 6),
    "failed": (Plan(status="failed"), 12),
    "cancelled": (Plan(status="cancelled", missing=frozenset(PROMPTS[:3])), 3),
    "busy": (Plan(busy_uploads=2, refused_creates=2), 0),
    "lost": (Plan(lost_creates=1), 0),
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_call_is_answered_and_paid_once(name, tmp_path):
    plan, live = FAULTS[name]
    with BatchServer(plan) as server:
        came, tally = asyncio.run(ask(settings(server, **PRICES), tmp_path))
        assert {prompt: said(reply) for prompt, reply in came.items()} == {p: answer_to(p) for p in PROMPTS}
        assert len(server.batches) == server.uploads == 1 and set(server.batched.values()) == {1}
        assert sum(server.live.values()) == len(server.live) == live
        assert tally.spent == live * LIVE + (12 - live) * BATCHED
        assert (tally.batched, tally.accepted) == (12 - live, 12)
        again, tally = asyncio.run(ask(settings(server, **PRICES), tmp_path))
        assert {said(reply) for reply in again.values()} == set(map(answer_to, PROMPTS))
        assert tally.spent == 0 and tally.spent_before == live * LIVE + (12 - live) * BATCHED
        assert server.uploads == 1


def test_batches_hold_so_many_requests_and_no_more(tmp_path):
    with BatchServer() as server:
        asyncio.run(ask(settings(server, batch_requests=5), tmp_path))
        sizes = [len(server.files[batch["input_file_id"]].splitlines()) for batch in server.batches.values()]
        assert sorted(sizes) == [2, 5, 5] and not server.live


def test_a_batch_has_a_line_a_call_as_the_protocol_wants_it(tmp_path):
    with BatchServer() as server:
        asyncio.run(ask(settings(server), tmp_path, prompts=["\u2028 two\nlines \U0001f600"]))
        (batch,) = server.batches.values()
        (line,) = server.files[batch["input_file_id"]].split("\n")[:-1]
    line, text = json.loads(line), "\u2028 two\nlines \U0001f600"
    assert (line["method"], line["url"], line["body"]) == ("POST", "/v1/chat/completions", call(text).payload)
    assert (batch["endpoint"], batch["completion_window"]) == ("/v1/chat/completions", "24h")


@pytest.mark.parametrize("status", ["completed", "expired"])
def test_a_run_that_was_ended_finds_its_batch_again(status, tmp_path):
    with BatchServer(Plan(never=True, status=status, missing=frozenset({"p7"}))) as server:
        http = settings(server)

        async def ended():
            async with Endpoint(http, cache=Directory(str(tmp_path))) as endpoint:
                tasks = [asyncio.create_task(endpoint.complete(call(p))) for p in PROMPTS]
                while not [sent for sent in read_sent(Directory(str(tmp_path))) if sent.id]:
                    await asyncio.sleep(0.02)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run(ended())
        server.plan.never = False
        came, tally = asyncio.run(ask(http, tmp_path))
        assert [said(came[p]) for p in PROMPTS] == [answer_to(p) for p in PROMPTS]
        assert server.uploads == len(server.batches) == 1
        assert dict(server.live) == {"p7": 1} and tally.batched == 11
        assert all(sent.done for sent in read_sent(Directory(str(tmp_path))))


@pytest.mark.parametrize("made", [True, False])
def test_a_batch_whose_creation_was_not_seen_is_looked_for_at_the_server(made, tmp_path):
    """Killed between the request and its answer: the server has made it, or has not."""
    with BatchServer(Plan(never=True)) as server:
        http = settings(server)
        asyncio.run(_until_it_is_made(http, tmp_path))
        cache = Directory(str(tmp_path))
        (sent,) = read_sent(cache)
        cache.write_text(f"batches/{sent.mark}.state", json.dumps({**vars(sent), "id": ""}))
        if not made:
            server.batches.clear()
            server.batched.clear()
        server.plan.never = False
        came, _ = asyncio.run(ask(http, tmp_path))
        assert [said(came[p]) for p in PROMPTS] == [answer_to(p) for p in PROMPTS]
        assert len(server.batches) == (1 if made else 0)
        assert sum(server.live.values()) == (0 if made else 12)


async def _until_it_is_made(http, place):
    async with Endpoint(http, cache=Directory(str(place))) as endpoint:
        tasks = [asyncio.create_task(endpoint.complete(call(p))) for p in PROMPTS]
        while not [sent for sent in read_sent(Directory(str(place))) if sent.id]:
            await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_a_batch_that_the_server_has_forgotten_is_asked_live(tmp_path):
    with BatchServer(Plan(never=True)) as server:
        http = settings(server)
        asyncio.run(_until_it_is_made(http, tmp_path))
        server.plan.forgotten = True
        came, _ = asyncio.run(ask(http, tmp_path))
        assert [said(came[p]) for p in PROMPTS] == [answer_to(p) for p in PROMPTS]
        assert len(server.batches) == 1 and len(server.live) == 12


def test_a_wrong_key_loses_no_batch(tmp_path):
    with BatchServer(Plan(never=True)) as server:
        http = settings(server)
        asyncio.run(_until_it_is_made(http, tmp_path))
        server.plan.wrong_key = True
        came, _ = asyncio.run(ask(http, tmp_path))
        assert all(isinstance(reason, EndpointRefused) for reason in came.values())
        assert "HTTP 401" in str(came["p0"]) and not server.live
        server.plan.wrong_key = server.plan.never = False
        came, _ = asyncio.run(ask(http, tmp_path))
        assert [said(came[p]) for p in PROMPTS] == [answer_to(p) for p in PROMPTS]
        assert server.uploads == len(server.batches) == 1 and not server.live


SCRIPT = """
import asyncio, sys
sys.path[:0] = {path!r}
from serving.test_batch_requests import ask
from mralign.asking.interview import price
from mralign.config import Http
from mralign.run.forecast import chat_cost
asyncio.run(ask(Http.model_validate_json(sys.argv[1]), sys.argv[2]))
"""


def test_kill_9_while_a_batch_is_waited_for(tmp_path):
    here = Path(__file__).parents[1]
    script = SCRIPT.format(path=[str(here), str(here.parent)])
    with BatchServer(Plan(never=True)) as server:
        http = settings(server)
        command = [sys.executable, "-c", script, http.model_dump_json(), str(tmp_path)]
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": python_path(here.parent)})
        end = time.monotonic() + 60
        while not [sent for sent in read_sent(Directory(str(tmp_path))) if sent.id]:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        server.plan.never = False
        came, _ = asyncio.run(ask(http, tmp_path))
        assert [said(came[p]) for p in PROMPTS] == [answer_to(p) for p in PROMPTS]
        assert server.uploads == len(server.batches) == 1 and not server.live


def test_a_budget_is_held_before_the_upload(tmp_path):
    """A call is taken to cost 0.0005, and costs twice that, as the server counts more of its prompt: one batch of 8."""
    with BatchServer() as server:
        http = settings(server, budget=0.0042, **PRICES)
        came, tally = asyncio.run(ask(http, tmp_path))
        answered = [p for p in PROMPTS if isinstance(came[p], Reply)]
        stopped = [came[p] for p in PROMPTS if p not in answered]
        assert len(answered) == 8 and tally.spent == 8 * BATCHED
        assert stopped and all(isinstance(reason, BudgetExceeded) for reason in stopped)
        assert "Raise http.budget and run the same command again" in str(stopped[0])
        assert not server.live
        came, tally = asyncio.run(ask(settings(server, budget=1, **PRICES), tmp_path))
        assert [said(came[p]) for p in PROMPTS] == [answer_to(p) for p in PROMPTS]
        assert set(server.batched.values()) == {1}


def test_the_most_that_a_call_can_cost_has_the_dearer_price_of_its_prompt():
    prices = {"price_prompt": 2.0, "price_completion": 10.0, "price_cached": 0.2}
    asked = {"prompt": 1_000_000, "completion": 100_000}
    assert Http(**prices).most_money(**asked) == 3
    assert Http(**prices, price_cache_write=2.5).most_money(**asked) == Decimal("3.5")
    assert Http(**prices, price_cache_write=1.0).most_money(**asked) == 3


def test_a_server_without_batches_is_named_and_no_call_is_made(tmp_path):
    with BatchServer(Plan(no_batches=True)) as server:
        came, _ = asyncio.run(ask(settings(server), tmp_path))
        assert all(isinstance(reason, EndpointRefused) for reason in came.values())
        assert "takes no batch: HTTP 404" in str(came["p0"]) and "http.batch=false" in str(came["p0"])
        assert not server.live
        came, _ = asyncio.run(ask(settings(server).model_copy(update={"batch": False}), tmp_path))
        assert len(server.live) == 12  # nothing of it is in the way afterwards


def test_the_price_of_a_batch_is_in_every_forecast():
    asked = {"prompt_tokens": 1_000_000, "completion_tokens": 100_000}
    http = Http(**PRICES, batch=True)
    assert price(asked, http=http.live) == chat_cost("a", http=http.live, requests=1, **asked).money == 2.0
    assert price(asked, http=http) == chat_cost("a", http=http, requests=1, **asked).money == 1.0
