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
from mralign.rows.schema import QUESTIONS
from mralign.run.stage import Context
from mralign.run.store import StageDir

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


def test_the_content_of_a_split_is_told_apart_from_where_it_comes_from(tmp_path):
    train = {"name": "a", "path": write(tmp_path / "a.jsonl", *(asked(f"question {n}") for n in range(9)))}
    plain = {"name": "t", "path": write(tmp_path / "t.jsonl", asked("held out"))}
    more = {"name": "u", "path": write(tmp_path / "u.jsonl", asked("another one"))}
    leak = {"name": "v", "path": write(tmp_path / "v.jsonl", asked("Question 7!"))}

    def content(place, *test, **changes):
        config = parse({"questions": {"train": [train | changes], "test": list(test)}})
        return run(config, tmp_path / place)[0].figures["content"]

    before, added, leaked = content("one", plain), content("two", plain, more), content("three", plain, leak)
    assert added["train"] == before["train"]
    assert added["test"] != before["test"]
    assert leaked["train"] != before["train"]  # question 7 is held out now
    assert content("four", plain, skip=0, file="jsonl") == before  # another way to say the same
    assert (
        content("five", plain | {"format": "plain"})["test"] != before["test"]
    )  # it may be asked as another benchmark


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
        QUESTIONS_STAGE.settings(parse({"questions": {"train": [{"name": "a", "path": "a.jsonl", **more}]}}))
        for more in ({}, {"skip": 0, "sample": None}, {"skip": 2, "sample": 3})
    )
    train = "questions.train"
    assert plain[train] == [{"name": "a", "format": "auto", "fields": {}, "limit": None}]  # no setting left at rest
    assert plain == none
    assert not {"skip", "sample"} & set(plain[train][0])
    assert some[train][0] == {**plain[train][0], "skip": 2, "sample": 3}


def test_a_source_of_which_nothing_is_kept_ends_the_stage_whatever_the_others_kept(tmp_path):
    good = write(tmp_path / "good.jsonl", *(asked(f"good {n}") for n in range(400)))
    bad = write(tmp_path / "bad.jsonl", *({"problem": f"bad {n}", "answer": "x"} for n in range(50)))
    sources = {"train": [{"name": "bad", "path": bad}], "test": [{"name": "good", "path": good}]}
    with pytest.raises(
        ValueError, match=r"questions\.train, source 'bad': .*none of 50 records is a question"
    ) as error:
        run(parse({"questions": sources}), tmp_path / "out")
    error.match(r"'missing_question': 50.*Columns found: \['problem', 'answer'\]\. Try fields: \{question: problem\}")
    sources["train"][0]["fields"] = {"question": "problem"}
    assert run(parse({"questions": sources}), tmp_path / "mended")[0].rows_out == 450


def test_the_limit_of_rejects_holds_for_each_source_and_split(tmp_path):
    good = write(tmp_path / "good.jsonl", *(asked(f"good {n}") for n in range(400)))
    some = write(tmp_path / "some.jsonl", *(asked(f"some {n}") for n in range(30)), *["{"] * 20)
    sources = {"train": [{"name": "good", "path": good}, {"name": "some", "path": some}]}
    with pytest.raises(ValueError, match=r"source 'some': .*20 of 50 records were rejected \(40\.0%\).*malformed_json"):
        run(parse({"questions": sources}), tmp_path / "out")
    allowed = parse({"questions": sources, "run": {"reject_limit": 0.5}})
    assert run(allowed, tmp_path / "out")[0].rows_out == 430  # the same directory: nothing is read again


def test_an_empty_source_and_one_that_others_hold_whole_end_the_stage(tmp_path, caplog):
    test = write(tmp_path / "t.jsonl", *(asked(f"question {n}") for n in range(10)))
    same = write(tmp_path / "same.jsonl", *(asked(f"Question {n}!") for n in range(5)))
    most = write(tmp_path / "most.jsonl", asked("new"), *(asked(f"Question {n}!") for n in range(5)))
    empty = write(tmp_path / "empty.jsonl")

    def config(path):
        return parse({"questions": {"train": [{"name": "mine", "path": path}], "test": [{"name": "t", "path": test}]}})

    with pytest.raises(ValueError, match=r"questions\.train, source 'mine': .*empty\.jsonl holds no record"):
        run(config(empty), tmp_path / "a")
    with pytest.raises(ValueError, match=r"source 'mine': 5 of 5 records are put aside.*'in_evaluation_split': 5"):
        run(config(same), tmp_path / "b")
    with caplog.at_level("WARNING", logger="mralign"):
        assert run(config(most), tmp_path / "c")[0].figures["train"] == 1
    assert "source 'mine': 5 of 6 records are put aside: {'in_evaluation_split': 5}" in caplog.text


def test_questions_with_choices_reach_the_table_from_every_kind_of_source(tmp_path):
    here = Path(__file__).parent / "published"
    sources = [
        {"name": "mmlu", "path": str(here / "mmlu_test.csv"), "format": "mmlu"},
        {"name": "gpqa", "path": str(here / "gpqa.csv"), "format": "gpqa"},
        {"name": "fresh", "path": str(here / "freshqa.csv"), "format": "freshqa"},
    ]
    _, out = run(parse({"questions": {"test": sources}}), tmp_path / "out")
    rows = {row["question_id"]: row for row in out.read(schema=QUESTIONS).to_pylist()}
    assert rows["mmlu/2"]["choices"] == ["1", "2", "3", "4"]
    assert rows["mmlu/2"]["answers"] == ["3", "C", "C) 3"]
    assert sorted(rows["gpqa/recAAA"]["choices"]) == ["Brass", "Copper", "Tin and gold", "Tin and lead"]
    assert rows["fresh/0"]["choices"] is None
    # One question stands in two sets, and the first stays, as it does without choices.
    assert out.read_rejects().column("row_id").to_pylist() == ["fresh/1"]


_PEAK = """
import resource, sys
from mralign.questions.sources import read_batches
rows = sum(t.num_rows for t, _ in read_batches(sys.argv[1], name="s", split="train", fields={"answers": "answer"}))
print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("suffix", [pytest.param("jsonl", marks=pytest.mark.long), "csv"])
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
