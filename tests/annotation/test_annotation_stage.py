import asyncio
import json

import pyarrow as pa
import pytest
from loopback_batches import BatchServer
from loopback_server import LoopbackServer
from scripted_annotators import answer_to, request_of

from mralign.annotation.resolved import resolve_annotation
from mralign.annotation.stage import ANNOTATION_STAGE, Annotating
from mralign.config import parse
from mralign.rows.schema import ANNOTATIONS, CANDIDATES
from mralign.run.part_names import part_name
from mralign.run.stage import Context
from mralign.run.store import StageDir


def test_without_a_candidate_the_run_stops_and_says_where_they_went(tmp_path):
    source = StageDir(str(tmp_path / "candidates"), stage="candidates", fingerprint="c")
    source.commit(part_name("train-00-00000"), pa.Table.from_pylist([], schema=CANDIDATES), schema=CANDIDATES)
    out = StageDir(str(tmp_path / "annotation"), stage="annotation", fingerprint="a")
    config = parse({"questions": {"train": [{"name": "a", "path": "a"}]}})
    with pytest.raises(ValueError, match=r"no candidate is left: .* --until candidates prints how many went where"):
        ANNOTATION_STAGE.run(Context(config, out, {"candidates": source}))
    assert not out.exists()


def candidate(number):
    text = "one\n\ntwo\n\nthree</think>x"
    return {
        "row_id": f"d/{number}/on/0",
        "question_id": f"d/{number}",
        "dataset": "d",
        "question": f"What is {number}0?",
        "answers": ["x"],
        "polarity": 1,
        "text": text,
        "segment_start": [0, 5, 10],
        "segment_end": [3, 8, 15],
    }


def config_of(tmp_path, *, base_url, **first):
    def chat(name, model, **more):
        http = {"base_url": base_url, "model": model, "concurrency": 1, "vllm_extras": False} | more
        return {"name": name, "engine": "http", "http": http}

    return parse(
        {
            "run": {"dir": str(tmp_path / "run")},
            "questions": {"train": [{"name": "d", "path": "d"}]},
            "annotation": {
                "annotators": [chat("Ann", "a", **first), {"name": "Ben", "rule_book": CUES}],
                "adjudicator": chat("Jo", "judge"),
            },
        }
    )


CUES = "pkg://mralign.annotation/rule_books/second.yaml"


def test_a_spent_budget_stops_every_row_and_a_raised_one_finds_what_was_paid_for(tmp_path):
    rows = [candidate(n) for n in range(12)]

    async def both(resolved):
        """What the actors of both engines answer, one after the other."""
        first, last = (
            Annotating(resolved=resolved, roles=roles, last=roles == resolved.engines[-1]) for roles in resolved.engines
        )
        answers = await first.answer(rows)
        going_on = [(row, answer) for row, answer in zip(rows, answers, strict=True) if not answer.stopped]
        states = [row | {"state": json.loads(json.dumps(answer.state))} for row, answer in going_on]
        return [answer.stopped for answer in answers if answer.stopped], await last.answer(states)

    with LoopbackServer(prompt=request_of, answer=answer_to) as server:
        poor = resolve_annotation(config_of(tmp_path, base_url=server.base_url, price_completion=1e6, budget=10.0))
        assert poor.engines == [("first",), ("second", "adjudicator")]
        stopped, _ = asyncio.run(both(poor))
        assert {reason[:23] for reason in stopped} == {"http.budget=10 is spent"}
        asked = {row for row in server.accepted if json.loads(row)[0] == "a"}
        assert 0 < len(asked) < 12 and len(stopped) + len(asked) >= 12

        richer = resolve_annotation(config_of(tmp_path, base_url=server.base_url, price_completion=1e6, budget=1e6))
        stopped, answers = asyncio.run(both(richer))
        assert not stopped and len(answers) == 12
        assert set(server.accepted.values()) == {1}
    assert all(len(answer.rows) + len(answer.rejects) == 1 for answer in answers)
    assert all(answer.took["first"]["trajectories"] == 1 for answer in answers)
    found = [row for answer in answers for row in answer.rows]
    assert pa.Table.from_pylist(found, schema=ANNOTATIONS).num_rows == len(found) > 0


def test_a_panel_asked_in_batches_says_what_it_says_live(tmp_path):
    rows = [candidate(n) for n in range(12)]

    async def labelled(place, *, base_url, **more):
        resolved = resolve_annotation(config_of(place, base_url=base_url, **more))
        states = rows
        for roles in resolved.engines:
            actor = Annotating(resolved=resolved, roles=roles, last=roles == resolved.engines[-1])
            answers = await actor.answer(states)
            states = [row | {"state": json.loads(json.dumps(a.state))} for row, a in zip(rows, answers, strict=True)]
        return [(answer.rows, answer.rejects) for answer in answers]

    with LoopbackServer(prompt=request_of, answer=answer_to) as server:
        live = asyncio.run(labelled(tmp_path / "live", base_url=server.base_url))
    quick = {"batch": True, "batch_gather_s": 0.1, "batch_poll_s": 0.02}
    with BatchServer(prompt=request_of, answer=answer_to) as server:
        batched = asyncio.run(labelled(tmp_path / "batch", base_url=server.base_url, **quick))
        first = [json.loads(request) for request in server.batched]
        assert len(server.batches) == 2  # what all were asked, and what had to be asked again
        assert {model for model, _ in first} == {"a"} and len(first) > 12
        assert {json.loads(request)[0] for request in server.live} == {"judge"}  # its endpoint has no batches
    assert batched == live


def test_the_plan_says_what_annotation_will_take(tmp_path):
    source = StageDir(str(tmp_path / "candidates"), stage="candidates", fingerprint="c")
    source.commit(part_name("d"), pa.Table.from_pylist([candidate(0)] * 5, schema=CANDIDATES), schema=CANDIDATES)
    out = StageDir(str(tmp_path / "annotation"), stage="annotation", fingerprint="a")
    config = config_of(tmp_path, base_url="http://127.0.0.1:1/v1", price_prompt=1.0)
    costs = {cost.who: cost for cost in ANNOTATION_STAGE.forecast(Context(config, out, {"candidates": source}))}
    assert set(costs) == {"Ann", "Jo"}  # Ben is a rule book, and costs nothing
    assert costs["Ann"].requests == costs["Jo"].requests == 5
    assert costs["Jo"].most and not costs["Ann"].most and costs["Ann"].paid
    assert costs["Ann"].money == costs["Ann"].prompt_tokens / 1e6
    assert not out.exists()


def test_two_annotators_who_cannot_but_agree_are_known(tmp_path):
    config = config_of(tmp_path, base_url="http://127.0.0.1:1/v1")
    assert not resolve_annotation(config).twins
    twin = config.annotation.annotators[0].model_copy(update={"name": "Twin"})
    annotation = config.annotation.model_copy(update={"annotators": (config.annotation.annotators[0], twin)})
    assert resolve_annotation(config.model_copy(update={"annotation": annotation})).twins
