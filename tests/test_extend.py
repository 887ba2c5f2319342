"""The examples of docs/extend.md, run as they stand there."""

import json
import re
import sys
import threading
from ast import literal_eval
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny_policy import settings

from mralign.config import Source, load

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def example(title):
    """The one block of code under a heading."""
    _, _, rest = (ROOT / "docs" / "extend.md").read_text().partition(f"\n## {title}\n")
    (block,) = [code for _, code in FENCE.findall(rest.partition("\n## ")[0])]
    return block


def test_the_objective(tmp_path, monkeypatch):
    from mralign.training import objectives
    from mralign.training.objectives.objective import Sums

    (tmp_path / "logistic.py").write_text(example("An objective"))
    monkeypatch.setattr(objectives, "__path__", [*objectives.__path__, str(tmp_path)])
    assert "logistic" in objectives.names()
    found = objectives.find("logistic")
    reward, polarity = torch.tensor([4.0, -3.0, 0.0]), torch.tensor([1.0, -1.0, 1.0])
    sums = Sums(logp_B=reward, reward_B=reward, plain_B=reward, polarity_B=polarity, z0=torch.tensor(0.0))
    expected = np.log1p(np.exp([-0.4, -0.3, 0.0]))  # beta is 0.1
    np.testing.assert_allclose(found.losses(sums, settings()).numpy(), expected, rtol=1e-6)
    assert found.start(1.0, settings()) == pytest.approx(expected[2])


@pytest.fixture
def gsm8k(tmp_path, monkeypatch):
    """The example beside the benchmarks that there are, its format among the named ones."""
    from mralign.config import data, named_formats
    from mralign.evaluation import benchmarks

    (tmp_path / "gsm8k.py").write_text(example("A benchmark"))
    entry = re.search(r'`("gsm8k": .+?)`', (ROOT / "docs" / "extend.md").read_text()).group(1)
    monkeypatch.setattr(benchmarks, "__path__", [*benchmarks.__path__, str(tmp_path)])
    monkeypatch.setattr(named_formats, "NAMED_FORMATS", named_formats.NAMED_FORMATS | literal_eval(f"{{{entry}}}"))
    monkeypatch.setattr(data, "FORMATS", (*data.FORMATS, "gsm8k"))
    monkeypatch.setattr("mralign.questions.formats.NAMED_FORMATS", named_formats.NAMED_FORMATS)
    benchmarks.registry.cache_clear()
    yield benchmarks.find("gsm8k")
    benchmarks.registry.cache_clear()
    sys.modules.pop(f"{benchmarks.__name__}.gsm8k")


def test_the_benchmark(gsm8k, tmp_path):
    from mralign.config import Evaluation
    from mralign.evaluation import of_format, result_figures, score_responses
    from mralign.questions.sources import read_batches
    from mralign.report.result_tables import result_sheet, result_table
    from mralign.report.sheets import to_text

    path = tmp_path / "test.jsonl"
    golds = ["She sells 16 - 3 = 13. #### 13", "Half of 2,000. #### 1,000", "#### -2.5"]
    path.write_text(
        "".join(json.dumps({"question": f"No. {n}?", "answer": gold}) + "\n" for n, gold in enumerate(golds))
    )
    source = Source(name="maths", path=str(path), format="gsm8k")
    assert of_format(source.format) == "gsm8k"
    ((table, _),) = read_batches(**source.model_dump(), split="test")
    told = ["It is 13.", "1000 dollars", None]  # the last one broke off: two of three are right
    rows = []
    for question, answer in zip(table.to_pylist(), told, strict=True):
        asked = {"row_id": question["question_id"], "method": "base_think_on", "answers": question["answers"]}
        rows.append({name: question[name] for name in ("question_id", "dataset")} | asked)
        rows[-1] |= {"invalid": None if answer else "truncated", "answer": answer}
        rows[-1] |= {"completion_tokens": 1, "thought_tokens": 1}
    benchmarks = {"maths": "gsm8k"}
    scores = score_responses(rows, benchmarks=benchmarks, verdicts={}, settings=Evaluation())
    assert [score["number_right"] for score in scores] == [True, True, False]
    found = result_figures(scores, benchmarks=benchmarks, shared={"gsm8k": {}}, settings=Evaluation())
    figures = found["base_think_on"]["maths"]
    assert (figures["kind"], figures["n"]) == ("gsm8k", 3)
    assert figures["number_right"] == pytest.approx(2 / 3)
    assert "maths Number %" in to_text(result_sheet(result_table(found)))


def test_the_annotator(tmp_path):
    from mralign.annotation.cues import annotate, load_rule_book

    path = tmp_path / "mine.yaml"
    path.write_text(example("An annotator"))
    segments = ["The question asks for a name.", "I recall a book.", "I remember its author.", "Wait, is it he?"]
    steps = annotate(segments, book=load_rule_book(str(path)))
    labels = [(step.first_segment, step.last_segment, step.labels) for step in steps]
    assert labels == [(0, 0, ("framing",)), (1, 2, ("retrieval",)), (3, 3, ("self_verification",))]


def test_the_source(tmp_path, monkeypatch):
    from mralign.questions.sources import read_batches

    preset = tmp_path / "quiz.yaml"
    preset.write_text(example("A source of questions"))
    record = {"Prompt": "Who wrote it?", "Gold": {"main": "Richard Dawkins", "also": ["Dawkins"]}}
    (tmp_path / "quiz.jsonl").write_text(json.dumps(record) + "\n")
    monkeypatch.chdir(tmp_path)
    (source,) = load(str(preset), overrides=[], presets_dir=tmp_path).questions.train
    assert isinstance(source, Source)
    rows = []
    for table, rejects in read_batches(**source.model_dump(), split="train"):
        assert rejects == []
        rows += table.to_pylist()
    assert [(row["question"], row["answers"]) for row in rows] == [("Who wrote it?", ["Richard Dawkins", "Dawkins"])]


@pytest.mark.integration
@pytest.mark.slow
def test_the_engine(tmp_path):
    import asyncio

    import pyarrow.parquet as pq
    from aiohttp import web
    from align_process import finish, start

    names = {"__name__": "engine"}
    exec(example("An engine"), names)  # our own document
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    runner = web.AppRunner(names["app"])

    async def serve():
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return site._server.sockets[0].getsockname()[1]

    port = asyncio.run_coroutine_threadsafe(serve(), loop).result()
    run, log = tmp_path / "run", tmp_path / "log"
    arguments = [
        'questions.train=[{name: w, path: "pkg://mralign.miniworld/data/questions/train.jsonl", limit: 4}]',
        "rollouts.engine=http",
        "rollouts.n=1",
        f"http.base_url=http://127.0.0.1:{port}/v1",
        "--until",
        "rollouts",
    ]
    try:
        finish(start(run, *arguments, log=log), log=log, timeout=180)
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
    rows = [row for part in run.glob("rollouts/*/part-*.parquet") for row in pq.read_table(part).to_pylist()]
    assert len(rows) == 8  # four questions, two modes
    assert all("Richard Dawkins" in row["text"] for row in rows)


def test_every_example_has_a_test():
    headings = re.findall(r"^## (.+)$", (ROOT / "docs" / "extend.md").read_text(), re.MULTILINE)
    tests = Path(__file__).read_text()
    assert all(f'example("{heading}")' in tests for heading in headings)


def test_yaml_examples_are_plain_yaml():
    for title in ("An annotator", "A source of questions"):
        assert isinstance(yaml.safe_load(example(title)), dict)
