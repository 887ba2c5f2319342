"""The stage that imports rollouts, on a real local Ray: which rows it commits where, and what it does after a kill."""

import json
import random

import pyarrow as pa
import pytest
from rollouts.test_imported import MODEL

from mralign.config import parse
from mralign.rollouts import import_shelf
from mralign.rollouts.import_files import read_records
from mralign.rollouts.import_shelf import QuestionPlaces, RecordShelf, mark, shelve
from mralign.rollouts.import_stage import IMPORT_STAGE
from mralign.rows import Mode
from mralign.rows.schema import GENERATIONS, QUESTIONS
from mralign.run.faults import user_sentence
from mralign.run.part_names import part_name
from mralign.run.stage import Context
from mralign.run.store import StageDir

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("local_ray")]

PARTS = [[f"{part}{n}" for n in range(5)] for part in "abc"]  # own ids of the questions of each part
SAID = {Mode.ON: "<think>\nso totibar {}\n</think>\n\npemidir", Mode.OFF: "pemidir {}"}


@pytest.fixture
def rollouts(tmp_path):
    """Two draws of every question and mode in no order, a third of one, one that nobody asked for, a broken line.

    Per mode the lines of its file, and by row_id the text that an import must make of it.
    """
    rng = random.Random(3)
    files, expected = {}, {}
    for mode in Mode:
        ids = [one for part in PARTS for one in part] * 2 + ["a1", "stranger"]
        rng.shuffle(ids)
        lines, drawn = [], {}
        for number, one in enumerate(ids):
            text = SAID[mode].format(number)
            lines.append({"id": one, "question": "name it", "answer": "pemidir", "response": text})
            draw = drawn[one] = drawn.get(one, -1) + 1
            if draw < 2 and one != "stranger":
                expected[f"far/{one}/{mode}/{draw}"] = text
        path = files[mode] = tmp_path / f"{mode}.jsonl"
        written = [json.dumps(line) for line in lines]
        path.write_text("\n".join([*written[:7], '{"id": ', *written[7:]]))
    return files, expected


def context_of(tmp_path, files, *, name="out"):
    questions = StageDir(str(tmp_path / "questions"), stage="questions", fingerprint="q")
    for number, ids in enumerate(PARTS):
        rows = [{"question_id": f"far/{one}", "dataset": "far", "split": "train"} for one in ids]
        questions.commit(part_name(f"train-00-{number:05d}"), pa.Table.from_pylist(rows, QUESTIONS), schema=QUESTIONS)
    given = {"n": 2, "import_on": str(files[Mode.ON]), "import_off": str(files[Mode.OFF]), "import_name": "far"}
    config = parse({"model": {"path": str(MODEL)}, "rollouts": given})
    return Context(config, StageDir(str(tmp_path / name), stage="rollouts", fingerprint="f"), {"questions": questions})


def check(context, expected):
    """The parts hold what is expected: a part of generations for each of questions, thinking on first."""
    out = context.out
    found = {}
    for part, ids in zip(out.parts(), PARTS, strict=True):
        rows = out.read_parts([part], schema=GENERATIONS).to_pylist()
        assert {row["question_id"] for row in rows} == {f"far/{one}" for one in ids}
        assert [row["mode"] for row in rows] == ["on"] * 10 + ["off"] * 10
        found |= {row["row_id"]: row["text"] for row in rows}
    assert found == expected
    assert out.parts() == [f"part-train-00-{number:05d}-imported.parquet" for number in range(3)]
    reasons = sorted((row["reason"], row["row_id"]) for row in out.read_rejects().to_pylist())
    assert reasons == [
        *[("extra_draw", f"far/a1/{mode}/2") for mode in ("off", "on")],
        *[("malformed_json", f"far/{mode}/row7") for mode in ("off", "on")],
        *[("question_not_in_train", f"far/stranger/{mode}/0") for mode in ("off", "on")],
    ]
    assert not out.exists("raw")


def test_every_part_of_questions_gets_its_own_generations(tmp_path, rollouts):
    files, expected = rollouts
    context = context_of(tmp_path, files)
    outcome = IMPORT_STAGE.run(context)
    assert (outcome.rows_in, outcome.rows_out) == (66, 60)
    check(context, expected)


def test_after_a_kill_what_was_read_and_written_is_not_done_again(tmp_path, rollouts, monkeypatch):
    files, expected = rollouts
    whole, killed = context_of(tmp_path, files, name="whole"), context_of(tmp_path, files, name="killed")
    IMPORT_STAGE.run(whole)
    first = whole.out.parts()[0]
    killed.out.commit(first, whole.out.read_parts([first], schema=GENERATIONS), schema=GENERATIONS)
    killed.out.commit_rejects(first, whole.out.read_rejects([first]))
    written = (tmp_path / "killed" / first).stat().st_mtime_ns
    shelf = RecordShelf(f"{killed.out.uri}/raw")
    monkeypatch.setattr(import_shelf, "_CHARACTERS", 500)
    for mode in Mode:
        records = read_records(str(files[mode]), mode=mode, name="far", fields=killed.config.rollouts.import_fields)
        places = QuestionPlaces([[f"far/{one}" for one in part] for part in PARTS])
        assert len(list(shelve(records, mode=mode, places=places, shelf=shelf))) > 3
    (tmp_path / "killed" / "raw" / mark(Mode.OFF)).unlink()  # killed while it read this file, ...
    (tmp_path / "killed" / "raw" / "off-000002.parquet").unlink()
    files[Mode.ON].unlink()  # ... so the other one need not be there any more
    IMPORT_STAGE.run(killed)
    check(killed, expected)
    assert (tmp_path / "killed" / first).stat().st_mtime_ns == written


def test_after_a_kill_behind_the_last_part_no_file_is_read(tmp_path, rollouts):
    files, expected = rollouts
    context = context_of(tmp_path, files)
    IMPORT_STAGE.run(context)
    context.out.write_text("raw/on-000000.parquet", "left by a kill while the shelf was removed")
    for path in files.values():
        path.unlink()
    outcome = IMPORT_STAGE.run(context)
    assert (outcome.rows_in, outcome.rows_out) == (66, 60)
    check(context, expected)


def test_a_file_that_was_cut_off_is_told_in_one_sentence_and_nothing_is_committed(tmp_path, rollouts):
    files, _ = rollouts
    files[Mode.OFF].write_text(files[Mode.OFF].read_text()[:-30])
    context = context_of(tmp_path, files)
    with pytest.raises(Exception, match=r"off\.jsonl is broken") as caught:
        IMPORT_STAGE.run(context)
    sentence = user_sentence(caught.value)
    assert sentence.startswith("rollouts.import_off=") and "cut off" in sentence
    assert context.out.parts() == []
