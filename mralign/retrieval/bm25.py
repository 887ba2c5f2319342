"""A corpus that is searched by its words: BM25, by the library bm25s.

A corpus enters; an index leaves, in a directory named after the corpus's content and all else that the index follows
from: it is built once, appears whole or not at all, and is mapped into memory, not read. A query is cut into words as
the corpus was. For N texts the score of a text D is, with bm25s's method "lucene",

    Σ over the query's words q:  ln(1 + (N - n_q + 1/2) / (n_q + 1/2)) · f / (f + k1 · (1 - b + b · |D| / mean |D|))

f: how often q stands in D, title and text together; n_q: texts that hold q; |D|: words of D; k1 = 1.5, b = 0.75.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import uuid
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mralign.questions.normalisation import words as words_in
from mralign.retrieval.corpus import Document, field_names, no_texts, read_corpus
from mralign.rows.schema import Snippet
from mralign.run.arrow_files import open_ipc
from mralign.run.digests import digest
from mralign.run.events import counted
from mralign.run.placement import NotInstalled
from mralign.run.store import fingerprint

log = logging.getLogger("mralign")

_VERSION = 2  # raised when the same corpus is indexed otherwise
_METHOD = {"method": "lucene", "k1": 1.5, "b": 0.75}
_TEXTS = "texts.arrow"
_BATCH = 8192  # texts that are written together
_AT_ONCE = 4  # queries that are scored at once: each holds a float32 a text
_DOCUMENTS = pa.schema({"id": pa.string(), "title": pa.string(), "text": pa.string()})

Words = Callable[[str], list[str]]


def check_installed() -> None:
    """Raise NotInstalled, a ValueError, where the libraries are missing."""
    missing = [name for name in ("bm25s", "Stemmer") if find_spec(name) is None]
    if missing:
        raise NotInstalled(
            f"evaluation.retrieval.engine=bm25 needs {' and '.join(missing)}, not installed here: "
            f"pip install 'mralign[retrieval]', or choose evaluation.retrieval.engine=http"
        )


def open_index(corpus: str, *, fields: Mapping[str, str], directory: Path) -> Bm25:
    """The index of a corpus, from `directory` or built and put there.

    The texts' words are held in memory while it is built, 4 bytes each; a corpus beyond that needs a search endpoint.
    Raises ValueError for a corpus in which nothing can be found.
    """
    check_installed()
    mark = fingerprint(
        stage="bm25",
        version=_VERSION,
        config=[field_names(fields), _METHOD, version("bm25s"), version("PyStemmer")],
        upstream={},
        inputs={"corpus": digest(corpus)},
    )
    place = directory / f"bm25-{mark}"
    if not place.is_dir():
        _build(corpus, fields=fields, place=place)
    return Bm25(place)


class Bm25:
    """An index that is there; a `Searcher` that never fails."""

    def __init__(self, place: Path) -> None:
        self.place, self._words, self._slots = place, words_of(), asyncio.Semaphore(_AT_ONCE)
        try:
            self._index = _library().BM25.load(place, mmap=True, allow_pickle=False, show_progress=False, verbosity=0)
            self._texts = open_ipc(str(place / _TEXTS))
        except (KeyError, OSError, ValueError) as error:
            raise ValueError(
                f"the search index {place} cannot be read ({error}); delete it and run the same command again: it is "
                f"built anew"
            ) from error

    async def search(self, query: str, *, top_k: int) -> list[Snippet]:
        """The `top_k` texts with the highest scores above 0; of equal ones that which comes first in the corpus."""
        ids = self._index.get_tokens_ids(self._words(query))
        if not ids:
            return []
        async with self._slots:
            return await asyncio.to_thread(self._find, ids, top_k)

    def _find(self, ids: list[int], top_k: int) -> list[Snippet]:
        scores_N = self._index.get_scores_from_ids(ids)
        return [
            Snippet(**self._texts.slice(row, 1).to_pylist()[0], score=float(scores_N[row]))
            for row in best(scores_N, top_k=top_k).tolist()
        ]


def best(scores_N: np.ndarray, *, top_k: int) -> np.ndarray:
    """Numbers of the `top_k` highest scores above 0, highest first, equal ones in the order of their numbers."""
    found = np.flatnonzero(scores_N > 0)
    if len(found) > top_k:
        least = np.partition(scores_N[found], -top_k)[-top_k]
        found = found[scores_N[found] >= least]  # all that tie for the last place
    return found[np.argsort(-scores_N[found], kind="stable")][:top_k]


def words_of() -> Words:
    """The words of a text (`questions.normalisation`), without English stop words, each its English stem (Snowball).

    In scripts without spaces each character is a word. A new function for each user: a stemmer serves one thread.
    """
    from bm25s.stopwords import STOPWORDS_EN
    from Stemmer import Stemmer

    stop, stemmer = frozenset(STOPWORDS_EN), Stemmer("english")

    def words(text: str) -> list[str]:
        stems: list[str] = stemmer.stemWords([word for word in words_in(text) if word not in stop])
        return stems

    return words


def _library() -> Any:
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG
    return bm25s


class _Numbers:
    """The numbers of each text's words, as bm25s iterates over them, in one array: a list of lists takes ten times as
    much memory."""

    def __init__(self) -> None:
        self._flat, self._ends = array("i"), array("q")

    def append(self, numbers: list[int]) -> None:
        self._flat.extend(numbers)
        self._ends.append(len(self._flat))

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[list[int]]:
        start = 0
        for end in self._ends:
            yield self._flat[start:end].tolist()
            start = end


def _build(corpus: str, *, fields: Mapping[str, str], place: Path) -> None:
    """Build beside `place`, then rename: a killed build leaves a directory `_tmp-*` at most, which nobody opens."""
    temporary = place.with_name(f"_tmp-{uuid.uuid4().hex}")
    temporary.mkdir(parents=True)
    try:
        numbers, vocabulary = _write_texts(corpus, fields=fields, directory=temporary)
        log.info("bm25: indexing %d texts, %d different words", len(numbers), len(vocabulary))
        library = _library()
        index = library.BM25(**_METHOD)
        index.index(
            library.tokenization.Tokenized(ids=numbers, vocab=vocabulary),
            create_empty_token=False,
            show_progress=len(numbers) > 100_000,
        )
        index.save(temporary, show_progress=False)
        _put(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put(temporary: Path, place: Path) -> None:
    try:
        temporary.rename(place)
    except OSError:
        if not place.is_dir():  # else another process has built the same index meanwhile
            raise


def _write_texts(corpus: str, *, fields: Mapping[str, str], directory: Path) -> tuple[_Numbers, dict[str, int]]:
    """Write the texts, and count the rows that are none; the numbers of their words, and the number of each word."""
    words, numbers, vocabulary, skipped = words_of(), _Numbers(), dict[str, int](), Counter[str]()
    with pa.ipc.new_file(str(directory / _TEXTS), _DOCUMENTS) as writer:
        for batch in _batches(corpus, fields=fields, skipped=skipped):
            for one in batch:
                found = words(f"{one.title}\n{one.text}")
                numbers.append([vocabulary.setdefault(word, len(vocabulary)) for word in found])
            writer.write_batch(pa.RecordBatch.from_pylist([asdict(one) for one in batch], schema=_DOCUMENTS))
    if not len(numbers):
        raise no_texts(corpus, fields=fields)
    if not vocabulary:
        raise ValueError(f"evaluation.retrieval.corpus={corpus} holds no words but stop words; give another corpus")
    if skipped:
        log.warning("bm25: %s has rows that cannot be found, by reason: %s", corpus, dict(skipped))
    about = {"corpus": corpus, "texts": len(numbers), "words": len(vocabulary), "skipped": dict(skipped)}
    (directory / "about.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    return numbers, vocabulary


def _batches(corpus: str, *, fields: Mapping[str, str], skipped: Counter[str]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    for row in counted(read_corpus(corpus, fields=fields), total=None, what="reading the corpus", unit="rows"):
        if isinstance(row, str):
            skipped[row] += 1
            continue
        batch.append(row)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
