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
    """The same model, thinking, answers, criticises its answer and revises it. The texts are messages of the user."""

    rounds: int = Field(1, ge=1, le=9, description="Number of rounds of feedback and revision.")
    feedback: str = Field(_FEEDBACK, description="Message that asks for feedback; holds {question} and {answer}.")
    revise: str = Field(
        _REVISE,
        description="Message that asks for a revised answer; holds {question} (with evaluation.prompt around it), "
        "{answer} and {feedback}.",
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

    url: str = Field("http://127.0.0.1:8000/search", description="Address of the search endpoint, http:// or https://.")
    request: dict[str, Any] = Field(
        default_factory=lambda: {"query": "{query}", "top_k": "{top_k}"},
        description="The JSON object that is sent. {query} and {top_k} are filled in, {top_k} as a number.",
    )
    results: str = Field(
        "results", description="Where the list of results lies in the answer; a dot goes one level deeper."
    )
    fields: dict[str, str] = Field(
        default_factory=dict,
        description="Maps our names (id, title, text, score) to the endpoint's; those left out are the same.",
    )
    key_env: Speed[str | None] = Field(
        None, description="Name of the environment variable that holds the key; null: no key is sent."
    )
    key_header: Speed[str] = Field(
        "Authorization", description="Header in which the key is sent; Authorization gets `Bearer ` before the key."
    )
    concurrency: Speed[int] = Field(16, ge=1, description="Requests in flight at once.")
    timeout_s: Speed[float] = Field(60, gt=0, description="Seconds for one whole response.")
    max_retries: Speed[int] = Field(
        8,
        ge=0,
        description="Further tries of a request after 5xx, timeouts and broken bodies; a 429 uses up none of them.",
    )
    max_backoff_s: Speed[float] = Field(
        60, gt=0, description="Longest pause between two tries, in seconds, unless the server asks for more."
    )
    requests_per_minute: Speed[float | None] = Field(
        None,
        gt=0,
        description="Requests in a minute; they are spread evenly. null: as fast as the endpoint answers.",
    )
    max_rate_limited_s: Speed[float] = Field(
        7200, gt=0, description="Seconds with nothing but 429 after which the run stops; the same command goes on."
    )
    max_refusals: Speed[int | None] = Field(
        5,
        ge=1,
        description="Refusals of one kind in a row, with no answer between them, after which the run stops; null: "
        "refusals never stop it.",
    )


class Retrieval(Section):
    """Where snippets come from, for +Ret and for the evidence of claims."""

    engine: Literal["none", "bm25", "http"] = Field(
        "none",
        description="Who finds snippets: nobody, BM25 over a corpus of yours (mralign[retrieval]), or a search "
        "endpoint.",
    )
    corpus: Content[str | None] = Field(
        None, description="The corpus of bm25: a JSONL or Parquet file, or a directory of them, with one text a row."
    )
    fields: dict[str, str] = Field(
        default_factory=dict,
        description="Maps our names (id, title, text) to those of bm25's corpus; those left out are the same.",
    )
    search: Search = Field(Search(), description="The search endpoint, for engine http.")
    top_k: int = Field(5, ge=1, description="Snippets in a prompt of think_off_ret and think_on_ret.")
    max_characters: int = Field(
        2000, ge=1, description="Longest snippet in such a prompt, in characters; the rest is cut."
    )
    prompt: str = Field(
        _SNIPPETS,
        description="Text that takes the place of the question in such a prompt; holds {question} and {snippets}.",
    )

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

    k: int | None = Field(
        None, ge=1, description="K of F1@K; null: the median number of claims of the untrained model with thinking."
    )
    evidence: int = Field(10, ge=1, description="Number of snippets against which a claim of a long answer is checked.")


class Evaluation(Section):
    """Held-out questions, methods, decoding, judges, and the interval of every figure (method.md §6)."""

    split: Literal["dev", "test"] = Field(
        "test", description="Which questions are asked. Use dev while you choose settings, and test once at the end."
    )
    predictions: Content[str | None] = Field(
        None,
        description="File of responses that were made elsewhere. They are scored, and no model is asked. "
        "`mralign evaluate --predictions FILE` sets this and what belongs to it.",
        exclude_if=lambda path: path is None,
    )
    label: str = Field(
        "base",
        pattern=r"^[\w.-]+$",
        description="Name of the untrained model in tables, which show base_think_on and the like.",
    )
    methods: tuple[Way, ...] = Field(
        (Way.THINK_OFF, Way.THINK_ON),
        description="How the untrained model is asked: without or with thinking, by Self-Refine, or with snippets "
        "(_ret).",
    )
    trained_methods: tuple[Way, ...] = Field(
        (Way.THINK_ON,), description="How the trained model is asked; the same choices."
    )
    draws: int = Field(
        1,
        ge=1,
        description="Answers to every question by each method; all count in the figures. More make them steadier.",
    )
    match: Match = "exact"
    prompt: str = Field(
        "{question}",
        description="The user's message. `{question}` stands for the question, `{choices}` for its choices, one a "
        "line; without `{choices}` they follow the question.",
    )
    prompts: dict[str, str] = Field(
        default_factory=dict,
        description="Messages that take the place of `prompt`, by the name of the data set, e.g. for long answers.",
    )
    decoding: Decoding = Field(
        Decoding(temperature=0.6, top_p=0.95, top_k=20), description="How tokens of the answers are sampled."
    )
    self_refine: SelfRefine = Field(SelfRefine(), description="Rounds and messages of the method self_refine.")
    retrieval: Retrieval = Field(
        Retrieval(), description="Where snippets come from, for the methods with _ret and for the evidence of claims."
    )
    judge: Annotator | None = Field(
        None,
        description="Who judges answers (engine vllm or http). TruthfulQA, LongFact, FActScore and FRAMES need one.",
    )
    extractor: Annotator | None = Field(None, description="Who finds the claims of a long answer; null: the judge.")
    verifier: Annotator | None = Field(None, description="Who checks a claim against its evidence; null: the judge.")
    longfact: LongFact = Field(LongFact(), description="How long answers are scored.")
    reannotate: int = Field(
        0,
        ge=0,
        description="Number of questions whose thoughts, before and after training, are labelled anew, to show how "
        "the transitions changed; 0: none. They are paid for like other annotations.",
    )
    bootstrap_samples: int = Field(
        2000, ge=100, description="Bootstrap samples behind every interval. More take longer and change little."
    )
    level: float = Field(0.95, gt=0, lt=1, description="Confidence of the intervals: 0.95 is 95 %.")

    @model_validator(mode="after")
    def _can_be_asked(self) -> Evaluation:
        if not self.methods:
            raise ValueError("evaluation.methods is empty; name one method or more, e.g. [think_off, think_on]")
        retrieved = [way for way in (*self.methods, *self.trained_methods) if way.retrieved]
        if retrieved and self.retrieval.engine == "none":
            raise ValueError(f"{retrieved[0]} needs evaluation.retrieval.engine: bm25 with a corpus, or http")
        return self
