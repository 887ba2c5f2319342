import asyncio
import json

import pyarrow as pa
import pytest
from loopback_server import LoopbackServer
from scripted_annotators import answer_to, request_of

from mralign.annotation.desk import desk_of
from mralign.annotation.panel import Hearing
from mralign.annotation.stage import ANNOTATION_STAGE, Annotating
from mralign.config import parse
from mralign.rows.schema import ANNOTATIONS, CANDIDATES
from mralign.run.rejects import Reject, to_table
from mralign.run.stage import Context
from mralign.run.store import StageDir, part_name
from mralign.serving.streaming import forget_failures


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


def test_a_spent_budget_stops_every_engine_and_a_raised_one_finds_what_was_paid_for(tmp_path):
    out = StageDir(str(tmp_path / "annotation"), stage="annotation", fingerprint="a")
    rows = [candidate(n) | {"part": "d", "heard": Hearing().to_json(), "stopped": ""} for n in range(12)]

    async def both(desk):
        first, last = (
            Annotating(desk=desk, visit=visit, last=visit == desk.visits[-1], out=out) for visit in desk.visits
        )
        return await last(await first(pa.Table.from_pylist(rows)))

    with LoopbackServer(prompt=request_of, answer=answer_to) as server:
        desk = desk_of(config_of(tmp_path, base_url=server.base_url, price_completion=1e6, budget=10.0))
        assert [visit.roles for visit in desk.visits] == [("first",), ("second", "adjudicator")]
        (report,) = asyncio.run(both(desk)).to_pylist()
        assert report["stopped"].startswith("http.budget=10 is spent")
        assert report["rows"] == 0
        assert 0 < len(server.accepted) < 12
        assert {json.loads(request)[0] for request in server.accepted} == {"a"}  # the adjudicator was not paid

        out.filesystem.delete_file(out.path("halted.txt"))  # as the stage does when it starts
        richer = desk_of(config_of(tmp_path, base_url=server.base_url, price_completion=1e6, budget=1e6))
        (report,) = asyncio.run(both(richer)).to_pylist()
        assert (report["stopped"], report["rows"]) == ("", 12)
        assert set(server.accepted.values()) == {1}
    assert out.read(schema=ANNOTATIONS).num_rows + out.read_rejects().num_rows == 12


def test_what_stops_one_engine_stops_the_others_before_they_pay(tmp_path):
    with LoopbackServer(prompt=request_of, answer=answer_to) as server:
        desk = desk_of(config_of(tmp_path, base_url=server.base_url))
        out = StageDir(str(tmp_path / "annotation"), stage="annotation", fingerprint="a")
        out.write_text("halted.txt", "the endpoint refuses to serve")
        rows = [candidate(n) | {"part": "d", "heard": Hearing().to_json(), "stopped": ""} for n in range(3)]
        actor = Annotating(desk=desk, visit=desk.visits[0], last=False, out=out)
        batch = asyncio.run(actor(pa.Table.from_pylist(rows)))
        assert set(batch.column("stopped").to_pylist()) == {"the endpoint refuses to serve"}
        assert not server.received


def test_the_plan_says_what_annotation_will_take(tmp_path):
    source = StageDir(str(tmp_path / "candidates"), stage="candidates", fingerprint="c")
    source.commit(part_name("d"), pa.Table.from_pylist([candidate(0)] * 5, schema=CANDIDATES), schema=CANDIDATES)
    out = StageDir(str(tmp_path / "annotation"), stage="annotation", fingerprint="a")
    config = config_of(tmp_path, base_url="http://127.0.0.1:1/v1", price_prompt=1.0)
    text = ANNOTATION_STAGE.forecast(Context(config, out, {"candidates": source}))
    assert "Ann: 5 requests, about" in text
    assert "Jo: at most 5 requests" in text
    assert "Ben" not in text
    assert not out.exists()


def test_two_annotators_who_cannot_but_agree_are_known(tmp_path):
    config = config_of(tmp_path, base_url="http://127.0.0.1:1/v1")
    assert not desk_of(config).twins
    twin = config.annotation.annotators[0].model_copy(update={"name": "Twin"})
    annotation = config.annotation.model_copy(update={"annotators": (config.annotation.annotators[0], twin)})
    assert desk_of(config.model_copy(update={"annotation": annotation})).twins


def test_a_refused_call_is_asked_again_on_the_next_run(tmp_path):
    out = StageDir(str(tmp_path / "annotation"), stage="annotation", fingerprint="a")
    reasons = ("http_400", "rate_limited", "not_json", "control_tokens")
    rejects = to_table([Reject(reason, reason) for reason in reasons])
    out.commit(part_name("d"), pa.Table.from_pylist([], schema=ANNOTATIONS), schema=ANNOTATIONS, rejects=rejects)
    forget_failures(out)
    assert out.read_rejects().column("reason").to_pylist() == ["not_json", "control_tokens"]
