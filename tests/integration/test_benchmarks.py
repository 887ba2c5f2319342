"""A suite of the benchmarks that need judges and aliases, on the embedded model, judged by a script at an endpoint.

The script's verdicts follow from what it is shown, so each figure is worked out again here from the responses alone.
"""

import json
import math
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from integration.test_evaluate import TEST, evaluate, rows, write
from loopback_server import LoopbackServer

from mralign.config import resolve_path

pytestmark = [pytest.mark.integration, pytest.mark.slow]
SIZE = 6


def request_of(payload):
    return json.dumps([message["content"] for message in payload["messages"]])


def facts_of(text):
    """Every word of a text with a vowel in front is a fact."""
    return list(dict.fromkeys(f"{word} is said" for word in re.findall(r"\b[aeiou]\w+", text.lower())))


def is_supported(fact):
    return len(fact) % 2 == 0


def answer_to(request):
    shown = json.loads(json.loads(request)[1])
    if "right_answer" in shown:
        return json.dumps({"correct": shown["right_answer"][0].lower() in shown["answer"].lower()})
    if "passage" in shown:
        return json.dumps({"claims": facts_of(shown["passage"])})
    assert shown["evidence"]
    return json.dumps({"supported": is_supported(shown["claim"])})


@pytest.mark.long
def test_a_suite_of_three_benchmarks(tmp_path):
    run = tmp_path / "run"
    asked = [json.loads(line) for line in Path(resolve_path(TEST)).read_text(encoding="utf-8").splitlines()[:SIZE]]
    trivia = [{"question": q["question"], "answer": {"value": q["answer"][0], "aliases": ["No One"]}} for q in asked]
    frames = [{"Prompt": f"please: {q['question']}", "Answer": q["answer"][0]} for q in asked]
    names = [re.findall(r"\w+", q["question"])[-1] for q in asked]
    files = {"tqa": trivia, "hops": frames, "bios": [{"topic": name} for name in names]}
    formats = {"tqa": "triviaqa", "hops": "frames", "bios": "factscore"}
    sources = [
        {"name": name, "format": formats[name], "path": str(write(tmp_path / f"{name}.jsonl", lines))}
        for name, lines in files.items()
    ]
    corpus = write(tmp_path / "corpus.jsonl", [{"text": "It is said that is is said."}])
    with LoopbackServer(prompt=request_of, answer=answer_to) as server:
        chat = {"base_url": server.base_url, "model": "j", "vllm_extras": False}
        judge = {"name": "judge", "engine": "http", "http": chat}
        evaluate(
            *(f"run.dir={run}", f"questions.test={json.dumps(sources)}", "evaluation.methods=[think_off]"),
            *("evaluation.draws=1", "engine.batch_size=6", f"evaluation.judge={json.dumps(judge)}"),
            *("evaluation.retrieval.engine=bm25", f"evaluation.retrieval.corpus={corpus}", "run.reject_limit=1.0"),
        )
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())["base_think_off"]
    said = {}
    for part in sorted((run / "responses_by_content").glob("*/part-*.parquet")):
        for row in pq.read_table(part).to_pylist():
            said.setdefault(row["dataset"], []).append(row)
    assert {name: len(own) for name, own in said.items()} == dict.fromkeys(files, len(said["tqa"]))
    assert {name: found["kind"] for name, found in metrics.items()} == formats

    right = [(row["answer"] or "").lower() in map(str.lower, row["answers"]) for row in said["tqa"]]
    assert metrics["tqa"]["em"] == pytest.approx(sum(right) / len(right))
    holds = [row["answers"][0].lower() in (row["answer"] or "").lower() for row in said["hops"]]
    assert metrics["hops"]["correct"] == pytest.approx(sum(holds) / len(holds))
    scores = []
    for row in said["bios"]:
        facts = facts_of(row["answer"] or "")
        if facts:
            penalty = 1 if len(facts) > 10 else math.exp(1 - 10 / len(facts))
            scores.append(penalty * sum(map(is_supported, facts)) / len(facts))
        elif row["invalid"]:
            scores.append(0.0)
    assert metrics["bios"]["factscore"] == (pytest.approx(sum(scores) / len(scores)) if scores else None)
    prompts = {row["prompt"] for row in rows(run, "judgements_base/*/part-*.parquet") if row["kind"] == "claims"}
    assert all(prompt is None or any(name in prompt for name in names) for prompt in prompts)
    page = (run / "report" / "index.html").read_text()
    for words in ("EM, F1: the answer against", "Correct: answers that a judge", "FActScore-like: facts that a judge"):
        assert words in page
