"""From questions to candidates: sources, rollouts made here or elsewhere, verdict and length filter."""

from __future__ import annotations

import codecs
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mralign.config.models import Decoding
from mralign.config.named_formats import FORMATS
from mralign.config.section import Content, Section

MatchMode = Literal["exact", "contains", "paper"]
Match = Annotated[
    MatchMode,
    Field(
        description="When an answer is right. exact: it equals a gold one. contains: it holds one. paper: exact with "
        "thinking on, contains with thinking off."
    ),
]


class Source(Section):
    """One data set of questions: its format, how its file is laid out, and the names of its fields.

    What is left at its default does not show in fingerprints.
    """

    name: str
    path: Content[str] = Field(
        description="Local path, pyarrow or fsspec URL, or hub://OWNER/NAME?split=...&config=..."
    )
    format: str = Field(
        "auto",
        description="auto or plain: records with the field map. A name of mralign/config/named_formats.py: a published "
        "data set, as it was published or as rows of the hub.",
    )
    fields: dict[str, str | tuple[str, ...]] = Field(
        default_factory=dict,
        description="Our names -> the file's; ours are id, question, answers (left out: `answer`) and choices. A name "
        "may lead into an object (answer.aliases) or a list (output[].answer, output[0].answer), and * stands for any "
        "characters (answer_*). Of several names, the first that is there is the id or the question, and all that are "
        "there hold answers or choices.",
    )
    file: Literal["auto", "jsonl", "json", "csv", "tsv", "parquet"] = Field(
        "auto",
        description="What the file is; auto goes by its suffix, behind which .gz, .bz2, .xz or .zst may stand.",
        exclude_if=lambda file: file == "auto",
    )
    records: str = Field(
        "",
        description="JSON that is one object: where its list of records lies, e.g. Data, or data[].paragraphs[].qas.",
        exclude_if=lambda records: records == "",
    )
    columns: tuple[str, ...] = Field(
        (), description="CSV without a header: the names of its columns.", exclude_if=lambda columns: not columns
    )
    delimiter: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="What separates the cells of a CSV file; null: a comma, and a tab in .tsv.",
        exclude_if=lambda delimiter: delimiter is None,
    )
    quotes: bool = Field(
        True,
        description='CSV: a cell may stand in double quotes; false takes " as any other character.',
        exclude_if=lambda quotes: quotes,
    )
    skip_lines: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        0,
        description="Lines that stand before the header or the first record; auto (CSV): up to the row that names the "
        "question's column.",
        exclude_if=lambda lines: lines == 0,
    )
    encoding: str = Field(
        "utf-8",
        description="Of a text file, by Python's names; one that begins with a byte order mark needs none.",
        exclude_if=lambda encoding: encoding == "utf-8",
    )
    lists: bool = Field(
        True,
        description="Read a list that is written into a text (['a', 'b']) as a list of answers; false keeps the text.",
        exclude_if=lambda lists: lists,
    )
    answer_is: Literal["auto", "letter", "text", "index", "number"] = Field(
        "auto",
        description="How the answer names one of `choices`: its letter, its text, its index from 0, its number from 1. "
        "auto finds out, and puts a question aside where two of these name different choices.",
        exclude_if=lambda answer_is: answer_is == "auto",
    )
    shuffle_choices: bool = Field(
        False,
        description="Bring the choices into an order that follows from the question's id. Where the answer's own field "
        "is one of the choices, its place would give it away, and they are shuffled in any case.",
        exclude_if=lambda shuffle: not shuffle,
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

    @model_validator(mode="after")
    def _known(self) -> Source:
        if self.format not in FORMATS:
            raise ValueError(
                f"format {self.format!r} is not known; allowed are {', '.join(FORMATS)}; choose one of them"
            )
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            raise ValueError(
                f"encoding {self.encoding!r} is not known; give a name of Python's codecs, e.g. utf-8, gb18030, cp1252"
            ) from None
        return self


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
    """Names of the fields in a file of rollouts made elsewhere, written as those of a source of questions:
    `message.content`, `choices[0].message.content`, `content[].text` where the list holds one text."""

    id: str | tuple[str, ...] = Field("id", description="Of several names, the first that is there.")
    question: str | tuple[str, ...] = Field("question", description="Of several names, the first that is there.")
    answers: str | tuple[str, ...] = Field("answer", description="Of several names, all that are there hold answers.")
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
    order: Literal["auto", "all", "needed"] = Field(
        "auto",
        description="needed: a question is drawn only for as long as it can still become a candidate, which leaves the "
        "same candidates; all: every draw of every question; auto: needed, or all with candidates.keep_neutral.",
    )
    engine: Literal["vllm", "http"] = Field("vllm", description="http: the endpoint of the section `http` instead.")
    decoding: Decoding = Decoding()
    prompt: str = Field(
        "{question}",
        description="The user's message; `{question}` stands for the question, `{choices}` for its choices, a line "
        "each; without that place they follow the question.",
    )
    import_on: Content[str | None] = Field(
        None, description="Think-on rollouts to use in place of sampling: a file in any form that questions come in."
    )
    import_off: Content[str | None] = None
    import_name: str = "imported"
    import_fields: ImportFields = ImportFields()

    @model_validator(mode="after")
    def _both_or_none(self) -> Rollouts:
        if (self.import_on is None) != (self.import_off is None):
            raise ValueError("rollouts.import_on and rollouts.import_off go together: give both or neither")
        return self


class Candidates(Section):
    """Verdict and length filter; all four bounds are open (method.md §1)."""

    match: Match = "exact"
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
