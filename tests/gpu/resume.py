"""How far trainings that should be one and the same are from each other on a device: in no bit, or by how much.

A directory to work in enters. A tiny model is trained in float32 and in bfloat16: twice in the same way, once killed
after a checkpoint and gone on with, once in smaller micro-batches. One line of JSON leaves: for each of the last three,
whether every trained weight is the first one's to the last bit, and the largest difference of a weight and of a loss.
On a GPU (--gpu) attention in bfloat16 is varlen, as in a run.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
from ranks import run_ranks  # noqa: E402
from tiny_policy import save_model, settings  # noqa: E402

FIRST = "first"
WAYS = {
    FIRST: {},
    "again": {},
    "left": {"checkpoint_every": 2, "stop_after": 4},
    "resumed": {"checkpoint": "left"},
    "small micro-batches": {"micro_batch_tokens": 1},
}
DTYPES = ("float32", "bfloat16")


def variants(*, gpu):
    """Settings of all trainings by dtype and name."""
    return {dtype: {name: {"dtype": dtype, "gpu": gpu, **way} for name, way in WAYS.items()} for dtype in DTYPES}


def compared(one, other):
    """How far a training is from another."""
    (history, weights, _), (its_history, its_weights, _) = one, other
    assert weights.keys() == its_weights.keys() and len(history) == len(its_history)
    differences = [float(np.abs(values - its_weights[name]).max()) for name, values in weights.items()]
    losses = [abs(row["loss"] - its["loss"]) for row, its in zip(history, its_history, strict=True)]
    return {
        "bitwise": all(np.array_equal(values, its_weights[name]) for name, values in weights.items()),
        "largest difference of a weight": max(differences),
        "of a loss": max(losses),
    }


def measure(work, *, gpu):
    save_model(work / "model")
    found = {}
    for dtype, ways in variants(gpu=gpu).items():
        home = work / dtype
        home.mkdir()
        trained = run_ranks(home, str(work / "model"), ways)
        first = trained[FIRST]
        largest = max(float(np.abs(values).max()) for values in first[1].values())
        names = [name for name in ways if name not in (FIRST, "left")]
        found[dtype] = {name: compared(trained[name], first) for name in names} | {"largest weight": largest}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--dry", action="store_true", help="check the settings; train nothing")
    args = parser.parse_args()
    if args.dry:
        own = {"checkpoint", "stop_after"}  # of tests/training/rank.py
        for ways in variants(gpu=True).values():
            for way in ways.values():
                settings(**{name: value for name, value in way.items() if name not in own})
        print(json.dumps({"trainings": [*WAYS], "dtypes": DTYPES}))
        return
    args.work.mkdir(parents=True, exist_ok=True)
    print(json.dumps(measure(args.work, gpu=args.gpu)))


if __name__ == "__main__":
    main()
