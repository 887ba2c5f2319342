"""The search endpoint against a server on loopback; its counts of requests are the oracle."""

import asyncio
import json
import logging

import pytest
from search_server import Answer, SearchServer, hits

from mralign.config import Search, parse
from mralign.retrieval.search import HttpSearch, Snippet, at, check_search, filled, read_snippets, start_search
from mralign.run.store import Directory
from mralign.serving.backoff import Clock
from mralign.serving.calls import EndpointRefused, Failure

KEY = "sk-search/0123456789+abcdef=="


def settings(server, **values):
    return Search(**{"url": server.url, "timeout_s": 5, "max_retries": 3, "max_backoff_s": 0.02} | values)


def ask(section, queries, *, tmp_path, top_k=2, clock=None):
    """query -> what came of it, by one searcher on the directory of the run."""

    async def all_of_them():
        async with HttpSearch(section, cache=Directory(str(tmp_path / "searches")), clock=clock) as search:
            found = await asyncio.gather(*(search.search(query, top_k=top_k) for query in queries))
            return dict(zip(queries, found, strict=True))

    return asyncio.run(all_of_them())


def written(tmp_path):
    return "\n".join(path.read_text() for path in sorted(tmp_path.rglob("*.json")))


def test_the_request_is_filled_once_with_the_query_and_a_number():
    template = {"q": "{query}", "opts": [{"n": "{top_k}", "s": "top {top_k} for {query}", "keep": 3}], "{query}": None}
    assert filled(template, query="a {top_k} {query}", top_k=7) == {
        "q": "a {top_k} {query}",
        "opts": [{"n": 7, "s": "top 7 for a {top_k} {query}", "keep": 3}],
        "{query}": None,
    }


def test_a_dotted_path_goes_deeper_and_a_name_may_hold_dots():
    body = {"hits": {"hits": [1]}, "a.b": [2], "text": "x"}
    assert [at(body, path) for path in ("hits.hits", "a.b", "hits.none", "text.more", "none")] == [
        [1],
        [2],
        None,
        None,
        None,
    ]


def test_results_are_read_by_the_names_of_their_fields_and_those_without_a_text_are_skipped():
    results = [
        {"_id": 7, "_source": {"body": "one \ud800", "head": "T"}, "_score": 3},
        {"_id": "b", "_source": {"body": " "}},
        {"_id": "c"},
        "no object",
        None,
        {"_source": {"body": "two", "head": ["no text"]}, "_score": float("nan")},
        {"_id": True, "_source": {"body": "three"}, "_score": 10**400},
    ]
    fields = {"id": "_id", "title": "_source.head", "text": "_source.body", "score": "_score"}
    assert read_snippets(results, fields=fields) == [
        Snippet("7", "T", "one ?", 3.0),
        Snippet("5", "", "two", None),
        Snippet("6", "", "three", None),
    ]


def test_what_is_found_comes_in_the_endpoints_order_and_a_second_run_asks_for_nothing(tmp_path):
    nested = {"data": {"docs": [{"text": t, "score": s} for t, s in (("low", 0.1), ("high", 0.9), ("third", 0.5))]}}
    with SearchServer(lambda query: [Answer(nested)]) as server:
        section = settings(server, results="data.docs", request={"query": "{query}", "k": "{top_k}", "lang": "en"})
        queries = ["who?", "wer? é\u2028{query}"]
        first = ask(section, [*queries, "who?"], tmp_path=tmp_path)
        assert first["who?"] == [Snippet("0", "", "low", 0.1), Snippet("1", "", "high", 0.9)]
        assert server.received == dict.fromkeys(queries, 1)  # equal queries at once are one request
        assert sorted(server.payloads, key=str) == sorted(
            [("/v2/search/", {"query": query, "k": 2, "lang": "en"}) for query in queries], key=str
        )
        assert ask(section, queries, tmp_path=tmp_path) == first
        assert server.received.total() == 2
        # Another number or another request is another question; other fields are read from the same answer.
        ask(section, ["who?"], tmp_path=tmp_path, top_k=3)
        assert server.received["who?"] == 2
        renamed = section.model_copy(update={"fields": {"id": "text"}})
        assert [snippet.id for snippet in ask(renamed, ["who?"], tmp_path=tmp_path)["who?"]] == ["low", "high"]
        assert server.received["who?"] == 2


@pytest.mark.parametrize(
    "first",
    [
        Answer(b"oops", status=500),
        Answer(b"<html>", status=503, headers={"Content-Type": "text/html"}),
        Answer(b'{"results": [{"te'),
        Answer(b"<html>Bad gateway</html>", headers={"Content-Type": "text/html"}),
        Answer({"results": {"text": "no list"}}),
        Answer({"error": "in a response of status 200"}),
        Answer([{"text": "a list"}]),
        Answer(b"[" * 100_000),
        Answer({}, hang=0.6),
    ],
)
def test_a_passing_fault_is_asked_again_and_one_that_stays_is_a_failure_of_that_query_alone(tmp_path, first):
    def script(query):
        return {"mends": [first, hits("good")], "stays": [first]}.get(query, [hits("other")])

    with SearchServer(script) as server:
        section = settings(server, max_retries=2, timeout_s=0.3 if first.hang else 5)
        found = ask(section, ["mends", "stays", "fine"], tmp_path=tmp_path)
        assert [s.text for s in found["mends"]] == ["good"] and [s.text for s in found["fine"]] == ["other"]
        assert isinstance(found["stays"], Failure)
        reason = {500: "server_error", 503: "server_error"}.get(first.status, "malformed_reply")
        assert found["stays"].reason == ("timeout" if first.hang else reason)
        assert server.received == {"mends": 2, "stays": 3, "fine": 1}
        # A failure is not kept: it is asked for again, and only it.
        ask(section, ["mends", "stays", "fine"], tmp_path=tmp_path)
        assert server.received == {"mends": 2, "stays": 6, "fine": 1}


def test_retry_after_holds_for_every_query(tmp_path):
    now, slept = [0.0], []

    async def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds
        await asyncio.sleep(0)

    busy = Answer({}, status=429, headers={"Retry-After": "120"})
    with SearchServer(lambda query: [busy, hits("x")] if query == "a" else [hits("x")]) as server:
        section = settings(server, concurrency=1)
        found = ask(section, ["a", "b"], tmp_path=tmp_path, clock=Clock(now=lambda: now[0], sleep=sleep))
        assert [s.text for s in found["a"]] == ["x"] and server.received == {"a": 2, "b": 1}
    assert now[0] >= 120 and max(slept) >= 119


def test_no_more_requests_are_in_flight_than_allowed(tmp_path):
    with SearchServer(lambda query: [Answer({"results": []}, hang=0.02)]) as server:
        found = ask(settings(server, concurrency=3), [f"q{n}" for n in range(20)], tmp_path=tmp_path)
        assert server.most_busy == 3 and server.received.total() == 20
        assert set(map(str, found.values())) == {"[]"}  # nothing was found: an answer, no failure


def test_a_redirect_is_not_followed_and_ends_all(tmp_path):
    with SearchServer(lambda query: [hits("elsewhere")]) as other:
        moved = Answer(b"", status=307, headers={"Location": other.url})
        with SearchServer(lambda query: [moved]) as server:
            with pytest.raises(EndpointRefused, match=r"evaluation.retrieval.search.url=.* refuses .*HTTP 307"):
                ask(settings(server), ["q"], tmp_path=tmp_path)
            assert server.received["q"] == 1 and other.received.total() == 0


@pytest.mark.parametrize(("header", "sent"), [("Authorization", f"Bearer {KEY}"), ("X-API-Key", KEY)])
def test_the_key_is_sent_and_stands_nowhere(tmp_path, monkeypatch, caplog, header, sent):
    monkeypatch.setenv("SEARCH_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    script = {
        "echo": [Answer({"results": [{"text": f"you sent {KEY}", "title": KEY}]})],
        "fails": [Answer(status=500, echo=header)],
        "refused": [Answer(status=400, echo=header)],
    }
    with SearchServer(script.__getitem__) as server:
        section = settings(server, key_env="SEARCH_KEY", key_header=header)
        found = ask(section, list(script), tmp_path=tmp_path)
        assert {headers[header] for headers in server.headers} == {sent}
        assert server.received == {"echo": 1, "fails": 4, "refused": 1}
    assert found["echo"] == [Snippet("0", "***", "you sent ***", None)]
    assert (found["fails"].reason, found["refused"].reason) == ("server_error", "refused")
    assert "***" in found["fails"].detail
    assert KEY not in written(tmp_path) + caplog.text + repr(found) + repr(section)
    assert "you sent ***" in written(tmp_path)


def test_a_refused_key_ends_all_and_names_the_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCH_KEY", KEY)
    with SearchServer(lambda query: [Answer(status=401, echo="Authorization")]) as server:
        with pytest.raises(EndpointRefused, match=r"SEARCH_KEY \(evaluation.retrieval.search.key_env\)") as refused:
            ask(settings(server, key_env="SEARCH_KEY"), ["q"], tmp_path=tmp_path)
        assert server.received["q"] == 1 and KEY not in str(refused.value)


def test_an_address_that_never_answers_ends_all(tmp_path):
    with SearchServer(lambda query: [hits("x")]) as server:
        section = settings(server, max_retries=1)
    with pytest.raises(EndpointRefused, match=r"evaluation.retrieval.search.url=http://127.0.0.1:\d+ has never"):
        ask(section, ["q"], tmp_path=tmp_path)


def test_an_answer_kept_under_another_path_is_a_failure_that_names_what_is_there(tmp_path):
    with SearchServer(lambda query: [hits("x")]) as server:
        ask(settings(server), ["q"], tmp_path=tmp_path)
        found = ask(settings(server, results="hits.docs"), ["q"], tmp_path=tmp_path)["q"]
        assert found.reason == "unreadable_results" and "'hits.docs'; the answer holds ['results']" in found.detail
        assert server.received["q"] == 1


def config_of(tmp_path, **retrieval):
    return parse(
        {
            "run": {"dir": str(tmp_path / "run")},
            "questions": {"train": [{"name": "a", "path": "a"}]},
            "evaluation": {"retrieval": retrieval},
        }
    )


def test_a_search_of_a_run_keeps_the_answers_of_an_endpoint_in_the_run_directory(tmp_path):
    async def search(config):
        async with start_search(config) as searcher:
            return await searcher.search("q", top_k=1)

    with SearchServer(lambda query: [hits("one", "two")]) as server:
        config = config_of(tmp_path, engine="http", search={"url": server.url})
        assert [s.as_row() for s in asyncio.run(search(config))] == [
            {"id": "d0", "title": "", "text": "one", "score": 1.0}
        ]
        assert asyncio.run(search(config))[0].text == "one" and server.received["q"] == 1
    (entry,) = (tmp_path / "run" / "searches").glob("*/*.json")
    assert json.loads(entry.read_text())["body"]["results"][1]["text"] == "two"


@pytest.mark.parametrize(
    ("retrieval", "message"),
    [
        ({"engine": "none"}, r"engine=none: nothing can be searched; choose bm25 with .* or http"),
        ({"engine": "http", "search": {"url": "ftp://h/x"}}, r"search.url='ftp://h/x' is no address; write http"),
        ({"engine": "http", "search": {"url": "http://u:secret@h/x"}}, r"search.url='http://h/x' holds credentials"),
        ({"engine": "http", "search": {"url": "http://h/x?key=secret"}}, r"search.url='http://h/x' holds credentials"),
        ({"engine": "http", "search": {"request": {"q": "?"}}}, r"holds no \{query\}"),
        ({"engine": "http", "search": {"fields": {"body": "x"}}}, r"names \['body'\]; allowed are \['id', 'title'"),
        ({"engine": "http", "search": {"key_header": "X: Y"}}, r"'X: Y' is no name of a header"),
        ({"engine": "http", "search": {"key_env": "UNSET_SEARCH_KEY"}}, r"UNSET_SEARCH_KEY: this .* is not set"),
        ({"engine": "bm25", "corpus": "/nowhere/c.jsonl"}, r"corpus=/nowhere/c.jsonl does not exist"),
    ],
)
def test_what_could_never_be_searched_is_refused_before_anything_starts(tmp_path, retrieval, message):
    with pytest.raises(ValueError, match=message) as refused:
        check_search(config_of(tmp_path, **retrieval))
    assert "secret" not in str(refused.value) and not (tmp_path / "run").exists()
