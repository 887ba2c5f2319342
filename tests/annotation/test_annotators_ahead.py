"""Annotators at endpoints are asked before their stage, and who cannot be; the server's counts are the oracle."""

import asyncio
import json

import pytest
from integration.scripted_annotators import answer_to, request_of
from loopback_server import Fault, LoopbackServer

from mralign.annotation.annotators_ahead import AnnotatorsAhead, annotators_ahead, no_overlap, overlap_lines
from mralign.config import parse

CUES = "pkg://mralign.annotation/rule_books/second.yaml"
BOOK = {"name": "Ben", "rule_book": CUES}


def chat(name, base_url="http://127.0.0.1:1/v1", **more):
    http = {"base_url": base_url, "model": name, "vllm_extras": False, "concurrency": 4, "price_prompt": 1.0}
    return {"name": name, "engine": "http", "http": http | more}


def config_of(tmp_path, *, annotators, judge=None, cascade=None, **sections):
    run = {"dir": str(tmp_path), "overlap": True}
    annotation = {"annotators": annotators, "adjudicator": judge or chat("judge"), "cascade": cascade}
    train = {"train": [{"name": "a", "path": "a"}]}
    return parse({"run": run, "questions": train, "annotation": annotation, **sections})


def row(number):
    text = "".join(f"Segment {n} of thought {number}. " for n in range(4))
    starts = [text.index(f"Segment {n}") for n in range(4)]
    ends = [*starts[1:], len(text)]
    ids = {"row_id": f"q/{number}/on/0", "question_id": f"q/{number}", "dataset": "q", "polarity": 1}
    return ids | {
        "question": f"What is {number}?",
        "answers": ["x"],
        "text": text,
        "segment_start": starts,
        "segment_end": ends,
    }


def ask(config, rows):
    """What asking about rows took, all of them at once."""

    async def run():
        async with AnnotatorsAhead(config) as ahead:
            await asyncio.gather(*map(ahead.ask, rows))
        return ahead.took(), sum(one.spent for one in ahead.spent())

    return asyncio.run(run())


def test_every_reply_is_found_again_and_nobody_is_asked_twice(tmp_path):
    with LoopbackServer(prompt=request_of, answer=answer_to) as server:
        url = server.base_url
        config = config_of(tmp_path, annotators=[chat("a", url), chat("b", url)], judge=chat("judge", url))
        first, spent = ask(config, map(row, range(12)))
        asked = sum(server.accepted.values())
        again, nothing = ask(config, map(row, range(14)))
        by_model = [json.loads(request)[0] for request in server.accepted]
        assert set(server.accepted.values()) == {1}
        assert sum(tally["requests"] for tally in first.values()) == asked
        assert {role: tally["cached"] for role, tally in again.items()} == {
            role: tally["requests"] for role, tally in first.items()
        }
    assert {"a", "b", "judge"} == set(by_model) and by_model.count("a") >= 12
    assert spent == pytest.approx(sum(tally["prompt_tokens"] for tally in first.values()) / 1e6)
    assert 0 < nothing < spent


def test_an_end_stops_who_waits_and_keeps_what_was_sent(tmp_path):
    """One request at a time: eleven of twelve rows wait for their turn when it ends."""

    async def run(config, server):
        async with AnnotatorsAhead(config) as ahead:
            tasks = [asyncio.create_task(ahead.ask(row(n))) for n in range(12)]
            while not server.busy:
                await asyncio.sleep(0.005)
            ahead.stop()
            return await asyncio.gather(*tasks, return_exceptions=True)

    with LoopbackServer(prompt=request_of, answer=answer_to, latency_s=0.2) as server:
        annotators = [chat("a", server.base_url, concurrency=1), BOOK]
        config = config_of(tmp_path, annotators=annotators, judge={**BOOK, "name": "Jo"})
        came = asyncio.run(run(config, server))
        assert sum(server.accepted.values()) == sum(server.received.values()) == 1
    assert sum(isinstance(one, ValueError) for one in came) >= 11
    assert len(list(tmp_path.glob("responses-*/*/*.json"))) == 1


def test_an_endpoint_that_refuses_says_so_before_the_stage_begins(tmp_path):
    with LoopbackServer(lambda prompt, attempt: Fault.NO_KEY, prompt=request_of) as server:
        config = config_of(tmp_path, annotators=[chat("a", server.base_url), BOOK], judge={**BOOK, "name": "Jo"})
        with pytest.raises(ValueError, match="refuses to serve"):
            ask(config, [row(1)])


RUN = {"base_url": "http://127.0.0.1:2/v1"}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"annotators": [chat("a"), chat("b")]}, None),
        ({"annotators": [chat("a"), BOOK], "judge": {**BOOK, "name": "Jo"}, "rollouts": {"engine": "http"}}, None),
        ({"annotators": [{**BOOK, "name": "Al"}, BOOK], "judge": {**BOOK, "name": "Jo"}}, "others take no time"),
        ({"annotators": [chat("a"), chat("b")], "cascade": {"labeller": "d", "budget": 3}}, "the cascade chooses"),
        ({"annotators": [chat("a"), {"name": "b", "engine": "vllm"}]}, "'b' is served by an engine of the run"),
        ({"annotators": [chat("a"), chat("b", batch=True)]}, "'b' is asked in batches"),
        ({"annotators": [{"name": "a", "engine": "http"}, chat("b")], "http": RUN}, None),
        (
            {"annotators": [{"name": "a", "engine": "http"}, chat("b")], "http": RUN, "rollouts": {"engine": "http"}},
            "'a' is asked at the endpoint that samples the rollouts",
        ),
        ({"annotators": [chat("a"), chat("b")], "rollouts": {"import_on": "x", "import_off": "y"}}, "are imported"),
    ],
)
def test_the_plan_says_where_nothing_can_be_asked_ahead(tmp_path, settings, reason):
    config = config_of(tmp_path, **settings)
    (line,) = overlap_lines(config)
    if reason is None:
        assert no_overlap(config) is None and annotators_ahead(config) is not None
        assert line == "overlap: annotators are asked about candidates while further questions are sampled"
    else:
        assert line.startswith("overlap: run.overlap=true is of no use here") and reason in line
        assert annotators_ahead(config) is None
    assert overlap_lines(config.model_copy(update={"run": config.run.model_copy(update={"overlap": False})})) == []
