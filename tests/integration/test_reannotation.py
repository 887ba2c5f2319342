"""From an evaluated model's responses to the transition matrix of its thoughts, on a real local Ray.

Two models answer the same questions; one always goes from framing to backtracking, the other from framing to
summarisation, in words that the cue phrases know. The difference of the two matrices is the one that was planted.
"""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from rollouts.test_candidates import generation

from mralign.annotation.stage import annotation_of
from mralign.config import RunConfig, parse
from mralign.evaluation.responses import Asked, shelf_of, write_parts
from mralign.plan.pipeline import Planned, run_stage
from mralign.rollouts.stage import thoughts_stage
from mralign.rows import Generation, to_table
from mralign.rows.schema import ANNOTATIONS, CANDIDATES, GENERATIONS, MATRICES, QUESTIONS
from mralign.rows.subjects import Subject
from mralign.run.part_names import part_name
from mralign.run.stage import Stage
from mralign.run.store import Manifest, StageDir
from mralign.transitions.stage import counts_of, matrix_of

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("local_ray")]

N, CHOSEN = 12, 6
WORDS = {"_base": "Wait, that is not right.", "": "In summary, it is so."}
FRAMING = "The question asks who it was."


def config_of(home: Path) -> RunConfig:
    source = [{"name": "nq", "path": "nq"}]
    return parse(
        {
            "run": {"dir": str(home), "seed": 5, "reject_limit": 1.0},
            "questions": {"train": source, "test": source},
            "training": {"datasets": ["nq"]},
            "transitions": {"bootstrap": 8},
            "evaluation": {"reannotate": CHOSEN},
        }
    )


def questions_of(home: Path) -> StageDir:
    out = StageDir(f"{home}/questions/0", stage="questions", fingerprint="0")
    rows = [{"question_id": f"held-out/{n}", "split": "test", "question": "Q?"} for n in range(N)]
    out.commit(part_name("test-0"), pa.Table.from_pylist(rows, schema=QUESTIONS), schema=QUESTIONS)
    return out


def responses_of(home: Path, side: str) -> StageDir:
    """Three parts; another's part and a part with snippets lie by their side."""
    out = StageDir(f"{home}/responses{side}/0", stage=f"responses{side}", fingerprint="0")
    thought = f"{FRAMING}\n\n{WORDS[side]}"
    asked = [
        Asked(group, f"shelf{side}-{group}", tuple(part_name(str(n)) for n in range(3)), {"on": "m"}, 2, 5)
        for group in ("plain", "ret")
    ]
    for one in asked:
        shelf = shelf_of(out, one)
        for part in range(4):  # the last answers other questions
            numbers = range(part, N, 3) if part < 3 else range(N, N + 3)
            said = thought if one.group == "plain" and part < 3 else "Wait, not this one."
            rows = [response(n, said, mode=mode, draw=draw) for n in numbers for mode, draw in MODES]
            name = part_name(f"{part}-x") if part < 3 else part_name("other-x")
            shelf.commit(name, to_table(rows, Generation), schema=GENERATIONS)
    write_parts(out, asked)
    return out


MODES = (("on", 0), ("on", 1), ("off", 0))


def response(number: int, thought: str, *, mode: str, draw: int) -> Generation:
    row = generation(f"held-out/{number}", mode, draw, "Paris", dataset="held-out")
    if mode == "off":
        return row
    said = thought if draw == 0 else "Alternatively, something else."
    return replace(row, text=f"<think>{said}</think>Paris", thought_start=7, thought_end=7 + len(said))


def go(stage: Stage, config: RunConfig, home: Path, done: dict[str, StageDir]) -> Manifest:
    out = StageDir(f"{home}/{stage.name}/0", stage=stage.name, fingerprint="0")
    done[stage.name] = out
    return run_stage(config, Planned(stage, out, {name: done[name] for name in stage.upstream}, {}, {}, None))


def test_the_planted_difference_is_found(tmp_path: Path) -> None:
    config, done = config_of(tmp_path), {"questions": questions_of(tmp_path)}
    thoughts, P = {}, {}
    for side in WORDS:
        done[f"responses{side}"] = responses_of(tmp_path, side)
        first = go(thoughts_stage(Subject.BASE if side else Subject.TRAINED), config, tmp_path, done)
        assert (first.rows_in, first.rows_out, first.rejects) == (CHOSEN, CHOSEN, {})
        thoughts[side] = done[f"thoughts{side}"].read(schema=CANDIDATES).to_pylist()
        annotation, counts = f"thoughts_annotation{side}", f"thoughts_counts{side}"
        go(annotation_of(f"thoughts{side}", name=annotation), config, tmp_path, done)
        assert done[annotation].read(schema=ANNOTATIONS).num_rows == CHOSEN
        counted = go(counts_of(annotation, name=counts), config, tmp_path, done)
        assert counted.figures["transitions"] == 3 * CHOSEN  # start, framing, the other one, stop
        matrices = f"thoughts_matrices{side}"
        go(matrix_of(annotation, counts=counts, name=matrices), config, tmp_path, done)
        rows = done[matrices].read(schema=MATRICES).to_pylist()
        assert {row["matrix"] for row in rows} == {"all"}
        assert {len(row["replicates"]) for row in rows} == {8}
        P[side] = {(row["source"], row["target"]): row["probability"] for row in rows}
    ids = {side: sorted(row["row_id"] for row in rows) for side, rows in thoughts.items()}
    assert ids["_base"] == ids[""]
    assert {row["polarity"] for rows in thoughts.values() for row in rows} == {0}
    change = {edge: P[""][edge] - P["_base"][edge] for edge in P[""] if edge[0] == "framing"}
    assert max(change, key=change.get) == ("framing", "summarization")
    assert min(change, key=change.get) == ("framing", "backtracking")
    assert change["framing", "summarization"] > 0.5


def test_questions_that_were_not_asked_are_counted(tmp_path: Path) -> None:
    config, done = config_of(tmp_path), {"questions": questions_of(tmp_path)}
    out = done["responses"] = responses_of(tmp_path, "")
    write_parts(out, [Asked("plain", "shelf-plain", (part_name("0"),), {"on": "m"}, 2, 5)])
    manifest = go(thoughts_stage(Subject.TRAINED), config, tmp_path, done)
    rejects = done["thoughts"].read_rejects().to_pylist()
    kept = done["thoughts"].read(schema=CANDIDATES).num_rows
    assert 0 < kept < CHOSEN
    assert [row["reason"] for row in rejects] == ["no_response"] * (CHOSEN - kept)
    assert (manifest.rows_in, manifest.rows_out, manifest.rejects) == (CHOSEN, kept, {"no_response": CHOSEN - kept})
