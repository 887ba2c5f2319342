"""Hub sources, by the real `datasets` library on local directories; nothing here is downloaded."""

import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mralign.questions import hub
from mralign.questions.sources import check_source, read_batches


@pytest.fixture(autouse=True)
def library(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the extra `hub` is not installed")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(url, *, split="train", format="auto", fields=None, **arguments):
    batches = list(read_batches(url, name="set", split=split, format=format, fields=fields or {}, **arguments))
    return [row for table, _ in batches for row in table.to_pylist()], [r for _, rejects in batches for r in rejects]


def test_a_plain_data_set_goes_through_the_field_map(tmp_path):
    rows = [{"q": f"q{n}", "a": "" if n == 1 else f"a{n}", "level": n} for n in range(5)]
    write(tmp_path / "train-00000-of-00001.parquet", *rows)
    found, rejects = read(f"hub://{tmp_path}?split=train", fields={"question": "q", "answers": "a"}, rows=2)
    assert [(row["question_id"], row["question"], row["answers"], row["extra"]) for row in found] == [
        (f"set/{n}", f"q{n}", [f"a{n}"], json.dumps({"level": n})) for n in (0, 2, 3, 4)
    ]
    assert [(r.row_id, r.reason, r.raw) for r in rejects] == [("set/row1", "missing_answers", json.dumps(rows[1]))]


def test_our_split_chooses_the_split_unless_the_url_does(tmp_path):
    for name in ("train", "validation", "test"):
        write(tmp_path / f"{name}.jsonl", {"question": f"in {name}?", "answer": ["x", "y"]})
    for split, name in (("train", "train"), ("dev", "validation"), ("test", "test")):
        (row,), _ = read(f"hub://{tmp_path}", split=split, format="nq_open")
        assert (row["question"], row["answers"], row["split"]) == (f"in {name}?", ["x", "y"], split)
    assert read(f"hub://{tmp_path}?split=test", split="dev", format="nq_open")[0][0]["question"] == "in test?"


def test_published_formats_read_their_rows_on_the_hub(tmp_path):
    sciq = {"question": "q?", "distractor1": "x", "distractor2": "y", "correct_answer": "a", "support": "s"}
    write(tmp_path / "sciq" / "train.parquet", sciq)
    write(tmp_path / "simpleqa" / "test.jsonl", {"metadata": "{'topic': 'Tea'}", "problem": "q?", "answer": "007"})
    truthful = {"question": "q?", "best_answer": "b", "correct_answers": ["a", "b"], "incorrect_answers": ["c"]}
    write(tmp_path / "truthfulqa" / "validation.parquet", truthful)
    found = {}
    for format, split in (("sciq", "train"), ("simpleqa", "test"), ("truthfulqa", "dev")):
        (row,), rejects = read(f"hub://{tmp_path / format}", split=split, format=format)
        assert rejects == []
        found[format] = (row["answers"], json.loads(row["extra"]))
    assert found == {
        "sciq": (["a"], {"distractors": ["x", "y"], "support": "s"}),
        "simpleqa": (["007"], {"metadata": {"topic": "Tea"}}),
        "truthfulqa": (["b", "a"], {"incorrect_answers": ["c"]}),
    }


def test_what_is_not_there_is_said_with_what_was_asked(tmp_path):
    write(tmp_path / "train.jsonl", {"question": "q", "answers": "a"})
    with pytest.raises(
        ValueError, match=r"split 'nope'.*could not be opened.*Available splits.*path of its file instead"
    ):
        read(f"hub://{tmp_path}?split=nope")
    with pytest.raises(ValueError, match=r"config 'nope'.*could not be opened"):
        read(f"hub://{tmp_path}?config=nope")
    with pytest.raises(
        ValueError, match=r"'nobody/nothing', config 'default', split 'train', revision 'v1'.*Couldn't reach"
    ):
        read("hub://nobody/nothing?revision=v1")


def test_hub_urls_are_checked_before_anything_runs(tmp_path, monkeypatch):
    def check(url):
        check_source(url, name="set", split="train", format="auto", fields={})

    check("hub://owner/name?split=train&config=default&revision=main")  # nothing is asked of the hub
    assert hub.parse("hub://o/n.m-1?config=c", split="dev") == hub.HubSource("o/n.m-1", "validation", "c")
    for url in ("hub://", "hub://name", "hub://a/b/c", "hub://a b/c"):
        with pytest.raises(ValueError, match="names no data set; write hub://OWNER/NAME"):
            check(url)
    with pytest.raises(ValueError, match=r"unknown or empty keys \['name', 'split'\]"):
        check("hub://a/b?name=x&split=")
    with pytest.raises(ValueError, match="there is no directory"):
        check(f"hub://{tmp_path}/nowhere")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'mralign\[hub\]'"):
        check("hub://owner/name")
