"""Rollouts from an OpenAI-compatible endpoint, by the job itself: faults, a budget that stops it, a secret key."""

import json

import pyarrow.parquet as pq
import pytest
from align_process import finish, start
from loopback_server import LoopbackServer, answer_to, random_faults, tokens_of

pytestmark = [pytest.mark.integration, pytest.mark.slow]

KEY = "sk-loopback/0123456789+abcdef=="
REQUESTS, CONCURRENCY = 80, 4


def rows(run):
    return [row for part in run.glob("rollouts/*/part-*.parquet") for row in pq.read_table(part).to_pylist()]


def check_money(log, *, charged):
    """What the run told at last of its money, and how far it was, against what the server has charged."""
    told = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    money = [line for line in told if line["event"] == "money_spent"][-1]
    assert money["spent"] + money["before"] == pytest.approx(charged)
    assert 100 <= money["before"] < charged
    assert money["currency"] == "EUR"
    assert [line["done"] for line in told if line["event"] == "work_advanced"][-1] == REQUESTS
    assert [line["event"] for line in told if line.get("stage") == "rollouts"][-1] == "stage_ended"


@pytest.mark.long
def test_a_budget_stops_the_run_and_the_same_command_goes_on_when_it_is_raised(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOPBACK_KEY", KEY)
    run, log = tmp_path / "run", tmp_path / "log"
    with LoopbackServer(random_faults(3, share=0.3, hangs=0.0)) as server:
        arguments = [
            'questions.train=[{name: w, path: "pkg://mralign.miniworld/data/questions/train.jsonl", limit: 40}]',
            "rollouts.engine=http",
            "rollouts.n=1",
            "engine.batch_size=16",
            f"http.base_url={server.base_url}",
            "http.key_env=LOOPBACK_KEY",
            f"http.concurrency={CONCURRENCY}",
            "http.max_retries=40",
            "http.max_backoff_s=0.05",
            "http.price_completion=1.0e6",  # each token costs 1
            "--until",
            "rollouts",
        ]
        stopped = start(run, *arguments, "http.budget=100", log=log)
        assert stopped.wait(timeout=180) == 2, log.read_text()[-4000:]
        assert "http.budget=100 is spent" in log.read_text()
        assert "Traceback" not in log.read_text()
        dearest = max(tokens_of(prompt)[1] for prompt in server.accepted)
        spent = sum(tokens_of(prompt)[1] * count for prompt, count in server.accepted.items())
        assert 100 <= spent < 100 + CONCURRENCY * dearest
        done = {row["row_id"] for row in rows(run)}
        assert 0 < len(done) == sum(server.accepted.values()) < REQUESTS  # what was paid for is committed

        log = tmp_path / "events"
        finish(
            start(run, *arguments, "http.budget=100000", "http.currency=EUR", "--json", log=log), log=log, timeout=180
        )
        check_money(log, charged=sum(tokens_of(prompt)[1] * count for prompt, count in server.accepted.items()))
        assert len(server.accepted) == REQUESTS
        assert set(server.accepted.values()) == set(server.charged.values()) == {1}  # nothing was paid for twice
    found = rows(run)
    assert len(found) == len({row["row_id"] for row in found}) == REQUESTS
    assert done < {row["row_id"] for row in found}
    for row in found:  # the server answers from the prompt alone, which came as token ids
        assert row["text"] == answer_to(",".join(map(str, row["prompt_token_ids"])))
        assert row["finish_reason"] == "stop"
    (manifest,) = run.glob("rollouts/*/manifest.json")
    figures = json.loads(manifest.read_text())["figures"]["endpoint"]
    assert figures["accepted"] + len(done) == REQUESTS
    everything = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.parent.parent.name == "responses" for path in everything)
    assert not [path for path in everything if KEY.encode() in path.read_bytes()]
