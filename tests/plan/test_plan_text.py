"""What a plan says of size, time and money before anything has run, against numbers made by hand."""

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from sealed_runs import seal

from mralign.config import Model, load, resolve_path
from mralign.plan import gpus, model_config, pipeline, plan_text
from mralign.plan.shipped_run import SHIPPED
from mralign.presets import PRESETS

TINY = Path(resolve_path("pkg://mralign.miniworld/data/model"))


@pytest.fixture(autouse=True)
def no_cluster_and_no_gpu(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(gpus, "_of_this_machine", lambda: None)


@pytest.fixture
def told(tmp_path):
    """The lines of the plan of the embedded preset with some settings changed."""

    def tell(*overrides):
        config = load("miniworld", overrides=[f"run.dir={tmp_path}/run", *overrides], presets_dir=PRESETS)
        return plan_text.describe(config, pipeline.survey(config)).splitlines()

    return tell


def line(lines, start):
    (found,) = [one for one in lines if one.startswith(start)]
    return found


def http(name, *, prompt=0, completion=0, **more):
    endpoint = {"base_url": f"https://{name}.example/v1", "model": name, "price_prompt": prompt}
    return {"name": name, "engine": "http", "http": endpoint | {"price_completion": completion} | more}


def yaml(value):
    return json.dumps(value)


def test_limits_and_skips_count(told, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "q", "answer": "a"}\n' * 30)
    sources = [
        {"name": "all", "path": f"{tmp_path}/a.jsonl"},
        {"name": "cut", "path": f"{tmp_path}/a.jsonl", "skip": 25, "limit": 20},
        {"name": "few", "path": f"{tmp_path}/a.jsonl", "sample": 7},
        {"name": "far", "path": "hub://owner/name", "limit": 9},
        {"name": "none", "path": "hub://owner/name"},
    ]
    said = line(told(f"questions.train={yaml(sources)}"), "questions: ")
    assert said.startswith("questions: train all 30, cut 5, few 7, far at most 9, none unknown; dev miniworld 160;")


def test_memory_is_held_against_a_named_gpu(told):
    on_gpus = ["engine.gpus_per_replica=1", "training.gpu=true"]
    assumed = told(*on_gpus)
    assert line(assumed, "serving").startswith("serving, per GPU of 80 GiB (assumed: no GPU here; give run.gpu_memory")
    assert line(assumed, "serving").endswith(": fits")
    small = told(*on_gpus, "run.gpu_memory_gib=0.002")
    assert "(run.gpu_memory_gib)" in line(small, "serving")
    assert "does NOT fit. Give more GPUs to an engine" in line(small, "serving")
    assert "does NOT fit. Give training.gradient_checkpointing=true" in line(small, "training, per GPU")
    least = told(*on_gpus, "run.gpu_memory_gib=0.002", "training.memory=auto", "training.micro_batch_tokens=null")
    said = line(least, "training, per GPU")
    assert "the least of what training.memory=auto chooses from" in said
    assert "does NOT fit. Give a smaller examples.max_length" in said


def test_a_memory_that_is_given_is_held_against_what_the_least_choice_needs(told):
    for more in ([], ["engine.gpus_per_replica=1", "training.gpu=true"]):
        small = line(told(*more, "training.memory=1MiB", "training.micro_batch_tokens=null"), "training, per worker")
        assert "chooses from: does NOT fit. Raise training.memory" in small
        large = told(*more, "training.memory=60GiB", "training.micro_batch_tokens=null")
        assert "does NOT fit" not in line(large, "training, per ")


def test_elastic_training_is_planned_by_its_fewest_workers(told):
    elastic = told("training.workers=4", "training.min_workers=2")
    assert "over 2 of 4 workers, the fewest (training.min_workers)" in line(elastic, "training, per worker")


def test_models_of_annotators_are_served_beside_it(told):
    own = {"engine": "vllm", "model": {"path": str(TINY), "dtype": "float32"}, "serving": {"max_model_len": 512}}
    pair = [{"name": "ann", **own}, {"name": "ben", **own}]
    lines = told(f"annotation.annotators={yaml(pair)}", "annotation.adjudicator={name: jo, engine: vllm}")
    # 2 layers x 2 x 64 numbers of keys and values x 4 bytes x 512 tokens
    assert line(lines, "serving of").startswith("serving of 'ann', on a CPU: 2.0 MiB of weights, 0.5 MiB of key-value")
    gone = [{"name": name, "engine": "vllm", "model": {"path": "owner/name"}} for name in ("ann", "ben")]
    lines = told(f"annotation.annotators={yaml(gone)}")
    assert line(lines, "serving of 'ann': size unknown (owner/name is not in the hub's cache")


def test_time_comes_from_this_run_directory_or_from_the_run_that_is_shipped(told, tmp_path):
    shipped = line(told(), "time: ")
    assert SHIPPED.source in shipped
    config = load("miniworld", overrides=[f"run.dir={tmp_path}/run"], presets_dir=PRESETS)
    for item in pipeline.survey(config):
        seal(item, rows=7, figures={"train": 300, "dev": 9, "test": 240, "completion_tokens": 70})
    again = told(
        "run.seed=4", "questions.train=[{name: a, path: 'pkg://mralign.miniworld/data/questions/train.jsonl'}]"
    )
    # 600 train questions in place of 300: twice the 3 s of 13 stages, 3 s of the 12 on held-out questions
    assert line(again, "time: ").startswith("time: 2 min to 3 min for what is left (by earlier results in this run")
    assert line(again, "  assumed: an answer takes 10 tokens in the mean, as in the finished rollouts")
    assert line(
        told("model.dtype=bfloat16", "run.dir=" + str(tmp_path / "other"), "engine.gpus_per_replica=1"), "time: "
    )


def test_paid_stages_make_one_line(told, tmp_path):
    (tmp_path / "t.csv").write_text("Question,Best Answer,Correct Answers,Incorrect Answers\n" + "Q?,No,No,Yes\n" * 10)
    lines = told(
        f"annotation.annotators={yaml([http('ann', prompt=1, completion=2, budget=5), http('ben')])}",
        f"annotation.adjudicator={yaml(http('jo', prompt=1))}",
        f"questions.test=[{{name: t, format: truthfulqa, path: {tmp_path}/t.csv}}]",
        f"evaluation.judge={yaml(http('judge', prompt=1000, completion=0, currency='EUR'))}",
        "evaluation.methods=[think_on]",
        "evaluation.trained_methods=[think_on]",
        "evaluation.draws=2",
        "evaluation.reannotate=0",
    )
    money = line(lines, "money: ")
    judged = [one for one in lines if "judge judge: 20 requests" in one]  # 10 questions x 1 method x 2 draws
    assert [one.split(",")[0].strip() for one in judged] == ["judgements_base", "judgements"]
    prompts = int(judged[0].split("about ")[1].split(" prompt")[0].replace(",", ""))
    assert f"about {2 * prompts * 1000 / 1e6:,.2f} EUR" in money
    assert "unknown until candidates is finished: ann, jo" in money
    assert "unknown, for no price is given: ben (http.price_prompt and price_completion)" in money
    assert "ann stops at 5 USD" in money
    assert line(told(), "money: ") == "money: none; what is left asks no paid endpoint"


def test_an_endpoint_for_rollouts_costs_at_most_its_completions(told):
    lines = told("rollouts.engine=http", "http.price_completion=2", "http.currency=CHF")
    # 600 questions x 2 modes x 3 draws x 200 tokens x 2 / 1,000,000
    assert line(lines, "money: ") == "money: about 1.44 CHF"
    assert any(one.startswith("  rollouts, ") and "at most 3,600 requests" in one for one in lines)


class OneFile(BaseHTTPRequestHandler):
    """A hub with one model, of which only config.json is asked for."""

    def do_HEAD(self):
        self.server.asked.append(self.path)
        body = (TINY / "config.json").read_bytes()
        found = self.path.endswith("/me/tiny/resolve/main/config.json")
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"e"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        return body if found else b""

    def do_GET(self):
        self.wfile.write(self.do_HEAD())

    def log_message(self, *_):
        pass


def test_a_model_on_the_hub_is_known_by_one_file_where_the_hub_answers(tmp_path):
    found, why = model_config.known_config(Model(path="me/tiny"))
    assert found is None
    assert "the hub is not asked: HF_HUB_OFFLINE, or no network" in why
    code = (
        "from mralign.config import Model\n"
        "from mralign.plan.model_config import known_config\n"
        "found, why = known_config(Model(path='me/tiny'))\n"
        "print(why or found.hidden_size)\n"
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), OneFile) as hub:
        hub.asked = []
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        own = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        environment = {**os.environ, **own}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        hub.shutdown()
    assert done.stdout.split() == [str(json.loads((TINY / "config.json").read_text())["hidden_size"])]
    assert {path for path in hub.asked if path.startswith("/me/")} == {"/me/tiny/resolve/main/config.json"}


def test_a_model_that_is_not_known_is_one_line(told, tmp_path):
    shutil.copytree(TINY, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{}")
    for path in ("owner/name", f"{tmp_path}/model", f"{tmp_path}/gone"):
        lines = told(f"model.path={path}")
        assert line(lines, "model: ").startswith("model: size unknown (")
        assert not any(one.startswith(("serving", "training, per")) for one in lines)
