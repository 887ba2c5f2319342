"""Logs of other tools become rollouts that the import reads."""

import json
from pathlib import Path

import pytest
import small_run

from mralign.config import ImportFields
from mralign.exchange.rollout_files import FIELDS, write_rollouts
from mralign.rollouts.imported import read_rollouts
from mralign.rows import Mode


def sample(doc_id, *texts):
    """A line as lm-eval writes it."""
    return {
        "doc_id": doc_id,
        "doc": {"question": f"question {doc_id}?"},
        "target": "['lima', 'city of lima']",
        "arguments": {"gen_args_0": {"arg_0": f"Q: question {doc_id}?"}},
        "resps": [list(texts)],
        "filter": "none",
    }


def write(path, *rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def test_two_logs_of_one_task_become_both_modes(tmp_path):
    on = write(tmp_path / "samples_nq_2026-01-01T00-00.jsonl", sample(0, "<think>lima ?</think>lima", "<think>x"))
    (tmp_path / "off").mkdir()
    off = write(tmp_path / "off" / "samples_nq_2026-01-02T00-00.jsonl", sample(0, "lima", "no"), sample(1, "no", "no"))
    assert write_rollouts([on, off], to=str(tmp_path / "out")) == {"on": 2, "off": 4}
    named = ImportFields(id="id", question="question", answers="answers", response="response", draw="draw")
    assert all(f"{name}: {name}" in FIELDS for name in ("id", "question", "answers", "response", "draw"))
    found = {}
    for mode in Mode:
        path = str(tmp_path / "out" / f"{mode}.jsonl")
        model = small_run.config(".").model
        table, rejects = read_rollouts(path, mode=mode, name="again", fields=named, model=model, draws=2)
        assert rejects == []
        found |= {row["row_id"]: row for row in table.to_pylist()}
    assert found["again/nq/0/on/0"]["answer"] == "lima"
    assert found["again/nq/0/on/1"]["invalid"] == "unclosed_thought"
    assert found["again/nq/1/off/1"]["answers"] == ["lima", "city of lima"]


def test_a_response_without_gold_answers_is_no_rollout(tmp_path):
    path = write(tmp_path / "mine.jsonl", {"question": "q", "response": "x"})
    with pytest.raises(ValueError, match=r"mine\.jsonl: line 1 has no question or no gold answers"):
        write_rollouts([path], to=str(tmp_path / "out"))
    assert not Path(tmp_path / "out").exists()
