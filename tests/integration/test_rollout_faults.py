"""An engine killed with -9, a node removed, one row in a hundred poisoned: the rollouts come out exact."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from python_path import python_path

from mralign.rows.schema import GENERATIONS, QUESTIONS
from mralign.run.part_names import part_name
from mralign.run.store import StageDir

pytestmark = [pytest.mark.integration, pytest.mark.slow]

HERE = Path(__file__).parent
WORLD = HERE.parents[1] / "mralign" / "miniworld" / "data" / "questions" / "train.jsonl"
POISON = {  # 4 of 400 questions
    17: ("river " * 400, "prompt_too_long"),
    133: ("", "empty_question"),
    250: ("what is \x00 the capital\x1b[2J", "control_characters"),
    399: ("river " * 175_000, "prompt_too_long"),  # 1 MB
}


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """400 questions of the embedded world in four parts, four of them poisoned."""
    place = StageDir(str(tmp_path_factory.mktemp("questions")), stage="questions")
    lines = [json.loads(line) for line in WORLD.read_text().splitlines()[:400]]
    rows = [
        {
            "question_id": f"w/{n}",
            "dataset": "w",
            "split": "train",
            "question": POISON[n][0] if n in POISON else line["question"],
            "answers": ["x"],
            "extra": "{}",
        }
        for n, line in enumerate(lines)
    ]
    for number in range(4):
        table = pa.Table.from_pylist(rows[100 * number : 100 * (number + 1)], schema=QUESTIONS)
        place.commit(part_name(f"train-00-{number:05d}"), table, schema=QUESTIONS)
    return place


def run(questions, target, mode):
    command = [sys.executable, str(HERE / "rollout_cluster.py"), questions.path(), str(target), mode]
    environment = {
        **os.environ,
        "PYTHONPATH": python_path(HERE.parents[1]),
        "RAY_AUTH_MODE": "disabled",
        "HF_HUB_OFFLINE": "1",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=420, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1]), StageDir(str(target), stage="rollouts")


@pytest.fixture(scope="module")
def undisturbed(questions, tmp_path_factory):
    """Token ids by row of a run in which nothing is lost."""
    _, quiet = run(questions, tmp_path_factory.mktemp("quiet") / "out", "none")
    return {row["row_id"]: row["token_ids"] for row in quiet.read(schema=GENERATIONS).to_pylist()}


@pytest.mark.long
@pytest.mark.parametrize("mode", ["faults", "faults-kept"])
def test_the_output_is_exact_whatever_is_lost_on_the_way(questions, undisturbed, tmp_path, mode):
    figures, out = run(questions, tmp_path / "faults", mode)
    assert 0 < figures["killed_at_rows"] < figures["removed_at_rows"] < figures["rows"]  # both while rows were left

    rows = out.read(schema=GENERATIONS).to_pylist()
    wanted = {
        f"w/{n}/{mode}/{draw}" for n in range(400) if n not in POISON for mode in ("on", "off") for draw in range(3)
    }
    assert Counter(row["row_id"] for row in rows) == Counter(wanted)
    rejects = out.read_rejects().to_pylist()
    assert Counter(reject["reason"] for reject in rejects) == {
        "prompt_too_long": 12,
        "empty_question": 6,
        "control_characters": 6,
    }
    assert {reject["row_id"].split("/")[1] for reject in rejects} == {str(n) for n in POISON}
    assert next(r["raw"] for r in rejects if r["row_id"] == "w/399/on/0") == POISON[399][0]

    same = sum(undisturbed[row["row_id"]] == row["token_ids"] for row in rows)
    # A seed fixes the draws; in another batch a logit may differ in its last bits, and a draw with it.
    assert same >= 0.99 * len(rows)
