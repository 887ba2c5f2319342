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
        description="When an answer is right. exact: it equals a gold answer in normal form. contains: a gold answer "
        "occurs in it. paper: exact with thinking, contains without."
    ),
]


class Source(Section):
    """One data set of questions: its format, how its file is laid out, and the names of its fields.

    What is left at its default does not show in fingerprints.
    """

    name: str = Field(
        description="Name of the data set: ids begin with it, tables show it, and evaluation goes by it. Unique "
        "within a split."
    )
    path: Content[str] = Field(
        description="Where it lies: a local path, a pyarrow or fsspec URL, or hub://OWNER/NAME?split=...&config=..."
    )
    format: str = Field(
        "auto",
        description="auto or plain: records, read by `fields`. nq_open, sciq, triviaqa and the like: a published "
        "data set, as its authors publish it or as rows of the hub.",
    )
    fields: dict[str, str | tuple[str, ...]] = Field(
        default_factory=dict,
        description="Maps our names (id, question, answers, choices) to the file's; answers is `answer` where it is "
        "left out. A name may lead into an object (answer.aliases) or a list (output[].answer, output[0].answer), "
        "and * stands for any characters (answer_*). Of several names, the first that is there gives the id or the "
        "question; all that are there give answers or choices.",
    )
    file: Literal["auto", "jsonl", "json", "csv", "tsv", "parquet"] = Field(
        "auto",
        description="Kind of the file; auto goes by its suffix, which .gz, .bz2, .xz or .zst may follow.",
        exclude_if=lambda file: file == "auto",
    )
    records: str = Field(
        "",
        description="Where the list of records lies in a JSON file that is one object, e.g. Data, or "
        "data[].paragraphs[].qas.",
        exclude_if=lambda records: records == "",
    )
    columns: tuple[str, ...] = Field(
        (), description="Names of the columns of a CSV file without a header.", exclude_if=lambda columns: not columns
    )
    delimiter: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="Character between the cells of a CSV file; null: a comma, and a tab in .tsv.",
        exclude_if=lambda delimiter: delimiter is None,
    )
    quotes: bool = Field(
        True,
        description='Whether a cell of a CSV file may stand in double quotes; false takes " as any other character.',
        exclude_if=lambda quotes: quotes,
    )
    skip_lines: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        0,
        description="Lines before the header or the first record that are left out; auto (CSV only): all up to the "
        "row that names the question's column.",
        exclude_if=lambda lines: lines == 0,
    )
    encoding: str = Field(
        "utf-8",
        description="Encoding of a text file by Python's names, e.g. gb18030; a file that begins with a byte order "
        "mark needs none.",
        exclude_if=lambda encoding: encoding == "utf-8",
    )
    lists: bool = Field(
        True,
        description="Read a list that is written as a text (['a', 'b']) as a list of answers; false keeps the text.",
        exclude_if=lambda lists: lists,
    )
    answer_is: Literal["auto", "letter", "text", "index", "number"] = Field(
        "auto",
        description="How the answer names one of `choices`: its letter, its text, its index from 0, its number from "
        "1. auto finds out, and puts a question aside where two of these name different choices.",
        exclude_if=lambda answer_is: answer_is == "auto",
    )
    shuffle_choices: bool = Field(
        False,
        description="Put the choices into an order that follows from the question's id. Where the answer's own field "
        "is one of the choices, its place would give it away, and they are always shuffled.",
        exclude_if=lambda shuffle: not shuffle,
    )
    skip: int = Field(
        0,
        ge=0,
        description="Number of records to leave out at the beginning, before `limit` counts: so one file can be "
        "given as two data sets.",
        exclude_if=lambda skip: skip == 0,  # what is not skipped changes no fingerprint
    )
    limit: int | None = Field(
        None, ge=1, description="Number of records to read, after `skip`; null: all. Set it for a quick first try."
    )
    sample: int | None = Field(
        None,
        ge=1,
        description="Number of records to keep of those, drawn from all over the source by a hash of their numbers: "
        "always the same ones; null: all.",
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

    train: tuple[Source, ...] = Field(
        (), description="Questions to train on. A question that also stands in dev or test is put aside."
    )
    dev: tuple[Source, ...] = Field(
        (), description="Held-out questions for choices of yours; asked where evaluation.split is dev."
    )
    test: tuple[Source, ...] = Field(
        (), description="Held-out questions for the final figures; asked where evaluation.split is test."
    )

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

    id: str | tuple[str, ...] = Field(
        "id", description="Field of the question's id; of several names, the first that is there."
    )
    question: str | tuple[str, ...] = Field(
        "question", description="Field of the question; of several names, the first that is there."
    )
    answers: str | tuple[str, ...] = Field(
        "answer", description="Field of the gold answers; of several names, all that are there."
    )
    thought: str | None = Field(
        None,
        description="Field of the thought, with or without tags; null (or an empty field in a row): `response` holds "
        "the thought as well.",
    )
    response: str = Field("response", description="Field of the text that the model wrote.")
    draw: str | None = Field(
        None, description="Field of the draw's number, from 0; null: the rows of one id are its draws, in their order."
    )
    finish_reason: str | None = Field(
        "finish_reason",
        description="Field that says why the text ended. Only stop, eos, end_turn and the like count as a whole "
        "answer; a row without the field is taken as whole, and null takes all rows as whole.",
    )
    tags: tuple[str, str] | None = Field(
        None,
        description="Tags of the thought in this file, e.g. ['[THINK]', '[/THINK]'], where they are not the model's.",
        exclude_if=lambda tags: tags is None,
    )


class Rollouts(Section):
    """N draws in each mode, sampled here or imported."""

    n: int = Field(
        3,
        ge=1,
        description="Draws of every question in each mode. More draws keep fewer questions, since all of them must "
        "agree.",
    )
    engine: Literal["vllm", "http"] = Field(
        "vllm", description="Who samples: engines that the run starts (vllm), or the endpoint of the section http."
    )
    decoding: Decoding = Field(Decoding(), description="How tokens are sampled; the paper's values are the default.")
    prompt: str = Field(
        "{question}",
        description="The user's message. `{question}` stands for the question, `{choices}` for its choices, one a "
        "line; without `{choices}` they follow the question.",
    )
    import_on: Content[str | None] = Field(
        None,
        description="File of rollouts with thinking that were made elsewhere, in any form that questions come in; "
        "they take the place of sampling. Goes with import_off.",
    )
    import_off: Content[str | None] = Field(
        None, description="The same for rollouts without thinking, of the same questions. Goes with import_on."
    )
    import_name: str = Field("imported", description="Name of the data set that imported rollouts belong to.")
    import_fields: ImportFields = Field(ImportFields(), description="Names of the fields in the imported files.")

    @model_validator(mode="after")
    def _both_or_none(self) -> Rollouts:
        if (self.import_on is None) != (self.import_off is None):
            raise ValueError("rollouts.import_on and rollouts.import_off go together: give both or neither")
        return self


class Candidates(Section):
    """Verdict and length filter; all four bounds are open (method.md §1)."""

    match: Match = "exact"
    min_segments: int = Field(
        4, description="A thought must have more segments (paragraphs between blank lines) than this."
    )
    max_segments: int = Field(15, description="A thought must have fewer segments than this.")
    min_thought_tokens: int = Field(
        450, description="A thought must have more tokens than this. Lower it for a model that thinks briefly."
    )
    max_thought_tokens: int = Field(
        1000,
        description="A thought must have fewer tokens than this. Raise it, with examples.max_length, for a model "
        "that thinks at length.",
    )
    keep_all_draws: bool = Field(
        False,
        description="Train on the thoughts of all draws of a kept question; false: of draw 0 only, as in the paper.",
    )
    keep_neutral: bool = Field(
        False,
        description="Also annotate questions on which thinking decided nothing, so that P is estimated from all "
        "rollouts. They are not trained on.",
    )

    @model_validator(mode="after")
    def _not_empty(self) -> Candidates:
        for low, high in (("min_segments", "max_segments"), ("min_thought_tokens", "max_thought_tokens")):
            if getattr(self, high) - getattr(self, low) < 2:
                raise ValueError(
                    f"candidates.{low}={getattr(self, low)} and {high}={getattr(self, high)} let no thought pass: "
                    f"both bounds are open"
                )
        return self
