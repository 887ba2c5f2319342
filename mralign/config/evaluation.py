"""Evaluation: which methods are asked, how they are judged, and where evidence is found (method.md §6)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from mralign.config.data import Match
from mralign.config.labelling import Annotator
from mralign.config.models import Decoding
from mralign.config.section import Content, Section, Speed
from mralign.rows.subjects import Way

_FEEDBACK = """\
Question: {question}

Proposed answer: {answer}

Check the proposed answer. Say what is wrong or missing in it, or that it is correct. Do not write a new answer."""

_REVISE = """\
{question}

Your earlier answer: {answer}

Feedback on it: {feedback}

Answer the question again, with the feedback in mind."""

_SNIPPETS = """\
{question}

These search results may help:

{snippets}"""


class SelfRefine(Section):
    """Answer, feedback, revised answer, by the same model, thinking on. Texts are messages of the user."""

    rounds: int = Field(1, ge=1, le=9, description="Feedback and revision so many times.")
    feedback: str = Field(_FEEDBACK, description="Asks for feedback; holds {question} and {answer}.")
    revise: str = Field(
        _REVISE,
        description="Asks for a revised answer; holds {question} (with evaluation.prompt around it), {answer} and "
        "{feedback}.",
    )

    @model_validator(mode="after")
    def _hold_places(self) -> SelfRefine:
        for name, places in (("feedback", ("question", "answer")), ("revise", ("question", "answer", "feedback"))):
            missing = [f"{{{place}}}" for place in places if f"{{{place}}}" not in getattr(self, name)]
            if missing:
                raise ValueError(f"self_refine.{name} does not hold {', '.join(missing)}; put each where it goes")
        return self


class Search(Section):
    """A search endpoint: POST of a JSON object, an answer in JSON. The key comes from the environment."""

    url: str = Field("http://127.0.0.1:8000/search", description="http:// or https:// address.")
    request: dict[str, Any] = Field(
        default_factory=lambda: {"query": "{query}", "top_k": "{top_k}"},
        description="The object that is sent; the texts {query} and {top_k} are filled in (top_k as a number).",
    )
    results: str = Field("results", description="Where the list of results lies in the answer; dots go deeper.")
    fields: dict[str, str] = Field(
        default_factory=dict, description="Our names -> the endpoint's; left out: id, title, text, score."
    )
    key_env: Speed[str | None] = Field(None, description="Environment variable that holds the key; null: no key.")
    key_header: Speed[str] = Field(
        "Authorization", description="Header of the key; Authorization gets `Bearer ` before it."
    )
    concurrency: Speed[int] = Field(16, ge=1)
    timeout_s: Speed[float] = Field(60, gt=0)
    max_retries: Speed[int] = Field(8, ge=0)
    max_backoff_s: Speed[float] = Field(60, gt=0)
    requests_per_minute: Speed[float | None] = Field(None, gt=0, description="As in http, like the two below.")
    max_rate_limited_s: Speed[float] = Field(7200, gt=0)
    max_refusals: Speed[int | None] = Field(5, ge=1)


class Retrieval(Section):
    """Where snippets come from, for +Ret and for the evidence of claims."""

    engine: Literal["none", "bm25", "http"] = "none"
    corpus: Content[str | None] = Field(
        None, description="bm25: JSONL or Parquet, a file or a directory of them; a row a text."
    )
    fields: dict[str, str] = Field(
        default_factory=dict, description="bm25: our names -> the corpus's; left out: id, title, text."
    )
    search: Search = Search()
    top_k: int = Field(5, ge=1, description="Snippets in a prompt (+Ret).")
    max_characters: int = Field(2000, ge=1, description="A longer snippet is cut in a prompt (+Ret).")
    prompt: str = Field(_SNIPPETS, description="Takes the place of the question; holds {question} and {snippets}.")

    @property
    def searched(self) -> Retrieval:
        """These settings without those of an engine that is not used: they change nothing that is found."""
        unused = {"bm25": ["search"], "http": ["fields"], "none": ["search", "fields"]}[self.engine]
        defaults = Retrieval()
        return self.model_copy(update={name: getattr(defaults, name) for name in unused})

    @model_validator(mode="after")
    def _fits(self) -> Retrieval:
        if self.engine == "bm25" and not self.corpus:
            raise ValueError(
                "retrieval.engine=bm25 needs retrieval.corpus: a JSONL or Parquet file with a field `text`"
            )
        for place in ("{question}", "{snippets}"):
            if place not in self.prompt:
                raise ValueError(f"retrieval.prompt does not hold {place}; put it where it goes")
        return self


class LongFact(Section):
    """VeriScore: claims of a response, evidence for each, a verdict on each."""

    k: int | None = Field(None, ge=1, description="K of F1@K; null: median claims of the base model, thinking on.")
    evidence: int = Field(10, ge=1, description="Snippets that a claim of a long answer is checked against.")


class Evaluation(Section):
    """Held-out questions, methods, decoding, judges, and the interval of every figure (method.md §6)."""

    split: Literal["dev", "test"] = "test"
    predictions: Content[str | None] = Field(
        None,
        description="JSONL of responses that were made elsewhere, one a line: they are scored in place of asking the "
        "model; `evaluate --predictions` writes it from your file.",
        exclude_if=lambda path: path is None,
    )
    label: str = Field("base", pattern=r"^[\w.-]+$", description="Name of `model` in tables: base_think_on, ...")
    methods: tuple[Way, ...] = Field((Way.THINK_OFF, Way.THINK_ON), description="How the model `model` is asked.")
    trained_methods: tuple[Way, ...] = Field((Way.THINK_ON,), description="How the trained model is asked.")
    draws: int = Field(1, ge=1)
    match: Match = "exact"
    prompt: str = Field(
        "{question}",
        description="The user's message; `{question}` stands for the question, `{choices}` for its choices, a line "
        "each; without that place they follow the question.",
    )
    prompts: dict[str, str] = Field(
        default_factory=dict, description="Benchmark -> its own message in place of `prompt`, e.g. for long answers."
    )
    decoding: Decoding = Decoding(temperature=0.6, top_p=0.95, top_k=20)
    self_refine: SelfRefine = SelfRefine()
    retrieval: Retrieval = Retrieval()
    judge: Annotator | None = Field(None, description="Judges answers, engine vllm or http.")
    extractor: Annotator | None = Field(None, description="Finds the claims of a long answer; null is the judge.")
    verifier: Annotator | None = Field(None, description="Checks a claim; null is the judge.")
    longfact: LongFact = LongFact()
    reannotate: int = Field(
        0,
        ge=0,
        description="Thoughts of the base and of the trained model that are labelled anew, for the difference "
        "between their transition matrices; 0 is none.",
    )
    bootstrap_samples: int = Field(2000, ge=100)
    level: float = Field(0.95, gt=0, lt=1)

    @model_validator(mode="after")
    def _can_be_asked(self) -> Evaluation:
        if not self.methods:
            raise ValueError("evaluation.methods is empty; name one method or more, e.g. [think_off, think_on]")
        retrieved = [way for way in (*self.methods, *self.trained_methods) if way.retrieved]
        if retrieved and self.retrieval.engine == "none":
            raise ValueError(f"{retrieved[0]} needs evaluation.retrieval.engine: bm25 with a corpus, or http")
        return self
