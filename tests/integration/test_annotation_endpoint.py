"""Annotators behind endpoints, by the job itself: faults, kill -9, a rerun that pays nothing, a changed adjudicator."""

import json

import pyarrow.parquet as pq
import pytest
from align_process import finish, kill, start, wait_for
from loopback_server import LoopbackServer, random_faults
from scripted_annotators import answer_to, hopeless, request_of, write_rollouts

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.long]

QUESTIONS, CONCURRENCY = 60, 4


def arguments(server, rollouts, *, judge="judge"):
    def chat(name, model, **more):
        http = {"base_url": server.base_url, "model": model, "concurrency": CONCURRENCY, "vllm_extras": False}
        http |= {"max_retries": 40, "max_backoff_s": 0.05, "price_prompt": 1.0, "price_completion": 100.0, **more}
        return {"name": name, "engine": "http", "http": http}

    return [
        "--preset",
        "import-rollouts",
        "model.path=pkg://mralign.miniworld/data/model",
        "model.family=prompted",
        f"rollouts.import_on={rollouts[0]}",
        f"rollouts.import_off={rollouts[1]}",
        "engine.batch_size=8",
        "run.local_cpus=2",  # three endpoints must not wait for each other's CPU
        f"annotation.annotators={json.dumps([chat('Ann', 'a'), chat('Ben', 'b')])}",
        f"annotation.adjudicator={json.dumps(chat('Jo', judge))}",
        "--until",
        "annotation",
    ]


def rows(run, pattern="annotation/*/part-*.parquet"):
    found = [row for part in run.glob(pattern) for row in pq.read_table(part).to_pylist()]
    return sorted(found, key=lambda row: row["row_id"])


def test_a_killed_annotation_goes_on_and_pays_for_nothing_twice(tmp_path):
    rollouts = write_rollouts(tmp_path, questions=QUESTIONS)
    run, log = tmp_path / "run", tmp_path / "log"
    faults = random_faults(5, share=0.2, hangs=0.0)
    with LoopbackServer(faults, latency_s=0.1, prompt=request_of, answer=answer_to) as server:
        process = start(run, *arguments(server, rollouts), log=log)
        wait_for(lambda: len(server.accepted) > QUESTIONS, process=process, log=log)
        kill(process)
        before = len(server.accepted)
        finish(start(run, *arguments(server, rollouts), log=log), log=log)
        distinct, total = len(server.accepted), sum(server.accepted.values())
        assert QUESTIONS < before < distinct
        assert distinct <= total <= distinct + 3 * CONCURRENCY  # those in flight at each of three endpoints
        kept, rejected = rows(run), rows(run, "annotation/*/rejects/part-*.parquet")

        assert len({row["row_id"] for row in [*kept, *rejected]}) == len(kept) + len(rejected) == QUESTIONS
        lost = {row["row_id"].split("/")[1] for row in rejected}
        assert lost == {str(n) for n in range(QUESTIONS) if hopeless(f"What is number {n}?")}
        assert {(row["reason"], row["raw"]) for row in rejected} == {("not_json", "I would rather not.")}
        assert all("annotator Ben: " in row["detail"] for row in rejected)
        (manifest,) = (json.loads(path.read_text()) for path in run.glob("annotation/*/manifest.json"))
        check_figures(manifest["figures"], kept=kept, server=server)

        finish(start(run, *arguments(server, rollouts, judge="judge2"), log=log), log=log)
        fresh = sum(server.accepted.values()) - total
        models = [json.loads(request)[0] for request in server.accepted]
        assert fresh == models.count("judge2") == models.count("judge") > 0
    assert "Traceback" not in log.read_text()
    assert "Ann: 60 requests, about" in log.read_text()


def check_figures(figures, *, kept, server):
    """The manifest against a count of what lies there and of what the server was asked."""
    steps = [step for row in kept for step in row["steps"]]
    assert figures["steps"] == len(steps)
    escalated = [step for step in steps if step["rule"] in ("adjudicated", "unlabelled")]
    assert figures["adjudicated"] == pytest.approx(len(escalated) / len(steps))
    asked = [json.loads(request) for request in server.accepted]
    by_model = {name: [messages for model, messages in asked if model == name] for name in ("a", "b", "judge")}
    for name, model in (("Ann", "a"), ("Ben", "b"), ("Jo", "judge")):
        found, repairs = figures["annotators"][name], [m for m in by_model[model] if len(m) == 4]
        assert found["requests"] == len(by_model[model])
        assert found["repaired"] == len(repairs)
        assert found["trajectories"] == len(by_model[model]) - len(repairs)
        tokens = found["prompt_tokens"] + 100 * found["completion_tokens"]
        assert found["money"] == pytest.approx(tokens / 1e6)
    assert figures["annotators"]["Ben"]["rejected"] == QUESTIONS - len(kept)
    framing = figures["by_label"]["framing"]
    assert framing["final"] == sum("framing" in step["labels"] for step in steps) == figures["labels"]["framing"]
    assert framing["proposed_first"] == sum("framing" in step["labels_a"] for step in steps)
