"""Two rounds on the embedded world, with real engines and trainings: killed between them, then to the end."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from align_process import SMALL, finish, kill, manifest, rows, stage_dir, start, wait_for

from mralign.config import load, resolve_path
from mralign.plan import pipeline
from mralign.report.rounds import rounds_of
from mralign.training.engine import prepare_process
from mralign.training.logprobs import TokenLogProbs
from mralign.training.policy import load_model
from mralign.training.reference import score

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(3600)]

DEV = 'questions.dev=[{name: miniworld, path: "pkg://mralign.miniworld/data/questions/dev.jsonl", limit: 40}]'
# Rounds go on whatever they gain; a small rate leaves harmful thoughts to a second round.
ROUNDS = [*SMALL, DEV, "run.rounds=2", "run.round_gain=-1", "training.learning_rate=5e-4"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Killed while the second round samples, started again, and then once more: the run directory and its log."""
    home = tmp_path_factory.mktemp("rounds")
    run, log = home / "run", home / "log"
    first = start(run, *ROUNDS, log=log)
    sampled = "round-2/rollouts/*/part-*"
    wait_for(lambda: list(run.glob(sampled)), process=first, log=log, timeout=1500)
    kill(first)
    committed = sealed_parts(run)
    finish(start(run, *ROUNDS, log=log), log=log, timeout=1500)
    shutil.copy(log, home / "log-of-both")
    assert committed.items() <= sealed_parts(run).items()  # nothing that was finished is made again
    finish(start(run, *ROUNDS, log=home / "third"), log=home / "third")
    return home


def sealed_parts(run):
    """When each part of a finished stage was written."""
    found = {}
    for sealed in run.glob("**/manifest.json"):
        found |= {str(part): part.stat().st_mtime_ns for part in sealed.parent.glob("part-*.parquet")}
    return found


def test_all_rounds_are_told_and_the_end_says_where_the_result_is(home):
    said, found = (home / "log-of-both").read_text(), rounds_of(str(home / "run"))
    assert [record.number for record in found.records] == [0, 1, 2]
    assert found.ended == "all 2 rounds are done"
    assert f"the result is the policy of round {found.kept}" in said
    kept = home / "run" if found.kept == 1 else home / "run" / "round-2"
    assert f"model     {stage_dir(kept, 'training')}/model" in said
    page = (kept / "report" / "index.html").read_text()
    assert "Round 0 is the model before any round." in page
    assert (home / "run" / "rounds.yaml").exists()


def test_the_figures_are_those_of_the_tables(home):
    """Acc of dev and candidates of the second round, counted again by pyarrow alone."""
    record = rounds_of(str(home / "run")).records[2]
    second = home / "run" / "round-2"
    (dev,) = [place for place in (second / "evaluation").iterdir() if place.name == record.marks["evaluation"]]
    scores = pq.read_table(next(dev.glob("part-*.parquet"))).to_pylist()
    assert len(scores) == 40
    assert record.acc == pytest.approx(sum(row["acc"] for row in scores) / 40)
    polarities = [row["polarity"] for row in rows(stage_dir(second, "candidates"))]
    assert (record.positives, record.negatives) == (polarities.count(1), polarities.count(-1))


def test_the_second_round_samples_what_was_trained_and_keeps_the_first_reference(home):
    second = home / "run" / "round-2"
    served = manifest(second, "rollouts")["figures"]["served_minus_trained_logp"]
    assert abs(served) < 1e-3  # the engine's log-probabilities of the probe, in float32
    config = load(str(second / "config.yaml"))
    assert config.model.path == f"{stage_dir(home / 'run', 'training')}/model"
    assert resolve_path(config.training.reference.path) == resolve_path("pkg://mralign.miniworld/data/model")
    settings = config.training.model_copy(update={"workers": 1})
    prepare_process(settings)
    examples = rows(stage_dir(second, "examples"))[:4]
    pairs = [(np.array(row["prompt_token_ids"]), np.array(row["token_ids"])) for row in examples]
    base, policy = (
        score(TokenLogProbs(load_model(model, settings)), pairs, settings=settings)
        for model in (config.training.reference, config.model)
    )
    stored = [row["logps"] for part in _matched(second) for row in pq.read_table(part).to_pylist()]
    for wanted, other in zip(base, policy, strict=True):
        assert any(len(row) == len(wanted) and abs(wanted - row).max() < 1e-3 for row in stored)
        assert abs(wanted - other).max() > 1e-2


def _matched(run):
    (reference,) = [rows(stage_dir(run, "reference"))]
    return [run / "reference_by_content" / row["address"] for row in reference if row["kind"] == "matched"]


def test_a_finished_run_of_rounds_does_nothing_again(home):
    said = (home / "third").read_text()
    assert "starts" not in said
    assert json.loads((home / "run" / "report" / "stages.json").read_text())["finished"]
    config = load(str(home / "run" / "rounds.yaml"))
    assert config.run.rounds == 2 and config.evaluation.split == "test"
    assert all(item.manifest is not None for item in pipeline.survey(config))
