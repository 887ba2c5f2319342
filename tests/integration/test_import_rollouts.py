"""Rollouts made elsewhere: real Qwen3-8B traces through every room, and a few training steps on SmolLM2-135M.

Needs the published traces beside the checkout and SmolLM2's weights, which a package of the test requirements carries.
"""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from align_process import finish, start
from smollm2 import MISSING, find_gguf, shared_smollm2

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.long]

TRACES = Path(__file__).parents[3] / "shared" / "data" / "traces"


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    if find_gguf() is None:
        pytest.skip(MISSING)
    return shared_smollm2(tmp_path_factory)


@pytest.mark.skipif(not TRACES.is_dir(), reason=f"the published Qwen3-8B traces are not at {TRACES}")
def test_real_traces_and_a_real_tokenizer(smollm2, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    arguments = [
        "--preset",
        "import-rollouts",
        f"model.path={smollm2}",
        "model.family=prompted",
        f"rollouts.import_on={TRACES / 'qwen3-8b_simpleqa.jsonl'}",
        f"rollouts.import_off={TRACES / 'qwen3-8b_simpleqa_no_think.jsonl'}",
        "examples.max_length=900",
        "training.dtype=float32",
        "training.max_steps=2",
        "training.workers=1",
        "training.batch_size=2",
        "training.lora.r=8",
    ]
    finish(start(run, *arguments, log=log), log=log, timeout=540)

    def manifest(stage):
        return json.loads(next((run / stage).glob("*/manifest.json")).read_text())

    assert manifest("questions")["rows_out"] + sum(manifest("questions")["rejects"].values()) == 800
    assert manifest("rollouts")["rows_in"] == 1600
    assert manifest("candidates")["rows_out"] > 5
    annotation = manifest("annotation")["figures"]
    assert annotation["rules"].get("unlabelled", 0) < 0.15 * annotation["steps"]
    examples = next((run / "examples").glob("*/"))
    weights = {
        r["row_id"]: r["step_weights"] for p in (run / "weights").glob("*/part-*") for r in pq.read_table(p).to_pylist()
    }
    checked = 0
    for part in examples.glob("part-*"):
        for row in pq.read_table(part).to_pylist():
            assert len(row["token_step"]) == len(row["token_ids"])
            steps = [step for step in row["token_step"] if step >= 0]
            assert steps == sorted(steps)  # the thought's tokens, in order ...
            assert row["token_step"] == steps + [-1] * (len(row["token_ids"]) - len(steps))  # ... then the answer's
            assert sorted(set(steps)) == list(range(len(weights[row["row_id"]])))  # every step has tokens and a weight
            checked += 1
    assert checked == manifest("examples")["rows_out"] > 3
    history = [json.loads(line) for line in next((run / "training").glob("*/metrics.jsonl")).read_text().splitlines()]
    assert len(history) == 2
    assert abs(history[0]["reward_chosen"]) < 1e-2
    assert history[0]["grad_norm"] > 0
    assert next((run / "training").glob("*/model/model.safetensors")).stat().st_size > 200e6
    assert next((run / "training").glob("*/adapter/adapter_model.safetensors")).stat().st_size > 1e6
