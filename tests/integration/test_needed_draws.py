"""Draws as they are needed, by a real engine on the embedded world and by an endpoint: the candidates of all draws."""

import json
import random
from dataclasses import asdict
from importlib.resources import files

import pyarrow.parquet as pq
import pytest
from align_process import kill, start, wait_for
from loopback_server import LoopbackServer
from transformers import AutoTokenizer

from mralign.config import load
from mralign.plan import pipeline
from mralign.presets import PRESETS
from mralign.rows import Candidate, from_table
from mralign.rows.schema import CANDIDATES, GENERATIONS
from mralign.run.held import holding

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

DATA = files("mralign.miniworld") / "data"
DECIDED = ["candidates.keep_neutral=false", "candidates.keep_all_draws=false"]  # as the paper does it


def questions(count):
    source = "pkg://mralign.miniworld/data/questions/train.jsonl"
    return f"questions.train=[{{name: miniworld, path: {source!r}, limit: {count}}}]"


def candidates(run, *settings):
    """The candidates of a run, the number of draws that it has made, and the manifests of both stages."""
    config = load("miniworld", overrides=[f"run.dir={run}", *settings], presets_dir=PRESETS)
    planned = pipeline.plan(config, until="candidates")
    with pipeline.writing(config, planned) as planned:
        planned = pipeline.run(config, planned, start_ray=lambda: None)
    rollouts, judged = (pipeline.find(planned, name).out for name in ("rollouts", "candidates"))
    rows = map(asdict, from_table(judged.read(schema=CANDIDATES), Candidate))
    made = rollouts.read(schema=GENERATIONS).num_rows
    return sorted(rows, key=lambda row: row["row_id"]), made, rollouts.manifest(), judged.manifest()


def test_candidates_and_the_funnel_of_the_embedded_world(tmp_path):
    count = 150
    limits = ["candidates.min_thought_tokens=20", "candidates.max_thought_tokens=70"]
    common = [questions(count), *limits, *DECIDED]
    with holding():
        whole, every, _, _ = candidates(tmp_path / "all", *common, "rollouts.order=all")
        found, made, drawn, judged = candidates(tmp_path / "needed", *common)
        assert every == 6 * count
        assert found == whole and {row["polarity"] for row in found} == {1, -1}
        assert made == every - drawn.figures["draws_not_needed"] < 0.8 * every
        assert 0 <= drawn.figures["prefix_tokens"] < drawn.figures["prompt_tokens"] >= made
        entered = [row for row in judged.figures["funnel"] if row["filter"] == "not_generated"]
        assert [(row["rows_in"], row["rows_out"]) for row in entered] == [(count, count)]
        all_kept = [*common, "candidates.keep_all_draws=true"]
        whole, *_ = candidates(tmp_path / "all", *all_kept, "rollouts.order=all")
        found, *_ = candidates(tmp_path / "needed", *all_kept, "rollouts.order=needed")
        assert found == whole and len({row["question_id"] for row in found}) < len(found)
        found, _, drawn, _ = candidates(tmp_path / "needed", *common, "candidates.max_thought_tokens=45")
        assert found == [] and drawn.figures["thoughts_cut"] > 0  # all thoughts of this model are longer


@pytest.mark.long
def test_a_thought_with_too_many_segments_is_ended_while_it_is_written(tmp_path):
    count = 200  # the thoughts of this world have 10 to 13 segments
    limits = ["candidates.min_segments=2", "candidates.max_segments=11", "candidates.max_thought_tokens=150"]
    common = [questions(count), *limits, *DECIDED]
    with holding():
        whole, *_ = candidates(tmp_path / "all", *common, "rollouts.order=all")
        found, _, drawn, judged = candidates(tmp_path / "needed", *common)
    assert found == whole and {row["polarity"] for row in found} == {1, -1}
    assert drawn.figures["thoughts_cut"] > 0 and drawn.figures["tokens_asked_again"] == 0
    ended = [row for row in draws(tmp_path / "needed") if row["invalid"] == "many_segments"]
    assert len(ended) == drawn.figures["thoughts_cut"]
    to_the_end = {row["row_id"]: row for row in draws(tmp_path / "all")}
    for row in ended:
        other = to_the_end[row["row_id"]]
        assert other["text"].startswith(row["text"]) and row["completion_tokens"] <= other["completion_tokens"]
        assert other["token_ids"][: row["completion_tokens"]] == row["token_ids"]
    assert sum(row["completion_tokens"] for row in ended) < sum(
        to_the_end[row["row_id"]]["completion_tokens"] for row in ended
    )
    lost = [row["rows_in"] - row["rows_out"] for row in judged.figures["funnel"] if row["filter"] == "many_segments"]
    assert sum(lost) >= len(ended)


def draws(run):
    return [row for part in run.glob("rollouts/*/part-*.parquet") for row in pq.read_table(part).to_pylist()]


def draw_key(payload):
    """What tells one draw from another: its seed, its prompt, and the length that it may have."""
    return json.dumps([payload["seed"], payload["prompt"], payload["max_tokens"]])


def model_of_one_mind(gold):
    """Answers a draw by its seed, and in each mode of a question nearly always alike."""
    tokenizer = AutoTokenizer.from_pretrained(str(DATA / "model"))

    def answer(key):
        seed, prompt, _ = json.loads(key)
        text = tokenizer.decode(prompt)
        thinks = "</think>" not in text
        question = next(question for question in gold if question in text)
        share = random.Random(f"{question}{thinks}").choice([0.05, 0.95])
        said = gold[question] if random.Random(seed).random() < share else "nothing"
        thought = "\n\n".join(["the river is long"] * 6)
        return f"<think>\n{thought}\n</think>\n\n{said}" if thinks else said

    return answer


@pytest.mark.long
def test_an_endpoint_killed_on_the_way_pays_no_draw_twice(tmp_path):
    count = 80
    lines = (DATA / "questions" / "train.jsonl").read_text().splitlines()[:count]
    gold = {line["question"]: line["answer"][0] for line in map(json.loads, lines)}
    with LoopbackServer(prompt=draw_key, answer=model_of_one_mind(gold), latency_s=0.1) as server:
        settings = [questions(count), *DECIDED, "candidates.min_thought_tokens=1", "rollouts.engine=http"]
        settings += [f"http.base_url={server.base_url}", "http.concurrency=8", "engine.batch_size=8"]
        run, log = tmp_path / "needed", tmp_path / "log"
        driver = start(run, *settings, "--until", "candidates", log=log)
        wait_for(lambda: len(list(run.glob("rollouts/*/part-*.parquet"))) > 2, process=driver, log=log)
        kill(driver)
        before = sum(server.accepted.values())
        found, made, *_ = candidates(run, *settings)
        assert 0 < before < sum(server.accepted.values()) == made < 6 * count
        assert set(server.accepted.values()) == {1}
        whole, every, *_ = candidates(tmp_path / "all", *settings, "rollouts.order=all")
    assert every == 6 * count
    assert found == whole and {row["polarity"] for row in found} == {1, -1}
