"""A labeller of the 800 real thoughts, with the cue phrases as the panel, where the development data lie."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from mralign.annotation.decide import annotate_here
from mralign.annotation.instruction import trajectory_of
from mralign.annotation.labeller_fit import fit
from mralign.annotation.resolved import resolve_annotation
from mralign.config import parse
from mralign.distillation import held_out
from mralign.distillation.held_out import HeldOutWork, report
from mralign.distillation.panel import panel_work
from mralign.distillation.weight_change import WeightSettings
from mralign.rollouts import segments as segment_spans
from mralign.rows.schema import CANDIDATES

TRACES = Path(__file__).parents[3] / "shared" / "data" / "traces" / "qwen3-8b_simpleqa.jsonl"


def candidates():
    for line in TRACES.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        text = row["thought"]
        spans = segment_spans(text, start=len("<think>"), end=text.find("</think>"))
        yield dict.fromkeys(CANDIDATES.names) | {
            "row_id": f"t/{row['id']}/on/0",
            "question_id": f"t/{row['id']}",
            "dataset": "t",
            "question": row["problem"],
            "answers": [row["answer"]],
            "polarity": 1 if row["grading"] != "C" else -1,
            "text": text,
            "segment_start": [start for start, _ in spans],
            "segment_end": [end for _, end in spans],
        }


@pytest.mark.long
@pytest.mark.skipif(not TRACES.exists(), reason="the real traces of ../shared/data are not on this machine")
def test_real_thoughts_are_labelled_far_better_than_by_chance_and_probabilities_mean_what_they_say(monkeypatch):
    monkeypatch.setattr(held_out, "REPLICATES", 40)
    config = parse({"questions": {"train": [{"name": "t", "path": "t"}]}})
    rows, resolved = list(candidates()), resolve_annotation(config)
    annotated, rejects = annotate_here(pa.Table.from_pylist(rows, schema=CANDIDATES), resolved=resolved)
    assert (len(annotated), rejects) == (800, [])
    segments = {row["row_id"]: trajectory_of(row).segments for row in rows}
    work = panel_work(annotated, segments=segments, states=resolved.taxonomy.states)
    fitted = fit(work.lessons, labels=work.labels)
    by = WeightSettings.of(config, states=work.states)
    names = {"labels_a": "first", "labels_b": "second", "labels": "panel"}
    found = report(HeldOutWork(work, fitted.held_out, names=names, by=by))
    own, annotators = found["agreement"][0], found["agreement"][1]
    assert 0.5 < own["strict"][0] < annotators["strict"][0]  # what two rule books of one author have in common
    assert own["kappa_strict"][1] > 0.45
    assert found["calibration_error"] < 0.02
    assert own["mean_l1"][0] < 0.02 and found["weights"]["mean_change"][0] < 0.15
