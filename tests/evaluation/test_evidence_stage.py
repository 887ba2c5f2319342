"""The stage as the pipeline runs it, on a real local Ray: a search server on loopback, and a corpus on disk."""

import asyncio
import json

import pyarrow as pa
import pytest
from search_server import Answer, SearchServer, hits

from mralign.config import parse
from mralign.evaluation.evidence_stage import EVIDENCE_STAGE, Searching
from mralign.plan import pipeline
from mralign.retrieval.search import Snippet
from mralign.rows.schema import EVIDENCE, QUESTIONS
from mralign.run.digests import digest
from mralign.run.part_names import part_name
from mralign.run.rejects import Reject
from mralign.run.stage import Context
from mralign.run.store import StageDir, fingerprint
from mralign.serving.calls import Failure, Stopped

KEY = "MRALIGN_TEST_SEARCH_KEY"


@pytest.fixture(scope="module")
def search_key():
    """The key of a search endpoint, in the environment that Ray's workers inherit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY, "wrong-key-of-the-test")
        yield KEY


on_ray = pytest.mark.usefixtures("search_key", "local_ray")


def questions_of(tmp_path, parts):
    """Committed questions; `parts` is part key -> texts."""
    source = StageDir(str(tmp_path / "questions"), stage="questions", fingerprint="q")
    for key, texts in parts.items():
        rows = [
            {"question_id": f"{key}/{text}", "dataset": key[-4:], "split": "test", "question": text, "answers": ["x"]}
            for text in texts
        ]
        source.commit(part_name(key), pa.Table.from_pylist(rows, schema=QUESTIONS), schema=QUESTIONS)
    return source


def out_of(tmp_path):
    return StageDir(str(tmp_path / "evidence"), stage="evidence", fingerprint="e")


def config_of(tmp_path, **retrieval):
    return parse(
        {
            "run": {"dir": str(tmp_path / "run")},
            "questions": {"train": [{"name": "a", "path": "a"}]},
            "evaluation": {"retrieval": {"top_k": 2} | retrieval},
        }
    )


def http(tmp_path, server, **search):
    return config_of(
        tmp_path, engine="http", search={"url": server.url, "max_retries": 1, "max_backoff_s": 0.01} | search
    )


def run(config, source, out):
    return EVIDENCE_STAGE.run(Context(config, out, {"questions": source}))


def rows_of(out):
    return {row["question_id"]: row for row in out.read(schema=EVIDENCE).to_pylist()}


PARTS = {"test-00-0000": ["who", "what"], "test-00-0001": ["why"], "dev-00-0000": ["not asked"]}


@pytest.mark.integration
@on_ray
def test_every_question_of_the_split_gets_what_was_found(tmp_path):
    script = {"who": [hits("one", "two", "three")], "what": [Answer({"results": []})], "why": [hits("only")]}
    source, out = questions_of(tmp_path, PARTS), out_of(tmp_path)
    with SearchServer(script.__getitem__) as server:
        outcome = run(http(tmp_path, server), source, out)
        assert server.received == {"who": 1, "what": 1, "why": 1}
        assert {payload["top_k"] for _, payload in server.payloads} == {2}
        assert run(http(tmp_path, server), source, out) == outcome
        assert server.received.total() == 3
    assert (outcome.rows_in, outcome.rows_out) == (3, 3)
    assert outcome.figures == {"snippets_mean": 1.0, "without_snippets": 1}
    assert [name.rpartition("-")[0] for name in out.parts()] == ["part-test-00-0000", "part-test-00-0001"]
    found = rows_of(out)
    assert found["test-00-0000/who"] == {
        "question_id": "test-00-0000/who",
        "dataset": "0000",
        "query": "who",
        "snippets": [
            {"id": "d0", "title": "", "text": "one", "score": 1.0},
            {"id": "d1", "title": "", "text": "two", "score": 0.5},
        ],
    }
    assert found["test-00-0000/what"]["snippets"] == [] and out.read_rejects().num_rows == 0


@pytest.mark.integration
@on_ray
def test_a_failed_query_is_a_reject_and_only_it_is_asked_again(tmp_path):
    script = {
        "who": [hits("one")],
        "what": [Answer(status=500), Answer(status=500), hits("mended")],
        "why": [hits("three")],
    }
    source, out = questions_of(tmp_path, PARTS), out_of(tmp_path)
    with SearchServer(script.__getitem__) as server:
        outcome = run(http(tmp_path, server), source, out)
        assert (outcome.rows_in, outcome.rows_out) == (3, 2)
        (reject,) = out.read_rejects().to_pylist()
        assert (reject["row_id"], reject["reason"], reject["raw"]) == ("test-00-0000/what", "server_error", "what")
        assert reject["detail"].startswith("HTTP 500")
        assert set(rows_of(out)) == {"test-00-0000/who", "test-00-0001/why"}
        outcome = run(http(tmp_path, server), source, out)
        assert (outcome.rows_out, out.read_rejects().num_rows) == (3, 0)
        assert server.received == {"who": 1, "what": 3, "why": 1}
        assert rows_of(out)["test-00-0000/what"]["snippets"][0]["text"] == "mended"


@pytest.mark.integration
@on_ray
def test_a_stage_whose_queries_failed_in_passing_is_not_sealed_and_the_next_run_makes_only_those(tmp_path):
    script = {"who": [hits("one")], "what": [Answer(status=503)] * 2 + [hits("mended")], "why": [hits("three")]}
    source, out = questions_of(tmp_path, PARTS), out_of(tmp_path)
    item = pipeline.Planned(EVIDENCE_STAGE, out, {"questions": source}, {}, {}, None)
    with SearchServer(script.__getitem__) as server:
        with pytest.raises(ValueError, match=r"evidence: 1 of 3 rows have no answer yet, .*server_error.*HTTP 503"):
            pipeline.run_stage(http(tmp_path, server), item)
        assert out.manifest() is None and server.received == {"who": 1, "what": 2, "why": 1}
        manifest = pipeline.run_stage(http(tmp_path, server), item)
        assert (manifest.rows_out, manifest.rejects) == (3, {}) and out.manifest() == manifest
        assert server.received == {"who": 1, "what": 3, "why": 1}


class Scripted:
    """A searcher that fails or is stopped as it is told."""

    def __init__(self, failures):
        self.failures = failures

    async def search(self, query, *, top_k):
        found = self.failures.get(query) or [Snippet("i", "", f"{query} {top_k}", None)]
        if isinstance(found, Exception):
            raise found
        return found


def test_each_question_has_its_own_answer_a_failure_or_a_reason_to_stop(monkeypatch, tmp_path):
    searcher = Scripted({"b": Failure("odd", "why"), "c": Stopped("no money")})
    monkeypatch.setattr("mralign.evaluation.evidence_stage.start_search", lambda config: searcher)
    actor = Searching(config=config_of(tmp_path))
    rows = [{"row_id": f"q/{text}", "dataset": "d", "question": text} for text in "abcd"]
    one, bad, stopped, other = asyncio.run(actor.answer(rows))
    assert [row["question_id"] for answer in (one, other) for row in answer.rows] == ["q/a", "q/d"]
    assert one.rows[0]["snippets"] == [{"id": "i", "title": "", "text": "a 2", "score": None}]
    assert list(bad.rejects) == [Reject("q/b", "odd", "why", "b", dataset="d")]
    assert (stopped.stopped, stopped.rows, stopped.rejects) == ("no money", (), ())


@pytest.mark.integration
@on_ray
def test_a_refused_key_ends_the_stage_and_keeps_what_was_found(tmp_path, search_key):
    script = {"who": [hits("one")], "what": [hits("two")], "why": [Answer(status=401, hang=0.3), hits("three")]}
    source, out = questions_of(tmp_path, PARTS), out_of(tmp_path)
    with SearchServer(script.__getitem__) as server:
        config = http(tmp_path, server, key_env=search_key)
        with pytest.raises(ValueError, match="key_env"):
            run(config, source, out)
        assert set(rows_of(out)) == {"test-00-0000/who", "test-00-0000/what"}
        run(config, source, out)
        assert len(rows_of(out)) == 3 and server.received == {"who": 1, "what": 1, "why": 2}


def corpus_of(tmp_path, *texts):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


@pytest.mark.integration
@on_ray
def test_a_corpus_is_searched_and_its_index_kept(tmp_path):
    source, out = questions_of(tmp_path, {"test-00-0000": ["Which fox is red?", "zebra"]}), out_of(tmp_path)
    config = config_of(tmp_path, engine="bm25", corpus=corpus_of(tmp_path, "hen", "a blue fox", "the red fox", "foxes"))
    EVIDENCE_STAGE.check(config)
    assert run(config, source, out).figures == {"snippets_mean": 1.0, "without_snippets": 1}
    found = rows_of(out)["test-00-0000/Which fox is red?"]["snippets"]
    assert [(snippet["id"], snippet["text"]) for snippet in found] == [("2", "the red fox"), ("3", "foxes")]
    assert found[0]["score"] > found[1]["score"] > 0
    (index,) = (tmp_path / "run" / "searches").iterdir()
    assert index.name.startswith("bm25-")


def mark(config):
    """The fingerprint that the pipeline gives the stage."""
    return fingerprint(
        stage="evidence",
        version=EVIDENCE_STAGE.version,
        config=EVIDENCE_STAGE.settings(config),
        upstream={},
        inputs={name: digest(path) for name, path in EVIDENCE_STAGE.inputs(config).items()},
    )


def test_the_fingerprint_changes_with_what_is_asked_of_an_endpoint_and_with_nothing_else(tmp_path):
    base = {"engine": "http", "search": {"url": "http://h/s"}}
    before = mark(config_of(tmp_path, **base))

    def other(**changes):
        search = base["search"] | changes.pop("search", {})
        return mark(config_of(tmp_path, **base | changes | {"search": search}))

    different = [
        other(top_k=3),
        other(search={"url": "http://h/t"}),
        other(search={"request": {"q": "{query}"}}),
        other(search={"results": "hits"}),
        other(search={"fields": {"text": "body"}}),
    ]
    assert len({before, *different}) == 6
    same = {"concurrency": 3, "max_retries": 1, "timeout_s": 9, "max_backoff_s": 2, "key_env": "K", "key_header": "X"}
    assert other(search=same) == before
    assert other(prompt="{snippets} {question}") == before  # what a prompt makes of it is another stage's
    dev = config_of(tmp_path, **base).model_dump()
    dev["evaluation"]["split"] = "dev"
    assert mark(parse(dev)) != before


def test_the_fingerprint_changes_with_the_content_of_the_corpus(tmp_path):
    config = config_of(tmp_path, engine="bm25", corpus=corpus_of(tmp_path, "one"))
    before = mark(config)
    assert mark(config_of(tmp_path, engine="bm25", corpus=corpus_of(tmp_path, "one"), fields={"id": "n"})) != before
    assert mark(config_of(tmp_path, engine="bm25", corpus=corpus_of(tmp_path, "one"))) == before
    corpus_of(tmp_path, "two")
    assert mark(config) != before
