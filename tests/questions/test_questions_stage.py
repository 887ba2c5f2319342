"""The stage `questions` on a real local Ray: what it commits, what it counts, and that it goes on where it was."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from mralign.config import parse
from mralign.questions import stage
from mralign.questions.stage import QUESTIONS_STAGE
from mralign.schema import QUESTIONS
from mralign.stage import Context
from mralign.store import StageDir

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("local_ray")]


def write(path, *questions):
    path.write_text("".join(json.dumps(q) + "\n" if isinstance(q, dict) else q + "\n" for q in questions))
    return str(path)


def asked(text, **more):
    return {"question": text, "answer": "x", **more}


def run(config, place):
    out = StageDir(str(place), stage="questions", fingerprint="f")
    return QUESTIONS_STAGE.run(Context(config, out, {})), out


def test_imported_rollouts_repeat_a_question_for_every_draw_without_rejects(tmp_path):
    lines = [{"id": q, "question": f"what is {q}", "answer": "x", "response": "x"} for q in "ab" * 3]
    path = write(tmp_path / "on.jsonl", *lines, "{not json")
    config = parse({"rollouts": {"n": 3, "import_on": path, "import_off": path, "import_name": "mine"}})
    outcome, out = run(config, tmp_path / "out")
    assert out.read(schema=QUESTIONS).column("question_id").to_pylist() == ["mine/a", "mine/b"]
    assert out.read_rejects().column("reason").to_pylist() == ["malformed_json"]
    assert (outcome.rows_in, outcome.rows_out) == (3, 2)


def test_repeats_are_found_across_sources_parts_and_splits(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "_KEYS_A_BUCKET", 2_000)  # several tasks share the keys
    many = [asked(f"question {n}") for n in range(4_999)]
    train = [
        {"name": "a", "path": write(tmp_path / "a.jsonl", *many, asked("Who, is it?"), "{not json")},
        {"name": "b", "path": write(tmp_path / "b.jsonl", asked("question 7"), asked("the Question 8!"), asked("new"))},
        {"name": "c", "path": write(tmp_path / "c.jsonl", asked("once", id="k"), asked("twice", id="k"))},
    ]
    test = [{"name": "t", "path": write(tmp_path / "t.jsonl", asked("who is it"), asked("who IS it"), asked("y"))}]
    outcome, out = run(parse({"questions": {"train": train, "test": test}}), tmp_path / "out")

    def ids(group):
        return out.read_parts(out.parts(group), schema=QUESTIONS).column("question_id").to_pylist()

    assert ids("train") == [*(f"a/{n}" for n in range(4_999)), "b/2", "c/k"]
    assert ids("test") == ["t/0", "t/2"]
    assert [out.rows(part) for part in out.parts("train-00")] == [2000, 2000, 999]
    rejects = {
        (r["row_id"], r["reason"], r["detail"])
        for r in out.read_rejects().to_pylist()
        if r["reason"] != "malformed_json"
    }
    assert rejects == {
        ("a/4999", "in_evaluation_split", "same question as t/0"),
        ("b/0", "duplicate_question", "same question as a/7"),
        ("b/1", "duplicate_question", "same question as a/8"),
        ("c/k", "duplicate_id", "an earlier row has the id c/k"),
        ("t/1", "duplicate_question", "same question as t/0"),
    }
    assert (outcome.rows_in, outcome.rows_out) == (5_009, 5_003)
    assert outcome.figures["train"] == 5_001
    assert outcome.figures["funnel"] == [
        {
            "split": "train",
            "dataset": "a",
            "records": 5_001,
            "dropped": {"in_evaluation_split": 1, "malformed_json": 1},
            "kept": 4_999,
        },
        {"split": "train", "dataset": "b", "records": 3, "dropped": {"duplicate_question": 2}, "kept": 1},
        {"split": "train", "dataset": "c", "records": 2, "dropped": {"duplicate_id": 1}, "kept": 1},
        {"split": "test", "dataset": "t", "records": 3, "dropped": {"duplicate_question": 1}, "kept": 2},
    ]
    assert not out.exists("raw")  # what it needed in between is gone


def test_a_source_that_was_read_is_not_read_again(tmp_path):
    paths = [write(tmp_path / f"{name}.jsonl", asked(f"from {name}")) for name in "ab"]
    config = parse({"questions": {"train": [{"name": n, "path": p} for n, p in zip("ab", paths, strict=True)]}})
    Path(paths[1]).rename(tmp_path / "away.jsonl")
    with pytest.raises(Exception, match="does not exist"):
        run(config, tmp_path / "out")
    raw = StageDir(str(tmp_path / "out" / "raw"), stage="questions")
    assert raw.parts() == ["part-train-00-00000.parquet"]
    raw.commit(  # a mark that would be lost if the source were read once more
        "part-train-00-00000.parquet",
        raw.read(schema=QUESTIONS).set_column(3, "question", pa.array(["marked"])),
        schema=QUESTIONS,
    )
    raw.write_text("train-00.read", "")
    (tmp_path / "away.jsonl").rename(paths[1])
    _, out = run(config, tmp_path / "out")
    assert out.read(schema=QUESTIONS).column("question").to_pylist() == ["marked", "from b"]


def test_a_kill_while_the_raw_parts_are_removed_loses_no_question(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", asked("one"), asked("two"))
    config = parse({"questions": {"train": [{"name": "a", "path": path}]}})

    def cut_short(raw):
        raw.filesystem.delete_file(raw.path("part-train-00-00000.parquet"))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StageDir, "remove", cut_short)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "out")
    outcome, out = run(config, tmp_path / "out")
    assert outcome.rows_out == out.read(schema=QUESTIONS).num_rows == 2
    assert not out.exists("raw")


def test_one_file_given_as_two_data_sets(tmp_path):
    path = write(tmp_path / "a.jsonl", *(asked(f"question {n}") for n in range(5)))
    sources = [{"name": "a", "path": path, "limit": 2}, {"name": "b", "path": path, "skip": 2, "limit": 2}]
    outcome, out = run(parse({"questions": {"train": sources}}), tmp_path / "out")
    assert out.read(schema=QUESTIONS).column("question_id").to_pylist() == ["a/0", "a/1", "b/2", "b/3"]
    assert [(row["dataset"], row["records"], row["kept"]) for row in outcome.figures["funnel"]] == [
        ("a", 2, 2),
        ("b", 2, 2),
    ]


def test_what_is_not_skipped_does_not_show_in_the_fingerprint(tmp_path):
    plain, none, some = (
        QUESTIONS_STAGE.matters(parse({"questions": {"train": [{"name": "a", "path": "a.jsonl", **more}]}}))
        for more in ({}, {"skip": 0, "sample": None}, {"skip": 2, "sample": 3})
    )
    assert plain == none
    assert not {"skip", "sample"} & set(plain["train"][0])
    assert some["train"][0] == {**plain["train"][0], "skip": 2, "sample": 3}


_PEAK = """
import resource, sys
from mralign.questions.sources import read_batches
rows = sum(t.num_rows for t, _ in read_batches(sys.argv[1], name="s", split="train", fields={"answers": "answer"}))
print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_source_ten_times_as_large_takes_no_more_memory(tmp_path, suffix):
    def peak_kib(rows):
        path = tmp_path / f"{rows}.{suffix}"
        with path.open("w") as file:
            file.write("question,answer\n" if suffix == "csv" else "")
            for n in range(rows):
                line = (
                    f"what is the number {n},{n}" if suffix == "csv" else json.dumps(asked(f"what is the number {n}"))
                )
                file.write(line + "\n")
        done = subprocess.run([sys.executable, "-c", _PEAK, str(path)], capture_output=True, text=True, check=True)
        count, peak = map(int, done.stdout.split())
        assert count == rows
        return peak

    assert peak_kib(300_000) < peak_kib(30_000) + 20 * 1024  # the larger file alone has 14 to 9 MB
