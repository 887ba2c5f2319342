"""`jobs/evaluate.py` by real vLLM: every method, a rerun that asks nothing, a further benchmark that asks only itself.

And the judged benchmarks end to end with a language model of 135 M parameters on both sides of the table: the machinery
completes, and every figure can be followed to what was said; what it says is of no account.
"""

import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from align_process import ROOT, environment
from smollm2 import MISSING, find_gguf, shared_smollm2

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TEST = "pkg://mralign.miniworld/data/questions/test.jsonl"
CORPUS = [
    {"id": "1", "title": "Titan", "text": "Titan is the largest moon of Saturn. It was discovered in 1655."},
    {"id": "2", "title": "Saturn", "text": "Saturn is a planet with rings of ice. It has many moons."},
    {"id": "3", "title": "Ada Lovelace", "text": "Ada Lovelace wrote notes on the Analytical Engine in 1843."},
]


def evaluate(*arguments):
    done = subprocess.run(
        [sys.executable, "jobs/evaluate.py", *map(str, arguments)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=420,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return done


def rows(run, pattern):
    return [row for part in sorted(run.glob(pattern)) for row in pq.read_table(part).to_pylist()]


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_every_method_then_nothing_then_a_benchmark_and_a_method_more(tmp_path):
    run = tmp_path / "run"
    corpus = write(tmp_path / "corpus.jsonl", [{"text": f"{w} of limisar is metalon"} for w in ("river", "capital")])
    first = f'{{name: miniworld, path: "{TEST}", limit: 12}}'
    second = f'{{name: more, path: "{TEST}", skip: 12, limit: 8}}'
    methods = "think_off, think_on, self_refine"
    shared = [f"run.dir={run}", "evaluation.draws=1", "engine.batch_size=6"]
    once = [f"questions.test=[{first}]", f"evaluation.methods=[{methods}]", *shared]
    evaluate(*once)
    shelf = run / "responses_by_content"
    parts = {path: path.stat().st_mtime_ns for path in shelf.glob("*/part-*.parquet")}
    kept = [row for path in parts for row in pq.read_table(path).to_pylist()]
    modes = [row["mode"] for row in kept]
    counts = {mode: modes.count(mode) for mode in set(modes)}
    assert counts["off"] == counts["on"] == 12
    assert 0 < counts["on/feedback-1"] == counts["on/revise-1"] <= 12

    assert "responses_base: done before" in evaluate(*once).stderr
    assert parts == {path: path.stat().st_mtime_ns for path in shelf.glob("*/part-*.parquet")}

    evaluate(
        *(f"questions.test=[{first}, {second}]", f"evaluation.methods=[{methods}, think_on_ret]", *shared),
        *("evaluation.retrieval.engine=bm25", f"evaluation.retrieval.corpus={corpus}"),
        *("evaluation.retrieval.top_k=1", "evaluation.retrieval.prompt='{question} {snippets}'"),
    )
    assert all(path.stat().st_mtime_ns == before for path, before in parts.items())
    fresh = {path for path in shelf.glob("*/part-*.parquet") if path not in parts}
    beside = {path for path in fresh if path.parent in {old.parent for old in parts}}  # the others had snippets
    assert {row["dataset"] for path in beside for row in pq.read_table(path).to_pylist()} == {"more"}
    assert len(fresh) > len(beside) > 0

    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    places = json.loads((run / "evaluation" / "index.json").read_text())
    names = [f"base_{name}" for name in (*methods.split(", "), "think_on_ret")]
    assert list(metrics) == list(places) == names
    lies = {row["row_id"]: row["part"] for row in rows(run, "responses_base/*/part-*.parquet")}
    for method, figures in metrics.items():  # every figure can be followed to its rows, and they to what was said
        scores = [row for row in rows(run, f"{places[method]}/part-*.parquet") if row["method"] == method]
        for benchmark, size in (("miniworld", 12), ("more", 8)):
            own = [row for row in scores if row["dataset"] == benchmark]
            assert len(own) == figures[benchmark]["n"] == size
            assert sum(row["acc"] for row in own) / size == pytest.approx(figures[benchmark]["acc"])
        for row in scores:
            name = row["row_id"].removesuffix("/ret")
            (said,) = (there for there in rows(run, lies[row["row_id"]]) if there["row_id"] == name)
            assert row["em_answer"] == (said["answer"] in said["answers"])
    found = {row["question_id"]: row["snippets"] for row in rows(run, "evidence/*/part-*.parquet")}
    assert found["miniworld/mw0-limisar-river"][0]["text"] == "river of limisar is metalon"


@pytest.mark.long
@pytest.mark.skipif(find_gguf() is None, reason=MISSING)
def test_judged_benchmarks_end_to_end_with_a_small_language_model(tmp_path, tmp_path_factory):
    model = shared_smollm2(tmp_path_factory)
    corpus = write(tmp_path / "corpus.jsonl", CORPUS)
    (tmp_path / "longfact").mkdir()
    prompts = ("Tell me about the moon Titan.", "What is Saturn?", "Who was Ada Lovelace?")
    write(tmp_path / "longfact" / "longfact-objects_space.jsonl", [{"prompt": prompt} for prompt in prompts])
    table = tmp_path / "truthful.csv"
    table.write_text(
        "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
        "A,B,Is the Earth flat?,No,No; It is round,Yes; It is a disc,none\n"
        "A,B,Do pigs fly?,No,No; They cannot,Yes; At night,none\n"
    )
    sources = [
        {"name": "longfact", "format": "longfact", "path": str(tmp_path / "longfact")},
        {"name": "truthfulqa", "format": "truthfulqa", "path": str(table)},
    ]
    run = tmp_path / "run"
    command = [
        *("--model", model, f"run.dir={run}", f"questions.test={json.dumps(sources)}"),
        *("model.dtype=bfloat16", "model.family=prompted", "evaluation.methods=[think_off]", "evaluation.draws=1"),
        *("engine.max_model_len=4096", "engine.max_num_seqs=8", "engine.batch_size=8", "run.reject_limit=1.0"),
        "evaluation.decoding={temperature: 0.0, top_p: 1.0, max_tokens: 80}",
        "evaluation.judge={name: judge, engine: vllm, decoding: {temperature: 0.0, top_p: 1.0, max_tokens: 200}}",
        *("evaluation.retrieval.engine=bm25", f"evaluation.retrieval.corpus={corpus}", "evaluation.longfact.k=3"),
    ]
    evaluate(*command)
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())["smollm2_think_off"]
    scores = rows(run, "evaluation_base/*/part-*.parquet")
    judged = rows(run, "judgements_base/*/part-*.parquet")
    rejected = rows(run, "judgements_base/*/rejects/part-*.parquet")
    assert len(scores) == 5
    assert metrics["longfact"]["judged"] + metrics["longfact"]["rejected"] == 3
    assert metrics["truthfulqa"]["judged"] + metrics["truthfulqa"]["rejected"] == 2
    for score in scores:
        own = [row for row in judged if row["row_id"] == score["row_id"]]
        bad = [row for row in rejected if row["row_id"].startswith(score["row_id"] + "/")]
        if bad:
            assert score["truthful"] is score["claims"] is None
        elif score["dataset"] == "truthfulqa":
            (row,) = own
            assert json.loads(row["verdict"]) == {n: score[n] for n in ("truthful", "informative")}
            assert json.loads(row["reply"]) == json.loads(row["verdict"])
        else:
            support = [row for row in own if row["kind"] == "support"]
            verdicts = [json.loads(row["verdict"])["supported"] for row in support]
            assert (score["claims"], score["supported"]) == (len(verdicts), sum(verdicts))
            for row in support:
                texts = {snippet["text"] for snippet in row["evidence"]}
                assert texts <= {entry["text"] for entry in CORPUS}
                assert all(text in json.loads(row["prompt"])[-1]["content"] for text in texts)
    assert any(row["kind"] == "claims" for row in judged)
    again = evaluate(*command)
    assert "judgements_base: done before" in again.stderr
