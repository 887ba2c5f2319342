"""The stages `reference` and `training` on committed tiny examples, on a local Ray: a program, for a test to kill.

Arguments: a run directory, a model, and settings of `training` by name as JSON. All share examples and reference; the
name stands for the fingerprint of the stage `training`. What is finished is left alone.
"""

import json
import logging
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from tiny_policy import commit_examples  # noqa: E402

from mralign.config import parse  # noqa: E402
from mralign.plan import pipeline  # noqa: E402
from mralign.run import local_ray  # noqa: E402
from mralign.run.store import StageDir  # noqa: E402
from mralign.training.stage import REFERENCE_STAGE, objective, training_stage  # noqa: E402

BASE = {
    "learning_rate": 1e-2,
    "epochs": 8,
    "batch_size": 6,
    "micro_batch_tokens": 60,
    "dtype": "float32",
    "checkpoint_every": 2,
    "lora": {"r": 4, "alpha": 8},
}


def train(home, model, name, training):
    """From the reference to the exported model, as the pipeline does it."""
    values = {"run": {"dir": str(home), "local_cpus": 4}, "model": {"path": model, "dtype": "float32"}}
    values |= {"questions": {"train": [{"name": "a", "path": "a"}]}, "training": {**BASE, **training}}
    config = parse(values)
    there = {name: StageDir(f"{home}/{name}", stage=name, fingerprint="tiny") for name in ("examples", "weights")}
    if not there["weights"].exists():
        commit_examples(home)
    for stage in (REFERENCE_STAGE, training_stage(objective(config))):
        mark = name if stage.name == "training" else "tiny"
        out = StageDir(f"{home}/{stage.name}/{mark}", stage=stage.name, fingerprint=mark)
        if out.manifest() is None:
            local_ray.start(config)
            upstream = {name: there[name] for name in stage.upstream}
            try:
                pipeline.run_stage(config, pipeline.Planned(stage, out, upstream, {}, {}, None))
            except ValueError as stopped:
                print(f"{name} stopped: {stopped}", flush=True)
                return
        there[stage.name] = out


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("mralign").setLevel(logging.INFO)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    home, model = Path(sys.argv[1]), sys.argv[2]
    for name, training in json.loads(sys.argv[3]).items():
        train(home, model, name, training)
