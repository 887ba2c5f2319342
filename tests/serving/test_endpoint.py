"""The HTTP engine against a server on loopback that fails in every way it knows; the server's counts are the oracle."""

import asyncio
import itertools
import json
import logging
import pickle
import random
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from decimal import Decimal
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback_server import Fault, LoopbackServer, answer_to, no_faults, random_faults, tokens_of

from mralign.config import Decoding, Http
from mralign.run.store import Directory
from mralign.serving.api_key import ApiKey
from mralign.serving.backoff import backoff_s, retry_after_s
from mralign.serving.calls import BudgetExceeded, Call, EndpointRefused, Failure, Reply, Stopped, failure_detail
from mralign.serving.completions import Completion, completion_payload, read_completion
from mralign.serving.endpoint import Endpoint
from mralign.serving.response_cache import ResponseCache, call_key

KEY = "sk-loopback/0123456789+abcdef=="
UNIT = 1e6  # a price at which every token costs 1


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("LOOPBACK_KEY", KEY)


def settings(server, **values):
    base = {"base_url": server.base_url, "key_env": "LOOPBACK_KEY", "concurrency": 8, "timeout_s": 30}
    return Http(**base | {"max_retries": 40, "max_backoff_s": 0.02} | values)


def call(name, **payload):
    return Call(f"row/{name}", "/completions", {"model": "m", "prompt": name, "seed": 1} | payload)


def calls(count):
    return [call(f"prompt {i}") for i in range(count)]


def cache(tmp_path):
    return Directory(str(tmp_path / "run" / "http"))


def entries(tmp_path):
    return sorted((tmp_path / "run" / "http").glob("*/*.json"))


class Run:
    """What one pass over the calls gave: results by prompt, how it ended, and the endpoint's tally."""

    def __init__(self, http, *, tmp_path, wanted, clock=None):
        self.results, self.end = {}, None
        self.tally = asyncio.run(self._run(http, cache(tmp_path), wanted, clock))

    async def _run(self, http, directory, wanted, clock):
        async with Endpoint(http, cache=directory, clock=clock) as endpoint:
            try:
                async for done, result in endpoint.stream(wanted):
                    assert done.payload["prompt"] not in self.results
                    self.results[done.payload["prompt"]] = result
            except ValueError as error:
                self.end = error
            return endpoint.tally


def one(server, tmp_path, fault, **values):
    """The result of a call whose every try meets `fault`, in a fresh cache."""
    server.plan = lambda *_: fault
    run = Run(settings(server, **{"max_retries": 2} | values), tmp_path=tmp_path, wanted=[call("p")])
    return run.results.get("p", run.end)


# --- Faults ---


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
def test_nothing_is_lost_and_nothing_is_accepted_twice_whatever_the_server_does(tmp_path, seed):
    wanted = calls(300)
    with LoopbackServer(random_faults(seed, hangs=0.01), latency_s=0.005) as server:
        run = Run(settings(server, concurrency=16, timeout_s=3), tmp_path=tmp_path, wanted=wanted)
        assert run.end is None
        assert {p: r.body["choices"][0]["text"] for p, r in run.results.items()} == {
            c.payload["prompt"]: answer_to(c.payload["prompt"]) for c in wanted
        }
        assert set(server.accepted.values()) == {1} and len(server.accepted) == 300
        assert set(server.charged.values()) == {1}
        assert all(len(keys) == 1 for keys in server.keys.values())
        assert len({k for keys in server.keys.values() for k in keys}) == 300
        assert server.most_busy <= 16
        # The endpoint's own counts, against the server's.
        tally, tokens = run.tally, [tokens_of(c.payload["prompt"]) for c in wanted]
        assert tally.requests == server.received.total() == 300 + tally.retries.total()
        assert (tally.accepted, tally.cached, tally.failed) == (300, 0, 0)
        assert (tally.prompt_tokens, tally.completion_tokens) == tuple(map(sum, zip(*tokens, strict=True)))
        assert {r.tries for r in run.results.values()} == set(server.received.values())
        assert set(tally.retries) == {"rate_limited", "server_error", "timeout", "connection", "malformed_reply"}
        # A second pass asks for nothing.
        before = server.received.total()
        again = Run(settings(server, concurrency=16), tmp_path=tmp_path, wanted=wanted)
        assert server.received.total() == before and again.tally.cached == 300 and again.tally.requests == 0
        assert {p: r.body for p, r in again.results.items()} == {p: r.body for p, r in run.results.items()}
        assert all(r.cached and r.tries == 0 for r in again.results.values())


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.ERROR_JSON, "server_error"),
        (Fault.ERROR_TEXT, "server_error"),
        (Fault.HANG, "timeout"),
        (Fault.HANG_BODY, "timeout"),
        (Fault.TRUNCATED, "malformed_reply"),
        (Fault.GARBAGE, "malformed_reply"),
        (Fault.WRONG_JSON, "malformed_reply"),
        (Fault.WRONG_TYPE, "malformed_reply"),
        (Fault.ERROR_IN_200, "malformed_reply"),
        (Fault.NO_CHOICES, "malformed_reply"),
    ],
)
def test_a_fault_that_stays_is_a_failure_with_its_reason_after_all_tries_and_is_not_kept(tmp_path, fault, reason):
    with LoopbackServer() as server:
        result = one(server, tmp_path, fault, timeout_s=0.3 if "HANG" in fault.name else 30)
        assert isinstance(result, Failure) and result.reason == reason
        assert server.received["p"] == 3 and entries(tmp_path) == []


def test_a_refused_call_is_asked_once_and_the_others_go_on(tmp_path):
    with LoopbackServer(lambda prompt, _: Fault.BAD_REQUEST if prompt.endswith("3") else Fault.NONE) as server:
        run = Run(settings(server), tmp_path=tmp_path, wanted=calls(20))
        assert {p for p, r in run.results.items() if isinstance(r, Failure)} == {"prompt 3", "prompt 13"}
        assert run.results["prompt 3"].reason == "refused" and server.received["prompt 3"] == 1
        assert run.results["prompt 3"].detail.startswith("HTTP 400")
        assert run.tally.failed == 2 and len(server.accepted) == 18


def test_a_detail_is_bounded_and_the_key_is_blacked_out_before_it_is_cut():
    key = ApiKey("E", KEY)
    for start in range(1960, 2001):
        detail = failure_detail("x" * start + KEY + "y" * 100, key=key)
        assert len(detail) <= 2000 and "sk-" not in detail


# --- What ends the run ---


@pytest.mark.parametrize("fault", [Fault.NO_KEY, Fault.NO_MONEY])
def test_a_refused_key_ends_the_run_and_the_message_names_the_variable(tmp_path, fault):
    with LoopbackServer(lambda prompt, _: fault if prompt == "prompt 9" else Fault.NONE) as server:
        run = Run(settings(server, concurrency=2), tmp_path=tmp_path, wanted=calls(100))
        assert isinstance(run.end, EndpointRefused) and "LOOPBACK_KEY" in str(run.end) and KEY not in str(run.end)
        assert server.received["prompt 9"] == 1 and server.received.total() <= 12
        assert len(run.results) == server.accepted.total() == len(entries(tmp_path))  # those in flight are not lost


def test_an_endpoint_that_never_answered_ends_the_run(tmp_path):
    with LoopbackServer() as server:
        gone = settings(server, max_retries=2)
    run = Run(gone, tmp_path=tmp_path, wanted=calls(3))
    assert isinstance(run.end, EndpointRefused) and gone.base_url in str(run.end)


def test_usage_is_needed_only_where_money_is_counted(tmp_path):
    with LoopbackServer() as server:
        free = one(server, tmp_path / "free", Fault.NO_USAGE)
        assert isinstance(free, Reply) and (free.prompt_tokens, free.completion_tokens) == (0, 0)
        priced = one(server, tmp_path / "priced", Fault.NO_USAGE, price_prompt=1)
        assert isinstance(priced, EndpointRefused) and "price" in str(priced)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"base_url": "127.0.0.1:8000/v1"}, "no address"),
        ({"base_url": f"http://me:{KEY}@host/v1".replace("/0", "0")}, "credentials"),
        ({"base_url": "http://host/v1?key=secret-in-query"}, "credentials"),
        ({"budget": 1.0}, "price"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_before_anything_is_sent(tmp_path, values, said):
    with pytest.raises(ValueError, match=said) as caught:
        Endpoint(Http(**values), cache=cache(tmp_path))
    assert "0123456789" not in str(caught.value) and "secret" not in str(caught.value)


def test_a_variable_that_holds_no_key_is_refused_without_being_shown(monkeypatch):
    monkeypatch.setenv("LOOPBACK_KEY", "sk-secret\r\nX-Other: 1")
    with pytest.raises(ValueError, match="LOOPBACK_KEY") as caught:
        ApiKey.from_environment("LOOPBACK_KEY")
    assert "secret" not in str(caught.value)


# --- Waiting ---


class FakeClock:
    """A Clock whose time passes only while somebody sleeps, and then at once."""

    def __init__(self):
        self.time = 0.0

    def now(self):
        return self.time

    async def sleep(self, seconds):
        until = self.time + seconds
        await asyncio.sleep(0.2 if seconds > 60 else 0)  # let what is in flight arrive before an hour passes
        self.time = max(self.time, until)


def test_a_pause_that_one_request_is_asked_for_holds_for_all(tmp_path):
    clock, sent_at = FakeClock(), {}

    def plan(prompt, attempt):
        sent_at.setdefault(prompt, []).append(clock.time)
        return Fault.LONG_PAUSE if prompt == "prompt 5" and attempt == 0 else Fault.NONE

    with LoopbackServer(plan) as server:
        run = Run(settings(server, concurrency=4), tmp_path=tmp_path, wanted=calls(40), clock=clock)
        assert run.end is None and len(run.results) == 40
        early = {p for p, times in sent_at.items() if times[0] < 3600}
        assert "prompt 5" in early and len(early) <= 6 + 3  # those before it, and what was in flight with it
        assert sent_at["prompt 5"][1] >= 3600
        assert set(server.accepted.values()) == {1}


@pytest.mark.parametrize("count", [2, 3])
def test_the_budget_does_not_wait_for_a_pause(tmp_path, count):
    """A call that was told to come back in an hour has nothing in flight: the run stops without it, and soon."""

    def plan(prompt, attempt):
        return Fault.LONG_PAUSE if prompt == "prompt 0" else Fault.NONE

    # A pause that came before the other call is sent would rightly hold that one back.
    with LoopbackServer(plan, slow="prompt 1", after={"prompt 0": "prompt 1"}) as server:
        http = settings(server, concurrency=2, price_prompt=UNIT, budget=1)
        run = Run(http, tmp_path=tmp_path, wanted=calls(count))
        assert isinstance(run.end, BudgetExceeded) and set(run.results) == {"prompt 1"}


@pytest.mark.parametrize("fault", [Fault.NONE, Fault.NO_KEY])
def test_what_stops_one_stream_wakes_the_others_and_single_calls_out_of_a_pause(tmp_path, fault):
    """Several streams share an endpoint; the spent budget or refused key that one of them meets is every one's."""

    def plan(prompt, attempt):
        return fault if prompt == "spends" else Fault.LONG_PAUSE

    async def end_of(endpoint, prompt):
        try:
            async for _ in endpoint.stream([call(prompt)]):
                pass
        except Stopped as stop:
            return type(stop)

    async def all_three():
        http = settings(server, price_prompt=UNIT, budget=1)
        async with Endpoint(http, cache=cache(tmp_path)) as endpoint:
            spends = asyncio.create_task(end_of(endpoint, "spends"))
            while not server.received["spends"]:  # else the pause of another could come before it is sent
                await asyncio.sleep(0.001)
            single = asyncio.create_task(endpoint.complete(call("single")))
            ends = await asyncio.gather(spends, end_of(endpoint, "rests"))
            with pytest.raises(Stopped):
                await single
            return ends

    with LoopbackServer(plan, slow="spends") as server:
        ends = asyncio.run(asyncio.wait_for(all_three(), 20))
        # Whoever comes second meets the first one's pause, and need not be sent at all.
        assert set(server.received.values()) == {1} and {"spends"} < set(server.received)
    # The stream that spends the budget has no more to ask, and ends in peace.
    assert ends == ([EndpointRefused] * 2 if fault is Fault.NO_KEY else [None, BudgetExceeded])


def test_calls_are_drawn_only_when_there_is_room_for_them(tmp_path):
    drawn = itertools.count()

    async def ahead():
        wanted = (call(f"prompt {next(drawn)}") for _ in itertools.repeat(None))  # without end
        async with Endpoint(settings(server, concurrency=4), cache=cache(tmp_path)) as endpoint:
            stream = endpoint.stream(wanted)
            for _ in range(50):
                await anext(stream)
            await stream.aclose()
        return next(drawn) - 50

    with LoopbackServer() as server:
        assert asyncio.run(asyncio.wait_for(ahead(), 20)) <= 4


@given(st.integers(1, 10_000), st.floats(0.001, 1e6), st.floats(0, 1, exclude_max=True))
def test_backoff_lies_between_nothing_and_the_longest(failures, longest_s, draw):
    wait = backoff_s(failures, longest_s=longest_s, draw=draw)
    assert 0 <= wait <= longest_s
    assert wait == 0 or draw > 0
    assert wait <= 0.5 * 2.0 ** (failures - 1) if failures < 1000 else True
    assert backoff_s(failures + 1, longest_s=longest_s, draw=draw) >= wait


def test_backoff_is_spread_over_its_whole_range():
    dice = random.Random(0)
    waits = [backoff_s(4, longest_s=60, draw=dice.random()) for _ in range(4000)]
    assert Counter(int(w) for w in waits).keys() == {0, 1, 2, 3}  # 0.5 · 2^3 = 4 s
    assert abs(sum(waits) / len(waits) - 2) < 0.1


@given(st.integers(0, 10**6))
def test_retry_after_in_seconds(seconds):
    assert retry_after_s({"Retry-After": f" {seconds} "}, now=0) == seconds


@given(st.integers(10**9, 2 * 10**9), st.integers(-1000, 100_000), st.none() | st.integers(-5000, 5000))
def test_retry_after_as_a_date_is_read_against_the_servers_clock(now, ahead, skew):
    """`skew` is how far the server's clock is off; without a Date header the two clocks are taken to agree."""
    server = now + (skew or 0)
    headers = {"Retry-After": formatdate(server + ahead, usegmt=True)}
    if skew is not None:
        headers["Date"] = formatdate(server, usegmt=True)
    assert retry_after_s(headers, now=now) == max(0, ahead)


@given(st.text() | st.sampled_from(["-1", "nan", "inf", "1e999", "", "soon", "Mon, 99 Foo 2020", "1;2"]))
def test_retry_after_that_makes_no_sense_is_none_or_a_wait(value):
    seconds = retry_after_s({"Retry-After": value}, now=0)
    assert seconds is None or 0 <= seconds < float("inf")


# --- Budget ---


@pytest.mark.parametrize("concurrency", [1, 4, 16])
@pytest.mark.parametrize("faulty", [False, True])
def test_the_budget_stops_exact_to_one_request_a_connection_and_goes_on_when_raised(tmp_path, concurrency, faulty):
    """Every reply costs its prompt: 8 or 9. What is spent is summed from the server's own count."""
    wanted = calls(60)

    def run(budget):
        http = settings(server, concurrency=concurrency, price_prompt=UNIT, budget=budget)
        return Run(http, tmp_path=tmp_path, wanted=wanted)

    def spent():
        return sum(tokens_of(prompt)[0] * count for prompt, count in server.accepted.items())

    plan = random_faults(3, share=0.4, hangs=0) if faulty else no_faults
    with LoopbackServer(plan, latency_s=0.005) as server:
        for budget in (100, 101, 300):
            before = spent()
            stopped = run(budget)
            assert isinstance(stopped.end, BudgetExceeded) and f"http.budget={budget}" in str(stopped.end)
            assert budget <= spent() < budget + 9 * concurrency
            assert str(spent()) in str(stopped.end)
            assert stopped.tally.spent == spent() - before and stopped.tally.spent_before == before
            assert len(entries(tmp_path)) == server.accepted.total()
            assert set(stopped.results) <= set(server.accepted)
        rest = run(None)
        assert rest.end is None and len(rest.results) == 60
        assert set(server.accepted.values()) == {1} and len(server.accepted) == 60
        assert rest.tally.spent_before + rest.tally.spent == spent()


def test_a_spent_budget_sends_nothing_and_a_budget_of_zero_neither(tmp_path):
    with LoopbackServer() as server:
        assert isinstance(one(server, tmp_path, Fault.NONE, price_prompt=UNIT, budget=0), BudgetExceeded)
        assert server.received.total() == 0
        assert isinstance(one(server, tmp_path, Fault.NONE, price_prompt=UNIT, budget=0.5), Reply)
        http = settings(server, price_prompt=UNIT, budget=0.5)
        run = Run(http, tmp_path=tmp_path, wanted=[call("p"), call("q")])  # p is there already, q would cost
        assert run.results["p"].cached and isinstance(run.end, BudgetExceeded) and server.received.total() == 1


def test_money_is_summed_without_rounding(tmp_path):
    """Prices of a tenth of a millionth: a sum of floats would miss the exact value."""
    with LoopbackServer() as server:
        http = settings(server, price_prompt=0.1, price_completion=0.3)
        run = Run(http, tmp_path=tmp_path, wanted=calls(50))
        tokens = [tokens_of(c.payload["prompt"]) for c in calls(50)]
        assert run.tally.spent == sum(Decimal(p) + 3 * Decimal(c) for p, c in tokens) / 10**7
        assert json.dumps(run.tally.figures())


# --- Cache ---


def test_equal_calls_at_once_are_sent_once(tmp_path):
    async def ask():
        async with Endpoint(settings(server), cache=cache(tmp_path)) as endpoint:
            return await asyncio.gather(*(endpoint.complete(call("same")) for _ in range(20)))

    with LoopbackServer(lambda _, attempt: Fault.ERROR_JSON if attempt < 2 else Fault.NONE, latency_s=0.05) as server:
        replies = asyncio.run(ask())
        assert server.accepted == {"same": 1} and server.received == {"same": 3}
        assert Counter(r.cached for r in replies) == {False: 1, True: 19}
        assert {r.body["choices"][0]["text"] for r in replies} == {answer_to("same")}


def test_an_equal_call_goes_on_when_the_first_is_cancelled(tmp_path):
    async def ask():
        async with Endpoint(settings(server), cache=cache(tmp_path)) as endpoint:
            first = asyncio.create_task(endpoint.complete(call("same")))
            second = asyncio.create_task(endpoint.complete(call("same")))
            while not server.received:
                await asyncio.sleep(0.01)
            first.cancel()
            return await second

    with LoopbackServer(lambda _, attempt: Fault.NONE if attempt else Fault.HANG) as server:
        assert isinstance(asyncio.run(ask()), Reply)


def test_the_key_of_a_call_changes_with_everything_that_matters_and_with_nothing_else():
    base = call_key(call("p"), base_url="http://a/v1")
    chat = Call("row/p", "/chat/completions", call("p").payload)
    others = [
        call_key(call("p"), base_url="http://b/v1"),
        call_key(chat, base_url="http://a/v1"),
        *(
            call_key(call("p", **{name: value}), base_url="http://a/v1")
            for name, value in [
                ("model", "n"),
                ("seed", 2),
                ("prompt", [1, 2]),
                ("top_p", 0.5),
                ("response_format", {}),
            ]
        ),
    ]
    assert len({base, *others}) == 8
    shuffled = Call("another row", "/completions", dict(reversed(call("p").payload.items())))
    assert call_key(shuffled, base_url="http://a/v1") == base


@pytest.mark.parametrize("spoil", [b"", b"{", b"[]", b'{"key": 1}', b"\xff\xfe", None])
def test_an_entry_that_cannot_be_read_counts_as_absent(tmp_path, spoil):
    with LoopbackServer() as server:
        http = settings(server, price_prompt=UNIT)
        Run(http, tmp_path=tmp_path, wanted=[call("p"), call("q")])
        at = {json.loads(e.read_text())["row_id"]: e for e in entries(tmp_path)}
        at["row/p"].write_bytes(at["row/q"].read_bytes() if spoil is None else spoil)
        run = Run(http, tmp_path=tmp_path, wanted=[call("p"), call("q")])
        assert run.tally.spent_before == 1 and run.results["p"].body["choices"][0]["text"] == answer_to("p")
        assert server.accepted == {"p": 2, "q": 1}
        assert ResponseCache(cache(tmp_path)).spent() == 2


def test_an_error_of_the_file_system_is_not_taken_for_an_absent_entry(tmp_path):
    with LoopbackServer() as server:
        Run(settings(server), tmp_path=tmp_path, wanted=[call("p")])
        entry = entries(tmp_path)[0]
        entry.unlink()
        entry.mkdir()
        with pytest.raises(OSError, match="directory"):
            Run(settings(server), tmp_path=tmp_path, wanted=[call("p")])
        assert server.accepted == {"p": 1}


KILLED = """
import asyncio, sys
from mralign.config import Http
from mralign.serving.calls import Call
from mralign.serving.endpoint import Endpoint
from mralign.run.store import Directory

async def main(base_url, directory, seen):
    http = Http(base_url=base_url, key_env="LOOPBACK_KEY", concurrency=8, max_retries=40, max_backoff_s=0.02)
    calls = (Call(f"row/{i}", "/completions", {"model": "m", "prompt": f"prompt {i}", "seed": 1}) for i in range(200))
    async with Endpoint(http, cache=Directory(directory)) as endpoint:
        with open(seen, "a") as out:
            async for call, reply in endpoint.stream(calls):
                print(call.payload["prompt"], file=out, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    seen = tmp_path / "seen"
    with LoopbackServer(random_faults(4, share=0.3, hangs=0), latency_s=0.02) as server:
        for kill_at in (30, 90, 150):
            process = subprocess.Popen(
                [sys.executable, "-c", KILLED, server.base_url, str(tmp_path / "run" / "http"), str(seen)],
                cwd=Path(__file__).parents[2],
            )
            while server.accepted.total() < kill_at and process.poll() is None:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            process.wait()
            kept = {json.loads(e.read_text())["row_id"].replace("row/", "prompt ") for e in entries(tmp_path)}
            assert len(server.accepted) - len(kept) <= 8  # accepted, not yet on disk: one a connection
            assert set(seen.read_text().splitlines()) <= kept
        run = Run(settings(server), tmp_path=tmp_path, wanted=calls(200))
        assert len(run.results) == 200 and len(entries(tmp_path)) == 200
        assert set(server.accepted) == {c.payload["prompt"] for c in calls(200)}
        assert server.accepted.total() - 200 <= 3 * 8 and set(server.charged.values()) == {1}


# --- The key ---


def test_the_key_is_in_no_file_no_log_no_message_and_no_repr(tmp_path, caplog):
    """Errors, refusals and even whole answers repeat the key; everything the run leaves behind is searched for it."""
    faults = {"prompt 1": Fault.BAD_REQUEST, "prompt 2": Fault.ECHO, "prompt 3": Fault.ECHO_ANSWER}
    to_file = logging.FileHandler(tmp_path / "run.log")
    logging.getLogger().addHandler(to_file)
    caplog.set_level(logging.DEBUG)
    try:
        with LoopbackServer(lambda prompt, _: faults.get(prompt, Fault.NONE)) as server:
            http = settings(server, max_retries=2)
            run = Run(http, tmp_path=tmp_path, wanted=calls(10))
            assert len(run.results) == 10 and isinstance(run.results["prompt 2"], Failure)
            assert "***" in run.results["prompt 1"].detail and "***" in run.results["prompt 2"].detail
            assert run.results["prompt 3"].body["system_fingerprint"] == "Bearer ***"
            server.plan = lambda *_: Fault.NO_KEY
            refused = Run(http, tmp_path=tmp_path, wanted=[call("new")]).end
            logging.getLogger("mralign").error("refused", exc_info=refused)
    finally:
        logging.getLogger().removeHandler(to_file)
        to_file.close()
    endpoint = Endpoint(http, cache=cache(tmp_path))
    said = [
        repr(run.results),
        repr(run.tally.figures()),
        str(refused),
        repr(endpoint),
        repr(vars(endpoint)),
        caplog.text,
    ]
    (tmp_path / "said.txt").write_text("\n".join([*said, "".join(traceback.format_exception(refused))]))
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) >= 8 + 2
    secret = KEY.removeprefix("sk-")[:16].encode()
    assert not [p for p in files if secret in p.read_bytes() or KEY.encode() in p.read_bytes()]
    with pytest.raises(TypeError, match="not sent to another process"):
        pickle.dumps(ApiKey("E", KEY))


def test_without_a_key_none_is_sent_and_a_dummy_key_does_not_touch_answers(tmp_path, monkeypatch):
    with LoopbackServer() as server:
        monkeypatch.setenv("LOOPBACK_KEY", "answer")
        result = one(server, tmp_path, Fault.NONE)
        assert result.body["choices"][0]["text"] == answer_to("p")
        monkeypatch.delenv("LOOPBACK_KEY")
        told = one(server, tmp_path / "other", Fault.ECHO_ANSWER)
        assert told.body["system_fingerprint"] == ""


# --- Completions ---


def test_a_payload_names_every_sampling_parameter_that_vllm_would_fill_in():
    decoding = Decoding(temperature=0.6, top_p=0.95, top_k=20)
    payload = completion_payload([1, 2], model="m", decoding=decoding, max_tokens=9, seed=7, vllm_extras=True)
    assert payload["prompt"] == [1, 2] and payload["top_k"] == 20 and payload["return_token_ids"] is True
    pytest.importorskip("vllm")
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    filled = {"temperature": 0.1, "top_p": 0.1, "top_k": 3, "min_p": 0.3, "repetition_penalty": 1.3}
    filled |= {"presence_penalty": 0.4, "frequency_penalty": 0.4}
    request = CompletionRequest.model_validate(payload)
    params = request.to_sampling_params(9, filled)
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.6, 0.95, 20, 0.0)
    assert (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) == (1.0, 0.0, 0.0)
    assert (params.seed, params.max_tokens, request.model_extra) == (7, 9, {})


def test_without_the_extras_only_fields_of_openai_are_sent():
    plain = {"prompt_ids": [1], "model": "m", "max_tokens": 9, "seed": 7, "vllm_extras": False}
    payload = completion_payload(decoding=Decoding(top_k=0), **plain)
    assert set(payload) == {"model", "prompt", "max_tokens", "temperature", "top_p", "seed"}
    with pytest.raises(ValueError, match="top_k=20"):
        completion_payload(decoding=Decoding(top_k=20), **plain)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"text": "a", "finish_reason": "stop", "token_ids": [3, 1]}, Completion("a", (3, 1), "stop")),
        ({"text": "", "finish_reason": "length"}, Completion("", None, "length")),
        ({"text": "a", "finish_reason": "stop", "token_ids": None}, Completion("a", None, "stop")),
        ({"text": None, "finish_reason": "stop"}, "text"),
        ({"text": "a"}, "finish_reason"),
        ({"text": "a", "finish_reason": "stop", "token_ids": [True]}, "token_ids"),
        ({"text": "a", "finish_reason": "stop", "token_ids": "3"}, "token_ids"),
        ({"text": "a", "finish_reason": "stop", "token_ids": [-1]}, "token_ids"),
        ({"text": "a", "finish_reason": "stop", "token_ids": [2**31]}, "token_ids"),
        ({"text": "a\ud83d", "finish_reason": "length"}, "half a character"),  # no table and no tokenizer takes it
        ({"text": "a", "finish_reason": "\udc00"}, "half a character"),
    ],
)
def test_a_completion_is_read_or_told_what_is_wrong_with_it(choice, expected):
    read = read_completion({"choices": [choice]})
    if isinstance(expected, str):
        assert isinstance(read, Failure) and read.reason == "malformed_completion" and expected in read.detail
    else:
        assert read == expected
