"""Texts are looked for by a query: in a corpus of ours (BM25), or by an endpoint that searches.

A query enters a `Searcher`; snippets leave, best first, or a `Failure` that says why there are none. An endpoint is
asked through the same door as a model: bounded in number, tried again, its answers kept in the run directory before
anybody sees them, so that nothing is asked twice; the key is in none of them. The rooms know `Snippet` and `Searcher`.
"""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import urlsplit

from mralign.asking.json_reply import readable
from mralign.config import Http, RunConfig, Search, resolve_path
from mralign.retrieval.corpus import check_corpus
from mralign.run.disk import own_temporary_directory
from mralign.run.store import Directory, absolute
from mralign.serving.api_key import ApiKey
from mralign.serving.backoff import Clock
from mralign.serving.calls import Call, Failure
from mralign.serving.endpoint import Endpoint, check_address

SHELF = "searches"  # in the run directory: answers of endpoints, and indexes of corpora
_SETTING = "evaluation.retrieval.search"
_PLACE = re.compile(r"\{(query|top_k)\}")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


@dataclass(frozen=True)
class Snippet:
    """One text that was found; `title` may be empty, `score` is the searcher's own (None: it tells none)."""

    id: str
    title: str
    text: str
    score: float | None

    def as_row(self) -> dict[str, Any]:
        """For a column of type schema.SNIPPET."""
        return asdict(self)


_FIELDS = tuple(Snippet.__dataclass_fields__)


class Searcher(Protocol):
    """Finds at most `top_k` snippets for a query, best first; none is an answer too.

    A failure holds for the one query. Raises calls.Stopped where nothing may be sent any more (a wrong key or address).
    """

    async def search(self, query: str, *, top_k: int) -> list[Snippet] | Failure: ...


class HttpSearch:
    """A search endpoint, for one event loop; `async with` closes its connections."""

    def __init__(self, settings: Search, *, cache: Directory, clock: Clock | None = None) -> None:
        """Raises ValueError for what `check_http` refuses. The key is read from the environment."""
        key = check_http(settings)
        self.settings = settings
        base_url, self._path = _split(settings.url)
        self.endpoint = Endpoint(
            Http(
                base_url=base_url,
                concurrency=settings.concurrency,
                timeout_s=settings.timeout_s,
                max_retries=settings.max_retries,
                max_backoff_s=settings.max_backoff_s,
            ),
            cache=cache,
            clock=clock,
            key=key,
            fault_of=lambda body: results_fault(body, path=settings.results),
            setting=f"{_SETTING}.url",
        )

    async def __aenter__(self) -> HttpSearch:
        await self.endpoint.__aenter__()
        return self

    async def __aexit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.endpoint.close()

    async def search(self, query: str, *, top_k: int) -> list[Snippet] | Failure:
        """What the endpoint (or the cache of its answers) finds. Raises calls.EndpointRefused."""
        payload = filled(self.settings.request, query=query, top_k=top_k)
        answer = await self.endpoint.complete(Call(query, self._path, payload))
        if isinstance(answer, Failure):
            return answer
        fault = results_fault(answer.body, path=self.settings.results)  # it was kept under another `results`
        if fault:
            return Failure("malformed_reply", fault)
        return read_snippets(at(answer.body, self.settings.results), fields=self.settings.fields)[:top_k]


def filled(template: Any, *, query: str, top_k: int) -> Any:
    """The JSON value `template` with {query} and {top_k} filled into its texts, once; a text that is no more than
    {top_k} becomes the number."""
    if isinstance(template, dict):
        return {name: filled(value, query=query, top_k=top_k) for name, value in template.items()}
    if isinstance(template, list):
        return [filled(value, query=query, top_k=top_k) for value in template]
    if template == "{top_k}":
        return top_k
    if isinstance(template, str):
        return _PLACE.sub(lambda place: query if place[1] == "query" else str(top_k), template)
    return template


def at(value: Any, path: str) -> Any:
    """What lies at a dotted path in a JSON value, None where nothing does; a name may hold dots itself."""
    if not isinstance(value, dict):
        return None
    if path in value:
        return value[path]
    head, dot, rest = path.partition(".")
    return at(value.get(head), rest) if dot else None


def results_fault(body: Any, *, path: str) -> str:
    """What keeps a JSON value from being the answer of a search; empty if nothing does."""
    if isinstance(at(body, path), list):
        return ""
    holds = sorted(map(str, body))[:20] if isinstance(body, dict) else f"a {type(body).__name__}"
    return f"no list of results at {_SETTING}.results={path!r}; the answer holds {holds}"


def read_snippets(results: list[Any], *, fields: Mapping[str, str]) -> list[Snippet]:
    """The results that have a text, in their order; the id of one without is its place among the results, from 0."""
    found = (_snippet(result, place=place, fields=fields) for place, result in enumerate(results))
    return [snippet for snippet in found if snippet is not None]


def _snippet(result: Any, *, place: int, fields: Mapping[str, str]) -> Snippet | None:
    identity, title, text, score = (at(result, fields.get(name, name)) for name in _FIELDS)
    if not isinstance(text, str) or not text.strip():
        return None
    return Snippet(
        id=readable(str(identity)) if isinstance(identity, str) or type(identity) is int else str(place),
        title=readable(title) if isinstance(title, str) else "",
        text=readable(text),
        score=_number(score),
    )


def _number(value: Any) -> float | None:
    """A finite float, else None: JSON as Python reads it has NaN, and integers beyond any float."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def check_http(settings: Search) -> ApiKey:
    """The key of a search endpoint. ValueError for a section that cannot be meant, or a key that is not there."""
    place = f"an environment variable, name that in {_SETTING}.key_env"
    check_address(settings.url, setting=f"{_SETTING}.url", form="http(s)://HOST[:PORT]/PATH", key_place=place)
    if filled(settings.request, query="a", top_k=1) == filled(settings.request, query="b", top_k=1):
        raise ValueError(f"{_SETTING}.request={settings.request} holds no {{query}}; put it where the query goes")
    unknown = sorted(set(settings.fields) - set(_FIELDS))
    if unknown:
        raise ValueError(
            f"{_SETTING}.fields names {unknown}; allowed are {list(_FIELDS)}, each with the endpoint's name"
        )
    if not _HEADER.fullmatch(settings.key_header):
        raise ValueError(f"{_SETTING}.key_header={settings.key_header!r} is no name of a header, e.g. X-API-Key")
    return _key(settings)


def _key(settings: Search) -> ApiKey:
    setting = f"{_SETTING}.key_env"
    if settings.key_env is None:
        return ApiKey("null", header=settings.key_header, setting=setting)
    key = ApiKey.from_environment(settings.key_env, header=settings.key_header, setting=setting)
    if not key.value:
        raise ValueError(f"{setting}={settings.key_env}: this environment variable is not set; export it, or give null")
    return key


def _split(url: str) -> tuple[str, str]:
    """The address up to the path, and the path as it stands: a slash at its end matters to some servers."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}", parts.path


def check_search(config: RunConfig) -> None:
    """Raise ValueError for a search that could never be made, before anything starts."""
    retrieval = config.evaluation.retrieval
    if retrieval.engine == "none":
        raise ValueError(
            "evaluation.retrieval.engine=none: nothing can be searched; choose bm25 with evaluation.retrieval.corpus, "
            "or http with evaluation.retrieval.search.url"
        )
    if retrieval.engine == "http":
        check_http(retrieval.search)
        return
    from mralign.retrieval.bm25 import check_installed

    check_corpus(resolve_path(str(retrieval.corpus)), fields=retrieval.fields)
    check_installed()


def start_search(config: RunConfig) -> Searcher:
    """The searcher of a run, for a process that ends with it (an actor). An index of a corpus is built if there is none
    yet, which may take minutes; where the run directory is no local one, it lies in a temporary directory.

    Raises ValueError as `check_search` does.
    """
    check_search(config)
    retrieval, directory = config.evaluation.retrieval, f"{absolute(config.run.dir)}/{SHELF}"
    if retrieval.engine == "http":
        return HttpSearch(retrieval.search, cache=Directory(directory))
    from mralign.retrieval.bm25 import open_index

    if "://" in directory:
        directory = own_temporary_directory("searches")
    return open_index(resolve_path(str(retrieval.corpus)), fields=retrieval.fields, directory=Path(directory))


@asynccontextmanager
async def open_search(config: RunConfig) -> AsyncIterator[Searcher]:
    """The searcher of a run. An index of a corpus is built here if there is none yet, which may take minutes.

    Raises ValueError as `check_search` does. Where the run directory is no local one, an index lives as long as this.
    """
    check_search(config)
    retrieval, directory = config.evaluation.retrieval, f"{absolute(config.run.dir)}/{SHELF}"
    if retrieval.engine == "http":
        async with HttpSearch(retrieval.search, cache=Directory(directory)) as search:
            yield search
        return
    from mralign.retrieval.bm25 import open_index

    with ExitStack() as stack:
        if "://" in directory:
            directory = stack.enter_context(TemporaryDirectory(prefix="mralign-searches-"))
        corpus = resolve_path(str(retrieval.corpus))
        yield open_index(corpus, fields=retrieval.fields, directory=Path(directory))
