"""Published data sets that load by configuration alone, each in a few invented rows of its published form.

The files in published/ are made by hand in the layout in which each set is given away; what must come of them stands
here, written by hand as well.
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mralign.config import CODED_FORMATS, FORMATS, NAMED_FORMATS, Source, parse
from mralign.questions.formats import PUBLISHED
from mralign.questions.sources import read_batches
from mralign.questions.stage import resolved

FIXTURES = Path(__file__).parent / "published"

TRIVIA = [
    (
        "tc_901",
        "Which inn gave its name to the village of Kettleford?",
        ["Copper Kettle", "The Copper Kettle", "Copper Kettle (inn)"],
    ),
    ("tc_902", "In which year was the first tea tray of Kettleford pressed?", ["1804"]),
]
WEB = [("0", "where did ada brim live?", ["Kettleford (village)", "Spoutham"])]
EXPECTED = {
    ("triviaqa", "triviaqa-unfiltered.json"): TRIVIA,
    ("triviaqa", "triviaqa-hub.jsonl"): TRIVIA,
    ("kilt", "kilt.jsonl"): [
        ("k_11", "who pressed the first tea tray of kettleford", ["Ada Brim", "Adelaide Brim"]),
        ("k_12", "where does the river steam rise", ["in the Lid Hills"]),
    ],
    ("musique", "musique.jsonl"): [
        (
            "2hop__9001_9002",
            "Which river flows past the birthplace of Ada Brim?",
            ["River Steam", "Steam", "the Steam"],
        ),
        ("3hop1__9003_9004_9005", "Who owned the inn at the source of the Steam?", ["Ned Spout"]),
    ],
    ("freshqa", "freshqa.csv"): [
        ("0", "Who is the mayor of Kettleford?", ["Ned Spout", "Spout, Ned"]),
        ("1", "How many spouts has the Great Pot?", ["3", "three", "Three spouts", "3 spouts"]),
    ],
    ("popqa", "popqa.tsv"): [
        ("4222001", "What is Ada Brim's occupation?", ["tinsmith", "tinner", "smith of tin"]),
        ("4222002", "What is Kettleford the capital of?", ["Lid Hills"]),
    ],
    ("mmlu", "mmlu_test.csv"): [
        ("0", "What does a lid do?", ["It keeps the steam in", "A", "A) It keeps the steam in"]),
        ("1", "Which of these, if any, is a spout?", ["A tube, for pouring", "B", "B) A tube, for pouring"]),
        ("2", "How many feet has the Great Pot?", ["3", "C", "C) 3"]),
    ],
    ("mmlu", "mmlu-hub.jsonl"): [
        ("0", "What does a lid do?", ["It keeps the steam in", "A", "A) It keeps the steam in"]),
        ("1", "How many feet has the Great Pot?", ["3", "C", "C) 3"]),
    ],
    ("webquestions", "webquestions.json"): [*WEB, ("1", "when did ada brim press her tray?", ["1804"])],
    ("webquestions", "webquestions-hub.jsonl"): WEB,
    ("hotpotqa", "hotpotqa.json"): [
        ("5a9001", "Were Ada Brim and Ned Spout both tinsmiths?", ["yes"]),
        ("5a9002", "Which river passes the inn of Ned Spout?", ["River Steam"]),
    ],
    ("frames", "frames.tsv"): [
        ("0", "Who owned the inn on the river that rises in the Lid Hills?", ["Ned Spout"]),
        ("1", "How many years lie between the first tray and the Great Pot of Kettleford?", ["27 years"]),
    ],
    ("factscore", "factscore.jsonl"): [("0", "Ada Brim", []), ("1", "Ned Spout", [])],
    ("chinese_simpleqa", "chinese_simpleqa.jsonl"): [
        ("f0001aa", "壶乡的第一位锡匠是谁？", ["白露"]),
        ("f0002bb", "蒸汽河发源于哪座山？", ["盖山"]),
    ],
}


def read(path, **settings):
    """(rows, rejects) as the stage reads a source of the configuration."""
    split = "test" if settings.get("format") == "factscore" else "train"  # it has no answers to train on
    config = parse({"questions": {split: [{"name": "set", "path": str(path), **settings}]}})
    (source,) = getattr(config.questions, split)
    batches = list(read_batches(**resolved(source).model_dump(), split=split))
    rows = [row for table, _ in batches for row in table.to_pylist()]
    return rows, [reject for _, rejects in batches for reject in rejects]


def said(rows):
    return [(row["question_id"].removeprefix("set/"), row["question"], row["answers"]) for row in rows]


@pytest.mark.parametrize(("format", "name"), list(EXPECTED))
def test_a_published_set_loads_by_its_name(format, name):
    rows, rejects = read(FIXTURES / name, format=format)
    assert said(rows) == EXPECTED[format, name]
    assert rejects == []


@pytest.mark.parametrize("name", ["triviaqa-hub.jsonl", "kilt.jsonl", "mmlu-hub.jsonl", "musique.jsonl"])
def test_rows_of_the_hub_load_from_parquet_with_its_nested_columns(tmp_path, name):
    lines = (FIXTURES / name).read_text().splitlines()
    pq.write_table(pa.Table.from_pylist([json.loads(line) for line in lines]), tmp_path / "q.parquet")
    format = name.partition(".")[0].partition("-")[0]
    rows, rejects = read(tmp_path / "q.parquet", format=format)
    assert (said(rows), rejects) == (EXPECTED[format, name], [])


def test_the_same_sets_load_as_plain_files_with_settings():
    """A format is a table of defaults: what it does, settings do."""
    settings = {
        "triviaqa-unfiltered.json": {
            "records": "Data",
            "fields": {"id": "QuestionId", "question": "Question", "answers": ["Answer.Value", "Answer.Aliases"]},
        },
        "kilt.jsonl": {"fields": {"question": "input", "answers": "output.answer"}},
        "freshqa.csv": {"skip_lines": 2, "fields": {"answers": "answer_*"}},
        "popqa.tsv": {"fields": {"answers": "possible_answers"}},
        "mmlu_test.csv": {
            "columns": ["question", "A", "B", "C", "D", "answer"],
            "fields": {"choices": ["A", "B", "C", "D"]},
        },
    }
    expected = {name: rows for (_, name), rows in EXPECTED.items()}
    for name, given in settings.items():
        assert said(read(FIXTURES / name, **given)[0]) == expected[name]


def test_gpqa_is_shuffled_by_its_ids_and_its_answer_is_where_its_letter_says():
    rows, rejects = read(FIXTURES / "gpqa.csv", format="gpqa")
    assert rejects == []
    expected = [
        ("recAAA", "Which alloy does a tray of Kettleford hold?", "Tin and lead", {"Tin and gold", "Copper", "Brass"}),
        ("recBBB", "How many spouts has the Great Pot?", "3", {"0", "1", "2"}),
        ("recCCC", "Which hill does the Steam rise in?", "Lid Hill", {"Foot Hill", "Handle Hill", "Spout Hill"}),
    ]
    for row, (own_id, question, right, wrong) in zip(rows, expected, strict=True):
        assert (row["question_id"], row["question"]) == (f"set/{own_id}", question)
        assert set(row["choices"]) == {right, *wrong} and len(row["choices"]) == 4
        letter = "ABCD"[row["choices"].index(right)]
        assert row["answers"] == [right, letter, f"{letter}) {right}"]
        assert json.loads(row["extra"])["High-level domain"]
    again, _ = read(FIXTURES / "gpqa.csv", format="gpqa", skip=1, limit=1)
    assert again[0]["choices"] == rows[1]["choices"]  # however much else is read


def test_the_right_choice_of_gpqa_stands_at_every_place(tmp_path):
    header = "Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3,Record ID\n"
    (tmp_path / "g.csv").write_text(header + "".join(f"q{n}?,right,w1,w2,w3,rec{n}\n" for n in range(200)))
    rows, _ = read(tmp_path / "g.csv", format="gpqa")
    places = [row["choices"].index("right") for row in rows]
    assert min(places.count(place) for place in range(4)) >= 30  # 50 expected; the ids are fixed


def test_a_format_gives_way_to_the_settings_of_a_source(tmp_path):
    record = {"input": "q?", "output": [{"answer": "a"}], "key": "k1", "other": ["b", "c"]}
    (tmp_path / "k.jsonl").write_text(json.dumps(record) + "\n")
    rows, _ = read(tmp_path / "k.jsonl", format="kilt", fields={"id": "key", "answers": ["output.answer", "other"]})
    assert said(rows) == [("k1", "q?", ["a", "b", "c"])]


def test_every_format_is_coded_or_a_table_of_settings_that_exist():
    assert set(PUBLISHED) == set(CODED_FORMATS)
    assert len(set(FORMATS)) == len(FORMATS)
    for name, defaults in NAMED_FORMATS.items():
        Source(name=name, path="x", **defaults)  # an unknown setting is an error
    with pytest.raises(ValueError, match=r"format 'squat' is not known; allowed are .*hotpotqa"):
        parse({"questions": {"train": [{"name": "a", "path": "a.json", "format": "squat"}]}})
