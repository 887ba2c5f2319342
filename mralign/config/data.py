"""From questions to candidates: sources, rollouts made here or elsewhere, verdict and length filter."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mralign.config.models import Decoding
from mralign.config.section import Section


class Source(Section):
    """One data set of questions, its format, and the names of its fields."""

    name: str
    path: str = Field(description="Local path, pyarrow or fsspec URL, or hub://OWNER/NAME?split=...&config=...")
    format: Literal["auto", "plain", "nq_open", "sciq", "simpleqa", "truthfulqa", "longfact"] = Field(
        "auto", description="auto: plain (JSONL, JSON, CSV, Parquet by suffix) with the field map."
    )
    fields: dict[str, str] = Field(
        default_factory=dict, description="Our names -> the file's; left out: id, question, answers -> `answer`."
    )
    skip: int = Field(
        0,
        ge=0,
        description="Leave out the first so many records, before `limit`: one file can be given as two data sets.",
        exclude_if=lambda skip: skip == 0,  # what is not skipped changes no fingerprint
    )
    limit: int | None = Field(None, ge=1)
    sample: int | None = Field(
        None,
        ge=1,
        description="Of those, so many from all over the source: by a hash of their numbers, always the same ones.",
        exclude_if=lambda sample: sample is None,
    )


class Questions(Section):
    """Where questions come from. Train, dev and test are kept apart."""

    train: tuple[Source, ...] = ()
    dev: tuple[Source, ...] = ()
    test: tuple[Source, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> Questions:
        for split in ("train", "dev", "test"):
            names = [source.name for source in getattr(self, split)]
            if len(set(names)) < len(names):
                raise ValueError(f"questions.{split} names {names}: two sources share a name, so ids could collide")
        return self


class ImportFields(Section):
    """Names of the fields in a file of rollouts made elsewhere. A dotted name goes deeper, a number in brackets into a
    list: `message.content`, `choices[0].message.content`."""

    id: str = "id"
    question: str = "question"
    answers: str = "answer"
    thought: str | None = Field(
        None,
        description="Field of the thought, with or without tags; null, or empty in a row, when `response` holds it.",
    )
    response: str = "response"
    draw: str | None = None
    finish_reason: str | None = Field(
        "finish_reason",
        description="Field that says why the text ended. Only stop, eos, end_turn and their like make an answer whole; "
        "a row without the field is taken as whole, and so are all rows where this is null.",
    )
    tags: tuple[str, str] | None = Field(
        None,
        description="Tags of the thought in this file, e.g. ['[THINK]', '[/THINK]'], where they are not the model's.",
        exclude_if=lambda tags: tags is None,
    )


class Rollouts(Section):
    """N draws in each mode, sampled here or imported."""

    n: int = Field(3, ge=1)
    engine: Literal["vllm", "http"] = Field("vllm", description="http: the endpoint of the section `http` instead.")
    decoding: Decoding = Decoding()
    prompt: str = Field("{question}", description="The user's message; `{question}` stands for the question.")
    import_on: str | None = Field(
        None, description="Think-on rollouts to use in place of sampling: a file in any form that questions come in."
    )
    import_off: str | None = None
    import_name: str = "imported"
    import_fields: ImportFields = ImportFields()

    @model_validator(mode="after")
    def _both_or_none(self) -> Rollouts:
        if (self.import_on is None) != (self.import_off is None):
            raise ValueError("rollouts.import_on and rollouts.import_off go together: give both or neither")
        return self


class Candidates(Section):
    """Verdict and length filter; all four bounds are open (METHOD 1)."""

    match: Literal["exact", "contains"] = "exact"
    min_segments: int = 4
    max_segments: int = 15
    min_thought_tokens: int = 450
    max_thought_tokens: int = 1000
    keep_all_draws: bool = False
    keep_neutral: bool = Field(False, description="Annotate undecided questions too, to estimate P from all rollouts.")

    @model_validator(mode="after")
    def _not_empty(self) -> Candidates:
        for low, high in (("min_segments", "max_segments"), ("min_thought_tokens", "max_thought_tokens")):
            if getattr(self, high) - getattr(self, low) < 2:
                raise ValueError(
                    f"candidates.{low}={getattr(self, low)} and {high}={getattr(self, high)} let no thought pass: "
                    f"both bounds are open"
                )
        return self
