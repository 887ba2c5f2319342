"""A run directory as `align` leaves it up to its examples, made by the rooms' own functions without Ray or a model.

Four questions of the embedded model's tokenizer, two positive and two negative, with thoughts of three segments.
"""

import json
from pathlib import Path

import pyarrow as pa

from mralign.chat.model_files import load_tokenizer
from mralign.config import RunConfig, resolve_path, to_yaml
from mralign.rollouts.candidates import trajectory
from mralign.rows import Candidate, Generation, Polarity, to_table
from mralign.rows.schema import (
    ANNOTATIONS,
    CANDIDATES,
    EXAMPLES,
    GENERATIONS,
    WEIGHTS,
    AnnotatedStep,
    AnnotatedTrajectory,
)
from mralign.run.part_names import part_name
from mralign.run.store import StageDir
from mralign.training.annotated import ANNOTATED
from mralign.training.examples import example_rows

MODEL = "pkg://mralign.miniworld/data/model"
PART = part_name("train-00-00000")
QUESTIONS = ("sizanas language", "bagafes capital", "baruvar river", "lekuser river")
STEP_WEIGHTS = [[0.5, 2.0], [1.5, 1.0], [0.75, 1.25], [2.5, 0.4]]


def config(run):
    source = {"name": "tiny", "path": "hub://someone/tiny?split=train"}
    return RunConfig.model_validate({"run": {"dir": str(run)}, "questions": {"train": [source]}, "rollouts": {"n": 1}})


def generation(number, *, mode):
    tokenizer = load_tokenizer(resolve_path(MODEL), model=config(".").model)
    subject = QUESTIONS[number].split()[0]
    thought = f"recall {subject}\n\nverify that it holds\n\nin short it is {subject}" if mode == "on" else ""
    written = f"<think>{thought}</think>{subject}" if mode == "on" else subject
    token_ids = tokenizer(f"{written}<|im_end|>", add_special_tokens=False)["input_ids"]
    text = tokenizer.decode(token_ids, skip_special_tokens=False).removesuffix("<|im_end|>").rstrip()
    prompt = f"<|im_start|>user {QUESTIONS[number]}<|im_end|><|im_start|>assistant"
    start = text.index("<think>") + len("<think>") if mode == "on" else -1
    end = text.index("</think>") if mode == "on" else -1
    return Generation(
        row_id=f"tiny/q{number}/{mode}/0",
        question_id=f"tiny/q{number}",
        dataset="tiny",
        question=QUESTIONS[number],
        answers=[subject],
        mode=mode,
        draw=0,
        seed=number,
        prompt_token_ids=tokenizer(prompt, add_special_tokens=False)["input_ids"],
        token_ids=token_ids,
        completion_tokens=len(token_ids),
        text=text,
        finish_reason="stop",
        thought_start=start,
        thought_end=end,
        answer=subject,
        thought_tokens=len(token_ids) - 4,
        invalid=None,
    )


def annotated(candidate):
    """The first two segments are one step, the third another."""
    none = {"labels_a": [], "confidences_a": [], "labels_b": [], "confidences_b": [], "rule": "equal"}
    steps = [AnnotatedStep(0, 1, ["retrieval"], [9.0], **none), AnnotatedStep(2, 2, ["summarization"], [8.0], **none)]
    names = ("row_id", "question_id", "dataset", "polarity")
    given = {name: getattr(candidate, name) for name in names}
    return AnnotatedTrajectory(**given, segments=3, confidence_a=None, confidence_b=None, steps=steps)


def write(run, *, weighted=True):
    """Write the directory; its path."""
    run = Path(run)
    rows = [generation(number, mode=mode) for number in range(4) for mode in ("on", "off")]
    polarities = [Polarity.POSITIVE, Polarity.POSITIVE, Polarity.NEGATIVE, Polarity.NEGATIVE]
    on = [row for row in rows if row.mode == "on"]
    kept = [trajectory(row, polarity=p, match="exact") for row, p in zip(on, polarities, strict=True)]
    candidates, annotations = to_table(kept, Candidate), to_table(map(annotated, kept), AnnotatedTrajectory)
    joined = candidates.append_column(ANNOTATED.field("steps"), annotations.column("steps"))
    examples, rejects = example_rows(joined, model=config(run).model, max_length=256)
    assert rejects == []
    weights = [
        {"row_id": one.row_id, "polarity": one.polarity, "step_weights": given}
        for one, given in zip(kept, STEP_WEIGHTS, strict=True)
    ]
    tables = {
        "rollouts": (to_table(rows, Generation), GENERATIONS),
        "candidates": (candidates, CANDIDATES),
        "annotation": (annotations, ANNOTATIONS),
        "examples": (examples, EXAMPLES),
    }
    if weighted:
        tables["weights"] = (pa.Table.from_pylist(weights, schema=WEIGHTS), WEIGHTS)
    for name, (table, schema) in tables.items():
        StageDir(f"{run}/{name}/0123", stage=name).commit(PART, table, schema=schema)
    (run / "config.yaml").write_text(to_yaml(config(run)))
    (run / "report").mkdir()
    results = {name: f"{name}/0123" for name in tables}
    (run / "report" / "stages.json").write_text(json.dumps({"finished": False, "results": results}))
    return str(run)
