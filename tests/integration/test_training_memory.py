"""Memory in whole trainings on Ray: what is chosen is told, and a worker that runs out makes all take less."""

import json
import subprocess
import sys

import pytest
from align_process import environment
from training_runs import PROGRAM, history, save_model_with_tokenizer

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.long]

# Every process that finds this on its path lets the second worker's third step run out of memory, once.
SITE = """
import importlib.abc, importlib.util, os, sys

class Watching(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "mralign.training.loop":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def loaded(module):
            load(module)
            plain = module.optimizer_step

            def step(engine, task, number, *, world, **rest):
                if number == 3 and world.rank == 1 and task.settings.workers == 2:
                    try:
                        os.close(os.open(os.environ["RAN_OUT"], os.O_CREAT | os.O_EXCL))
                    except FileExistsError:
                        pass
                    else:
                        import torch
                        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
                return plain(engine, task, number, world=world, **rest)

            module.optimizer_step = step

        spec.loader.exec_module = loaded
        return spec

sys.meta_path.insert(0, Watching())
"""
# The longer one first: both take the reference that it has scored.
RUNS = {
    "two": {"workers": 2, "micro_batch_tokens": 64, "max_steps": 6},
    "chosen": {"workers": 1, "memory": "auto", "micro_batch_tokens": None, "max_steps": 2},
}


@pytest.mark.timeout(900)
def test_what_is_chosen_is_told_and_a_worker_that_runs_out_makes_all_take_less(tmp_path):
    site, run = tmp_path / "site", tmp_path / "run"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    model = save_model_with_tokenizer(tmp_path / "model")
    given = {**environment(), "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "RAN_OUT": str(tmp_path / "ran_out")}
    given["PYTHONPATH"] = f"{site}:{given.get('PYTHONPATH', '')}"
    command = [sys.executable, str(PROGRAM), str(run), model, json.dumps(RUNS)]
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=False, timeout=850)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]

    manifest = json.loads((run / "training" / "chosen" / "manifest.json").read_text())
    chosen = manifest["figures"]["memory"]
    assert chosen["memory"] == "auto" and chosen["gradient_checkpointing"] is False
    assert f"training.memory=auto: micro-batches of {chosen['micro_batch_tokens']} tokens, nothing recomputed" in said
    rows = history(run / "training" / "chosen")
    assert [row["micro_batch_tokens"] for row in rows] == [chosen["micro_batch_tokens"]] * 2

    assert (tmp_path / "ran_out").exists()
    lines = [line for line in said.splitlines() if "training" in line]
    assert any("memory ran out; training goes on with micro-batches of 32 tokens" in line for line in lines), lines
    rows = history(run / "training" / "two")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row.get("micro_batch_tokens") for row in rows] == [
        None,
        None,
        32,
        32,
        32,
        32,
    ]  # from the last checkpoint on
    manifest = json.loads((run / "training" / "two" / "manifest.json").read_text())
    assert manifest["figures"]["memory"] == {"micro_batch_tokens": 32}
