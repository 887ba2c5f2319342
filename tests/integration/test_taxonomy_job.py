"""The discovery job by its command, against a loopback endpoint and a real sentence model: kill -9, rerun, use."""

import json
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from align_process import ROOT, environment, finish, kill, wait_for
from annotation.planted_names import CONCEPTS, planted_names
from loopback_server import LoopbackServer
from minilm import MISSING, find_minilm, save_minilm
from scripted_annotators import hopeless, request_of, write_rollouts

from mralign.annotation.taxonomy import load_taxonomy

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(find_minilm() is None, reason=MISSING),
]
QUESTIONS, CONCURRENCY = 120, 4
PLANTED = planted_names()
USED = ("recall", "comparison", "translation")
POOL = {
    used: random.Random(used).sample([n for n in PLANTED if PLANTED[n] == list(CONCEPTS).index(used)], 12)
    for used in USED
}


def answer_to(request):
    """No model: names of three concepts, drawn by the question; clusters are named by the concept of their names."""
    messages = json.loads(request)[1]
    if "cluster_1" in messages[1]:
        clusters = re.findall(r"^(cluster_\d+): (\w+)", messages[1], re.MULTILINE)
        named = {key: list(CONCEPTS)[PLANTED[name]] for key, name in clusters}
        return json.dumps({k: {"name": v, "meaning": f"does {v}", "macro": v.upper()} for k, v in named.items()})
    question = re.search(r"Question: (.*)", messages[1])[1]
    if hopeless(question):
        return "I would rather not."
    dice = random.Random(question)
    last = int(re.findall(r"^\[(\d+)\]", messages[1], re.MULTILINE)[-1])
    steps = [{"segments": [i], "labels": [{"label": name(dice), "confidence": 7}]} for i in range(last + 1)]
    bad = dice.random() < 0.3 and len(messages) == 2  # the first try
    return json.dumps({"steps": steps[:-1] if bad else steps})


def name(dice):
    return dice.choice(POOL[dice.choice(USED)]).replace("_", " ").title()


def start(run, *arguments, log):
    command = [sys.executable, "jobs/taxonomy.py", f"run.dir={run}", *arguments]
    with Path(log).open("a") as stream:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )


def rows(run, pattern):
    return [row for part in run.glob(f"open_labels/*/{pattern}") for row in pq.read_table(part).to_pylist()]


def test_a_killed_discovery_goes_on_and_its_taxonomy_is_used(tmp_path):
    rollouts = write_rollouts(tmp_path, questions=QUESTIONS)
    run, log, out = tmp_path / "run", tmp_path / "log", tmp_path / "my taxonomy"
    with LoopbackServer(latency_s=0.1, prompt=request_of, answer=answer_to) as server:
        http = {"base_url": server.base_url, "model": "m", "concurrency": CONCURRENCY, "vllm_extras": False}
        labeller = {"name": "labeller", "engine": "http", "http": http}
        arguments = [
            "--preset",
            "import-rollouts",
            f"--out={out}",
            "model.path=pkg://mralign.miniworld/data/model",
            "model.family=prompted",
            f"rollouts.import_on={rollouts[0]}",
            f"rollouts.import_off={rollouts[1]}",
            f"discovery.labeller={json.dumps(labeller)}",
            "discovery.min_frequency=3",
            "discovery.embedding.engine=sentence_transformers",
            f"discovery.embedding.path={save_minilm(tmp_path / 'minilm')}",
        ]
        process = start(run, *arguments, log=log)
        wait_for(lambda: len(rows(run, "part-*.parquet")) > 20, process=process, log=log)
        kill(process)
        before = len(server.accepted)
        finish(start(run, *arguments, log=log), log=log)
        distinct, total = len(server.accepted), sum(server.accepted.values())
        assert 20 < before < distinct <= total <= distinct + CONCURRENCY  # those in flight when it was killed

        kept, rejected = rows(run, "part-*.parquet"), rows(run, "rejects/part-*.parquet")
        assert len({r["row_id"] for r in [*kept, *rejected]}) == len(kept) + len(rejected) == QUESTIONS
        lost = {row["row_id"].split("/")[1] for row in rejected}
        assert lost == {str(n) for n in range(QUESTIONS) if hopeless(f"What is number {n}?")}
        found = load_taxonomy(str(out / "taxonomy.yaml"))
        assert set(found.labels) == set(USED) and found.meaning["recall"] == "does recall"
        record = json.loads((out / "clusters.json").read_text())
        assert all(PLANTED[n] == list(CONCEPTS).index(c["label"]) for c in record["clusters"] for n in c["names"])
        assert record["silhouette"] > 0.3
        assert (out / "clusters.svg").read_text().startswith("<svg xmlns=")

        finish(start(run, *arguments, "discovery.xi=0.06", log=log), log=log)
        assert sum(server.accepted.values()) == total  # nothing is asked twice, not even the names of the clusters

    command = shlex.split(re.findall(r"^annotate with it: python (.*)$", log.read_text(), re.MULTILINE)[-1])
    chats = [labeller | {"name": n} for n in ("a", "b", "c")]
    use = [f"annotation.annotators={json.dumps(chats[:2])}", f"annotation.adjudicator={json.dumps(chats[2])}"]
    command = [sys.executable, *command, *use, "--until", "annotation", "--dry-run"]
    planned = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert planned.returncode == 0, planned.stderr[-3000:]
    assert re.search(r"candidates\s+\w+\s+skip.*\n\s+annotation\s+\w+\s+run", planned.stdout)


def test_cue_phrases_cannot_discover_and_are_refused_at_once(tmp_path):
    command = [sys.executable, "jobs/taxonomy.py", f"run.dir={tmp_path}/run"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert "annotation.adjudicator is 'adjudicator' with engine=cues, which cannot find new names" in done.stderr
