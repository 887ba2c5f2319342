"""The published formats and their quirks, on rows invented here, and on the published files where they are at hand."""

import csv
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from mralign.questions import formats
from mralign.questions.matching import contains, equals, normalize
from mralign.questions.repeats import drop_repeats, find_repeats, question_keys
from mralign.questions.sources import check_source, read_batches
from mralign.rows.schema import QUESTIONS

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"published data not found at {DATA}")
CANARY = "INVENTED DATA SHOULD NEVER APPEAR ANYWHERE. canary GUID 0"


def read(path, *, format, split="test", limit=None):
    """Rows with `extra` parsed, and (row id, reason) of the rejects."""
    batches = list(read_batches(str(path), name="set", split=split, format=format, fields={}, limit=limit, rows=1000))
    rows = [row | {"extra": json.loads(row["extra"])} for table, _ in batches for row in table.to_pylist()]
    return rows, [(reject.row_id, reject.reason) for _, rejects in batches for reject in rejects]


def write_csv(path, *rows, encoding="utf-8"):
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def write_jsonl(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def test_nq_open_is_read_by_key_and_keeps_the_text_of_its_answers(tmp_path):
    path = write_jsonl(
        tmp_path / "n.jsonl",
        {"question": "when did the kettle boil", "answer": ["3\u00a0May 1802", "May 1802"]},
        {"answer": ["---", "A+"], "question": "what mark did the kettle get"},
        {"answer": [], "question": "who?"},
        {"answers": ["a"], "question": "where?"},
    )
    rows, rejects = read(path, format="nq_open")
    assert [row["answers"] for row in rows] == [["3\u00a0May 1802", "May 1802"], ["---", "A+"]]
    assert [row["question_id"] for row in rows] == ["set/0", "set/1"]
    assert rejects == [("set/row2", "missing_answers"), ("set/row3", "missing_answers")]
    assert equals("3 may, 1802", rows[0]["answers"])  # the non-breaking space is white space to the matching
    assert contains("---", rows[1]["answers"]) and not equals("", ["---"])  # compared as it is written


def sciq_row(question, answer, *distractors, support="because"):
    named = {f"distractor{n}": text for n, text in enumerate(distractors, 1)}
    return {"question": question, **named, "correct_answer": answer, "support": support}


def write_sciq(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, rows in members.items():
            archive.writestr(f"My data set-2 3/{name}.json", json.dumps(rows))
            archive.writestr(f"__MACOSX/My data set-2 3/._{name}.json", b"\x00\x05\x16\x07 a resource fork")
            archive.writestr(f"__MACOSX/My data set-2 3/{name}.json", b"\x00\x05\x16\x07 a resource fork")
    return path


def test_sciq_reads_the_member_of_its_split_from_the_zip(tmp_path):
    rows = {name: [sciq_row(f"in {name}?", name, "x", "y", "z")] for name in ("train", "valid", "test")}
    path = write_sciq(tmp_path / "SciQ.zip", **rows)
    for split, name in (("train", "train"), ("dev", "valid"), ("test", "test")):
        found, rejects = read(path, format="sciq", split=split)
        assert [(row["question"], row["answers"], row["split"]) for row in found] == [(f"in {name}?", [name], split)]
        assert found[0]["extra"] == {"distractors": ["x", "y", "z"], "support": "because"}
        assert rejects == []


def test_sciq_takes_one_of_the_arrays_and_rejects_single_rows(tmp_path):
    path = tmp_path / "valid.json"
    rows = [sciq_row("q?", "same", "same", "b", "c"), sciq_row("no answer?", " "), sciq_row(" ", "no question"), 7]
    path.write_text(json.dumps(rows), encoding="utf-8-sig")
    found, rejects = read(path, format="sciq", split="train")
    assert [(row["answers"], row["extra"]["distractors"]) for row in found] == [(["same"], ["same", "b", "c"])]
    assert rejects == [("set/row1", "missing_answers"), ("set/row2", "missing_question"), ("set/row3", "wrong_type")]


def test_a_zip_that_is_not_sciq_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds 0 files valid\.json"):
        read(write_sciq(tmp_path / "a.zip", train=[]), format="sciq", split="dev")
    broken = tmp_path / "b.zip"
    broken.write_bytes((tmp_path / "a.zip").read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"b\.zip' is not a whole zip file"):
        read(broken, format="sciq", split="train")


def test_simpleqa_quirks(tmp_path):
    path = write_csv(
        tmp_path / "s.csv",
        ["metadata", "problem", "answer"],
        ["{'topic': 'Tea', 'urls': ['http://a', \"it's\"]}", " How many cups? ", "007 "],
        ["{'topic': 'Tea'}", "Which spoon?", "none"],
        ["{'topic': 'Tea'}", "Which two?", "one\nother"],
        ['{"topic": true}', "JSON, not Python?", "x"],
        ["['topic']", "No dict?", "x"],
        ["{'topic': {1, 2}}", "A set?", "x"],
        ["{'topic': 'Tea'}", "No answer?", " "],
        ["", "No metadata?", "x"],
        ["{'topic': 'Tea'}", "Last?", "y"],
    )
    rows, rejects = read(path, format="simpleqa")
    assert [(row["question_id"], row["question"], row["answers"]) for row in rows] == [
        ("set/0", "How many cups?", ["007"]),
        ("set/1", "Which spoon?", ["none"]),
        ("set/2", "Which two?", ["one\nother"]),
        ("set/8", "Last?", ["y"]),
    ]
    assert rows[0]["extra"] == {"metadata": {"topic": "Tea", "urls": ["http://a", "it's"]}}
    assert rejects == [
        ("set/row3", "malformed_metadata"),
        ("set/row4", "malformed_metadata"),
        ("set/row5", "malformed_metadata"),
        ("set/row6", "missing_answers"),
        ("set/row7", "malformed_metadata"),
    ]


def test_truthfulqa_v1_has_a_bom_and_stray_separators(tmp_path):
    path = write_csv(
        tmp_path / "t.csv",
        ["Type", "Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers", "Source"],
        ["A", "Tea", "Is tea wet?", "Yes; quite", "It is; Yes; quite;", "No; Never;  ", "http://a"],
        ["A", "Tea", "Is it hot?", "", "a;b; c", "No", ""],
        ["A", "Tea", "Is it cold?", " ", ";", "No", ""],
        ["A", "Tea", "Cut short?", "Yes", "Yes"],
        encoding="utf-8-sig",
    )
    rows, rejects = read(path, format="truthfulqa")
    assert [(row["question"], row["answers"]) for row in rows] == [
        ("Is tea wet?", ["Yes; quite", "It is", "Yes", "quite"]),
        ("Is it hot?", ["a;b", "c"]),
    ]
    assert rows[0]["extra"] == {
        "type": "A",
        "category": "Tea",
        "incorrect_answers": ["No", "Never"],
        "source": "http://a",
    }
    assert rejects == [("set/row2", "missing_answers"), ("set/row3", "missing_answers")]


def test_truthfulqa_2025_has_a_best_incorrect_answer(tmp_path):
    header = ["Type", "Category", "Question", "Best Answer", "Best Incorrect Answer", "Correct Answers"]
    path = write_csv(
        tmp_path / "t.csv",
        [*header, "Incorrect Answers", "Source"],
        ["A", "Tea", "Is tea wet?", "Yes", "No", "It is; Yes", "Never; No", "http://a"],
    )
    (row,), rejects = read(path, format="truthfulqa")
    assert row["answers"] == ["Yes", "It is"]
    assert (row["extra"]["best_incorrect_answer"], row["extra"]["incorrect_answers"]) == ("No", ["Never", "No"])
    assert rejects == []


def write_longfact(root):
    prompts = [{"prompt": "What is a kettle?", "canary": CANARY}, {"prompt": "What is tea?", "canary": CANARY}]
    write_jsonl(root / "b" / "longfact-objects_hot-drinks.jsonl", *prompts)
    write_jsonl(root / "a" / "longfact-concepts_20th-century_tea.jsonl", prompts[0], "{\n", {"prompt": " "}, "7\n")
    write_jsonl(root / "a" / "._longfact-objects_hidden.jsonl", "\x00\n")
    write_jsonl(root / "__MACOSX" / "a" / "twin.jsonl", "\x00\n")
    (root / "README.md").write_text("no prompts")
    return root


def test_longfact_takes_its_topics_from_the_file_names(tmp_path):
    rows, rejects = read(write_longfact(tmp_path), format="longfact")
    assert [(row["question_id"], row["question"], row["answers"]) for row in rows] == [
        ("set/concepts_20th-century_tea-0", "What is a kettle?", []),
        ("set/objects_hot-drinks-0", "What is a kettle?", []),
        ("set/objects_hot-drinks-1", "What is tea?", []),
    ]
    assert rows[0]["extra"] == {"canary": CANARY, "kind": "concepts", "topic": "20th-century_tea"}
    assert rejects == [
        ("set/concepts_20th-century_tea-1", "malformed_json"),
        ("set/concepts_20th-century_tea-2", "missing_question"),
        ("set/concepts_20th-century_tea-3", "wrong_type"),
    ]
    assert len(read(tmp_path, format="longfact", limit=5)[0]) == 2


def test_longfact_is_refused_for_training_and_where_it_is_not(tmp_path):
    write_longfact(tmp_path)
    (tmp_path / "empty").mkdir()

    def check(path, split="test"):
        check_source(str(path), name="set", split=split, format="longfact", fields={})

    check(tmp_path)
    with pytest.raises(ValueError, match=r"carries a canary: its prompts must never be trained on"):
        check(tmp_path, split="train")
    with pytest.raises(ValueError, match="carries a canary"):
        read_batches(str(tmp_path), name="set", split="train", format="longfact", fields={})
    for wrong in (tmp_path / "README.md", tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="is no directory"):
            check(wrong)
    with pytest.raises(ValueError, match=r"holds no \.jsonl file"):
        check(tmp_path / "empty")
    write_jsonl(tmp_path / "a" / "prompts.jsonl", {"prompt": "?"})
    with pytest.raises(ValueError, match=r"prompts\.jsonl.*topics stand in file names only"):
        check(tmp_path)
    with pytest.raises(ValueError, match="topics in file names"):
        check("hub://owner/longfact")


def table(path, *, format, split):
    batches = read_batches(str(path), name="set", split=split, format=format, fields={})
    return pa.concat_tables([QUESTIONS.empty_table(), *(table for table, _ in batches)])


def repeats(*parts, splits):
    return find_repeats([question_keys(part) for part in parts], splits=splits)


@needs_data
@pytest.mark.parametrize(
    ("place", "format", "split", "records", "same_questions"),
    [
        ("nq_open/NQ-open.dev.jsonl", "nq_open", "dev", 3610, 0),
        ("nq_open/NQ-open.train.partial.jsonl", "nq_open", "train", 55589, 312),
        ("sciq/SciQ.zip", "sciq", "train", 11679, 76),
        ("sciq/SciQ.zip", "sciq", "dev", 1000, 0),
        ("sciq/SciQ.zip", "sciq", "test", 1000, 0),
        ("simpleqa/simple_qa_test_set.csv", "simpleqa", "test", 4326, 0),
        ("truthfulqa/TruthfulQA.v1.csv", "truthfulqa", "test", 817, 0),
        ("truthfulqa/TruthfulQA.2025.csv", "truthfulqa", "test", 790, 0),
        ("longfact", "longfact", "test", 2280, 9),
    ],
)
def test_published_files_are_read_whole(place, format, split, records, same_questions):
    rows, rejects = read(DATA / place, format=format, split=split)
    assert (len(rows), rejects) == (records, [])
    assert len({row["question_id"] for row in rows}) == records
    assert repeats(table(DATA / place, format=format, split=split), splits=[split]).num_rows == same_questions


@needs_data
def test_published_nq_open_repeats_questions_in_normal_form_only():
    train, dev = (
        table(DATA / "nq_open" / f"NQ-open.{n}.jsonl", format="nq_open", split="dev") for n in ("train.partial", "dev")
    )
    texts = [part.column("question").to_pylist() for part in (train, dev)]
    assert [len(set(text)) for text in texts] == [55589, 3610]
    assert len(set(texts[0]) & set(texts[1])) == 0
    assert len({normalize(text) for text in texts[0]}) == 55589 - 312  # one pair differs in its apostrophe alone
    reasons = repeats(train, dev, splits=["train", "dev"]).column("reason").to_pylist()
    assert (reasons.count("duplicate_question"), reasons.count("in_evaluation_split")) == (312, 39)


@needs_data
def test_published_nq_open_holds_the_quirks_of_its_answers():
    rows, _ = read(DATA / "nq_open" / "NQ-open.dev.jsonl", format="nq_open")
    assert sum(any("\u00a0" in answer for answer in row["answers"]) for row in rows) == 111
    assert max(len(row["answers"]) for row in rows) == 23
    assert rows[0]["answers"] == ["14 December 1972 UTC", "December 1972"]
    assert not any("\u00a0" in normalize(answer) for row in rows for answer in row["answers"])


@needs_data
def test_published_simpleqa_holds_its_quirks_and_row_numbers_are_its_ids():
    rows, _ = read(DATA / "simpleqa" / "simple_qa_test_set.csv", format="simpleqa")
    by_id = {row["question_id"]: row for row in rows}
    assert sum(row["answers"] == ["none"] for row in rows) == 1
    assert {tuple(row["extra"]["metadata"]) for row in rows} == {("topic", "answer_type", "urls")}
    lines = (DATA / "traces" / "simpleqa_800.jsonl").read_text().splitlines()
    for trace in map(json.loads, lines):  # traces name their questions by SimpleQA's row number
        assert by_id[f"set/{trace['id']}"]["question"] == trace["problem"].strip()


@needs_data
@pytest.mark.parametrize("version", ["v1", "2025"])
def test_published_truthfulqa_has_its_best_answer_first_and_no_blank_one(version):
    path = DATA / "truthfulqa" / f"TruthfulQA.{version}.csv"
    rows, _ = read(path, format="truthfulqa")
    with path.open(encoding="utf-8-sig", newline="") as file:
        published = list(csv.DictReader(file))
    assert sum(row["Correct Answers"].rstrip().endswith(";") for row in published) == 7
    for row, source in zip(rows, published, strict=True):
        assert row["answers"][0] == source["Best Answer"].strip()
        assert sorted(row["answers"]) == sorted({a.strip() for a in source["Correct Answers"].split(";")} - {""})
        assert "" not in row["extra"]["incorrect_answers"] and row["extra"]["incorrect_answers"]


@needs_data
def test_published_longfact_has_two_kinds_of_38_topics():
    rows, _ = read(DATA / "longfact", format="longfact")
    assert {row["extra"]["kind"] for row in rows} == {"concepts", "objects"}
    assert len({row["extra"]["topic"] for row in rows}) == 38
    assert not any("canary" in row["question"] or row["answers"] for row in rows)


@needs_data
def test_published_sciq_has_the_known_duplicates_and_overlap():
    train, dev, test = (table(DATA / "sciq" / "SciQ.zip", format="sciq", split=s) for s in ("train", "dev", "test"))
    texts = [part.column("question").to_pylist() for part in (train, dev, test)]
    # As byte strings they are 70, 12 and 7; SQuAD's normal form also sees through case, articles and punctuation.
    assert len(texts[0]) - len(set(texts[0])) == 70
    assert [len(set(texts[0]) & set(other)) for other in texts[1:]] == [12, 7]
    reasons = [
        repeats(train, other, splits=["train", split]).column("reason").to_pylist()
        for other, split in ((dev, "dev"), (test, "test"))
    ]
    assert [found.count("duplicate_question") for found in reasons] == [76, 76]
    assert [found.count("in_evaluation_split") for found in reasons] == [14, 11]
    rows, _ = read(DATA / "sciq" / "SciQ.zip", format="sciq", split="train")
    twins = [row for row in rows if row["answers"][0].lower() in map(str.lower, row["extra"]["distractors"])]
    assert len(twins) == 14  # letter by letter they are 11
    kept, rejects = drop_repeats(train, repeats(train, dev, test, splits=["train", "dev", "test"]))
    assert kept.num_rows + len(rejects) == 11679


def test_a_member_of_the_zip_is_unpacked_up_to_a_limit(tmp_path, monkeypatch):
    path = tmp_path / "SciQ.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("SciQ dataset-2 3/train.json", "[" + " " * 100_000)
    monkeypatch.setattr(formats, "LARGEST_UNPACKED", 1_000)
    with pytest.raises(ValueError, match=r"train\.json unpacks to more than 1000 bytes"):
        list(read_batches(str(path), name="s", split="train", format="sciq", fields={}))
