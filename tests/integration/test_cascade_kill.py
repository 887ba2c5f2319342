"""A cascade of endpoints by the job itself: killed in its midst, it goes on with the same choice and the same rows."""

import json

import pytest
from align_process import finish, kill, start, wait_for
from integration.test_annotation_endpoint import CONCURRENCY, QUESTIONS, arguments, rows
from loopback_server import LoopbackServer
from scripted_annotators import answer_to, request_of, write_rollouts
from taught_panel import random_labeller

from mralign.annotation.labeller_file import write_labeller

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.long]

BUDGET = 25


def choice(run):
    (place,) = run.glob("annotation/*/cascade.json")
    return json.loads(place.read_text())


def test_a_killed_cascade_keeps_to_its_choice_and_pays_for_nothing_twice(tmp_path):
    rollouts = write_rollouts(tmp_path, questions=QUESTIONS)
    write_labeller(tmp_path / "own", random_labeller(), report={})
    cascade = f"annotation.cascade={json.dumps({'labeller': str(tmp_path / 'own'), 'budget': BUDGET})}"
    run, undisturbed, log = tmp_path / "run", tmp_path / "undisturbed", tmp_path / "log"
    with LoopbackServer(latency_s=0.2, prompt=request_of, answer=answer_to) as server:
        settings = [*arguments(server, rollouts), cascade]
        process = start(run, *settings, log=log)
        wait_for(lambda: len(server.accepted) > BUDGET // 2, process=process, log=log)
        kill(process)
        assert not list(run.glob("annotation/*/manifest.json"))
        before, chosen = len(server.accepted), choice(run)
        finish(start(run, *settings, log=log), log=log)
        asked, total = dict(server.accepted), sum(server.accepted.values())
        assert BUDGET // 2 < before < len(asked)
        assert len(asked) <= total <= len(asked) + 3 * CONCURRENCY  # those in flight at each of three endpoints
        finish(start(undisturbed, *settings, log=log), log=log)
        assert server.accepted.keys() == asked.keys()
    assert choice(run) == choice(undisturbed) == chosen
    assert (chosen["of"], len(chosen["asked"])) == (QUESTIONS, BUDGET)
    for pattern in ("annotation/*/part-*.parquet", "annotation/*/rejects/part-*.parquet"):
        assert rows(run, pattern) == rows(undisturbed, pattern)
    kept, lost = rows(run), rows(run, "annotation/*/rejects/part-*.parquet")
    assert len({row["row_id"] for row in [*kept, *lost]}) == len(kept) + len(lost) == QUESTIONS
    distilled = {row["row_id"] for row in kept if row["steps"][0]["rule"] == "distilled"}
    assert len(distilled) == QUESTIONS - BUDGET and distilled.isdisjoint(chosen["asked"])
    assert "Traceback" not in log.read_text()
