"""Search in a corpus of ours; the scores are computed here by the formula alone, from words written out by hand."""

import asyncio
import json
import math
import os
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mralign.config import parse
from mralign.retrieval import bm25
from mralign.retrieval.bm25 import best, open_index
from mralign.retrieval.corpus import check_corpus, read_corpus
from mralign.retrieval.search import Snippet, check_search, prepare_search, start_search

ROWS = [
    {"id": "p", "title": "Paris", "text": "Paris is the capital of France. The Seine flows through Paris."},
    {"id": "l", "title": "Lyon", "text": "Lyon lies on the Rhône, in France."},
    {"id": "o", "title": "", "text": "Oslo: capital of Norway"},
]
# The same texts in words, titles first, without stop words, as English stems: written by hand.
WORDS = [
    ["pari", "pari", "capit", "franc", "sein", "flow", "through", "pari"],
    ["lyon", "lyon", "lie", "rhône", "franc"],
    ["oslo", "capit", "norway"],
]


def score(query, document):
    """BM25 with k1 = 1.5 and b = 0.75; `query` and `document` are words."""
    mean, counts = sum(map(len, WORDS)) / len(WORDS), Counter(document)
    total = 0.0
    for word in query:
        holds = sum(word in other for other in WORDS)
        idf = math.log(1 + (len(WORDS) - holds + 0.5) / (holds + 0.5))
        total += idf * counts[word] / (counts[word] + 1.5 * (1 - 0.75 + 0.75 * len(document) / mean))
    return total


def corpus_of(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def find(index, query, top_k=5):
    return asyncio.run(index.search(query, top_k=top_k))


@pytest.mark.parametrize(
    ("query", "words", "order"),
    [
        ("What is the capital of France?", ["what", "capit", "franc"], "pol"),
        ("PARIS", ["pari"], "p"),
        ("capitals and capitals of Norway", ["capit", "capit", "norway"], "op"),
        ("Rho\u0302ne flowing", ["rhône", "flow"], "lp"),  # ô as two characters
    ],
)
def test_scores_are_those_of_the_formula(tmp_path, query, words, order):
    index = open_index(corpus_of(tmp_path / "c.jsonl"), fields={}, directory=tmp_path / "searches")
    expected = {row["id"]: score([w for w in words if w != "what"], one) for row, one in zip(ROWS, WORDS, strict=True)}
    found = find(index, query)
    assert "".join(sorted((i for i in expected if expected[i] > 0), key=lambda i: -expected[i])) == order
    assert "".join(snippet.id for snippet in found) == order
    assert [s.score for s in found] == pytest.approx([expected[s.id] for s in found], rel=1e-6)
    assert {s.id: (s.title, s.text) for s in found}.items() <= {r["id"]: (r["title"], r["text"]) for r in ROWS}.items()
    assert [s.id for s in find(index, query, top_k=1)] == [order[0]]


FOREIGN = [
    {"id": "zh", "text": "北京是中国的首都，有两千万人口。"},
    {"id": "ja", "text": "レオナルド・ダ・ヴィンチは画家です。"},
    {"id": "th", "text": "กรุงเทพมหานครเป็นเมืองหลวง"},
    {"id": "ko", "text": "프랑스의 수도는 파리입니다."},
    {"id": "hi", "text": "दिल्ली भारत की राजधानी है"},
    {"id": "en", "text": "Schrödinger’s cat, born in １９３５ – a thought\u2011experiment"},
]


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("中国的首都是哪里？", "zh"),
        ("ﾚｵﾅﾙﾄﾞ ダヴィンチ", "ja"),
        ("เมืองหลวง", "th"),
        ("파리", "ko"),
        ("राजधानी", "hi"),
        ("Schro\u0308dinger's cat", "en"),
        ("1935", "en"),
        ("thought experiment", "en"),
    ],
)
def test_a_query_finds_its_text_in_any_script_and_however_it_is_typed(tmp_path, query, first):
    index = open_index(corpus_of(tmp_path / "c.jsonl", FOREIGN), fields={}, directory=tmp_path)
    assert [s.id for s in find(index, query, top_k=1)] == [first]


@pytest.mark.parametrize("query", ["", "the of and", "?!", "zebra", "\x00\ud800"])
def test_what_no_text_holds_finds_nothing(tmp_path, query):
    index = open_index(corpus_of(tmp_path / "c.jsonl"), fields={}, directory=tmp_path)
    assert find(index, query) == []


def test_equal_scores_come_in_the_order_of_the_corpus(tmp_path):
    rows = [{"text": "a red fox"}, {"text": "none"}] + [{"text": "a blue fox"}] * 6
    index = open_index(corpus_of(tmp_path / "c.jsonl", rows), fields={}, directory=tmp_path)
    assert [s.id for s in find(index, "fox", top_k=4)] == ["0", "2", "3", "4"]
    assert [s.id for s in find(index, "fox blue", top_k=4)] == ["2", "3", "4", "5"]
    assert len(find(index, "fox", top_k=100)) == 7


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), max_size=12), st.integers(1, 6))
def test_the_best_are_those_of_a_full_sort(scores, top_k):
    ranked = sorted((n for n, value in enumerate(scores) if value > 0), key=lambda n: (-scores[n], n))
    assert best(np.array(scores, dtype=np.float32), top_k=top_k).tolist() == ranked[:top_k]


def test_an_index_is_built_once_and_anew_for_another_corpus_or_other_fields(tmp_path, monkeypatch):
    built, build = [], bm25._build
    monkeypatch.setattr(bm25, "_build", lambda *args, **more: (built.append(more["place"].name), build(*args, **more)))
    corpus, shelf = corpus_of(tmp_path / "c.jsonl"), tmp_path / "searches"
    first = find(open_index(corpus, fields={}, directory=shelf), "capital")
    before = {path: path.stat().st_mtime_ns for path in shelf.rglob("*")}
    assert find(open_index(corpus, fields={}, directory=shelf), "capital") == first
    assert {path: path.stat().st_mtime_ns for path in shelf.rglob("*")} == before and len(built) == 1
    other = open_index(corpus, fields={"text": "title"}, directory=shelf)
    assert [s.text for s in find(other, "Paris lyon")] == ["Paris", "Lyon"] and find(other, "capital") == []
    corpus_of(tmp_path / "c.jsonl", [*ROWS, {"id": "b", "text": "Bern, capital"}])
    assert {s.id for s in find(open_index(corpus, fields={}, directory=shelf), "capital")} == {"p", "o", "b"}
    assert len(set(built)) == 3 == len(list(shelf.iterdir()))
    assert not [path for path in shelf.rglob("*") if path.suffix in (".pkl", ".pickle")]


def test_building_that_is_cut_short_leaves_no_index(tmp_path, monkeypatch):
    corpus, shelf = corpus_of(tmp_path / "c.jsonl"), tmp_path / "searches"
    with monkeypatch.context() as patch:
        patch.setattr(bm25, "_put", lambda *paths: os.stat(tmp_path / "stop here"))
        with pytest.raises(FileNotFoundError):
            open_index(corpus, fields={}, directory=shelf)
    assert list(shelf.iterdir()) == []
    assert [s.id for s in find(open_index(corpus, fields={}, directory=shelf), "Oslo")] == ["o"]


def test_whoever_builds_an_index_that_has_appeared_meanwhile_takes_it(tmp_path, monkeypatch):
    corpus, shelf, put = corpus_of(tmp_path / "c.jsonl"), tmp_path / "searches", bm25._put

    def put_twice(temporary, place):
        monkeypatch.setattr(bm25, "_put", put)
        open_index(corpus, fields={}, directory=shelf)  # the other process
        put(temporary, place)

    monkeypatch.setattr(bm25, "_put", put_twice)
    assert [s.id for s in find(open_index(corpus, fields={}, directory=shelf), "Oslo")] == ["o"]
    assert len(list(shelf.iterdir())) == 1


def test_a_directory_of_jsonl_and_parquet_is_one_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(bm25, "_BATCH", 2)
    corpus = tmp_path / "corpus"
    (corpus / "more").mkdir(parents=True)
    (corpus / "README.md").write_text("no part of it")
    good = [{"body": "red fox", "n": 1}, {"body": "red hen", "name": "Hen", "n": 2}]
    lines = ["\ufeff" + json.dumps(good[0]), "", "{broken", json.dumps({"body": None}), "[" * 5000, json.dumps(good[1])]
    (corpus / "a.jsonl").write_text("\n".join(lines))
    pq.write_table(pa.table({"body": ["red cow", None], "n": [8, 9], "x": [0, 0]}), corpus / "more" / "b.parquet")
    fields = {"text": "body", "title": "name"}
    rows = list(read_corpus(str(corpus), fields=fields))
    assert [row if isinstance(row, str) else (row.id, row.title, row.text) for row in rows] == [
        ("0", "", "red fox"),
        "malformed_json",
        "no_text",
        "malformed_json",
        ("4", "Hen", "red hen"),
        ("5", "", "red cow"),
        "no_text",
    ]
    index = open_index(str(corpus), fields=fields | {"id": "n"}, directory=tmp_path / "searches")
    assert [s.id for s in find(index, "red")] == ["1", "8", "2"]  # shorter texts score higher
    about = json.loads((index.place / "about.json").read_text())
    assert (about["texts"], about["skipped"]) == (3, {"malformed_json": 2, "no_text": 2})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, r"none.jsonl does not exist; correct the path"),
        ("c.csv", "text\nx\n", r"c.csv holds no corpus; allowed are files that end in .jsonl or .parquet"),
        ("c.jsonl", "\n\n", r"c.jsonl is empty"),
        ("c.jsonl", '{"body": "x", "n": 1}\n', r"no text in the field 'text'; its first rows have \['body', 'n'\]"),
        ("c.jsonl", '{"text": ""}\n[1]\n', r"no text in the field 'text'; its first rows have \['text'\]"),
        ("c.parquet", "no Parquet", r"c.parquet is not valid Parquet"),
    ],
)
def test_what_is_no_corpus_is_refused_by_name(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    for act in (
        lambda: check_corpus(str(tmp_path / name), fields={}),
        lambda: open_index(str(tmp_path / name), fields={}, directory=tmp_path / "searches"),
    ):
        with pytest.raises(ValueError, match=message):
            act()
    assert not list(tmp_path.glob("searches/*"))


def test_parquet_without_the_column_and_unknown_names_are_refused(tmp_path):
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "c.parquet")
    with pytest.raises(ValueError, match=r"c.parquet has no column 'text'; it has \['body'\]"):
        check_corpus(str(tmp_path / "c.parquet"), fields={})
    with pytest.raises(ValueError, match=r"fields names \['body'\]; allowed are \['id', 'title', 'text'\]"):
        check_corpus(str(tmp_path / "c.parquet"), fields={"body": "text"})


def test_a_corpus_of_stop_words_only_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no words"):
        open_index(corpus_of(tmp_path / "c.jsonl", [{"text": "the of !"}]), fields={}, directory=tmp_path / "s")


def config_of(run_dir, corpus):
    return parse(
        {
            "run": {"dir": run_dir},
            "questions": {"train": [{"name": "a", "path": "a"}]},
            "evaluation": {"retrieval": {"engine": "bm25", "corpus": corpus}},
        }
    )


def test_a_run_directory_that_is_no_local_one_gets_an_index_for_the_time_being(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    corpus = corpus_of(tmp_path / "c.jsonl")
    expected = [Snippet("o", "", "Oslo: capital of Norway", pytest.approx(score(["norway"], WORDS[2])))]

    elsewhere = config_of(f"file://{tmp_path}/remote", corpus)
    prepare_search(elsewhere)  # it has no place for an index
    assert not list((tmp_path / "tmp").iterdir())
    assert asyncio.run(start_search(elsewhere).search("Norway", top_k=5)) == expected
    (index,) = (tmp_path / "tmp").iterdir()
    assert index.name.startswith(f"mralign-searches-{os.getpid()}-") and not (tmp_path / "remote").exists()

    local = config_of(str(tmp_path / "run"), corpus)
    prepare_search(local)
    assert [p.name[:5] for p in (tmp_path / "run" / "searches").iterdir()] == ["bm25-"]
    assert asyncio.run(start_search(local).search("Norway", top_k=5)) == expected


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(bm25, "find_spec", lambda name: None if name == "bm25s" else object())
    with pytest.raises(ValueError, match=r"needs bm25s, not installed here: pip install 'mralign\[retrieval\]'"):
        check_search(config_of(str(tmp_path), corpus_of(tmp_path / "c.jsonl")))
