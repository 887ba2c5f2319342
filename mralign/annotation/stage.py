"""Stage `annotation`: two annotators and an adjudicator label every candidate's thought.

Candidates enter; one row of schema ANNOTATIONS a candidate leaves, with `taxonomy.json` (the states of the chain, in
order) beside the parts. Each upstream part is annotated by one remote task; the engines and the consensus are pure
functions of its texts.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from functools import partial
from typing import Any

import pyarrow as pa

from mralign.annotation.consensus import FinalStep, consensus, validate
from mralign.annotation.taxonomy import PAPER, Taxonomy, load_taxonomy
from mralign.config import Annotation, RunConfig, resolve_path
from mralign.engines.cues import RuleBook, adjudicate, annotate, load_rule_book
from mralign.rejects import Reject
from mralign.schema import ANNOTATIONS, CANDIDATES
from mralign.stage import Context, Outcome, Stage, map_parts
from mralign.store import Directory


def taxonomy_of(settings: Annotation) -> Taxonomy:
    """The taxonomy of this run: the paper's, or the user's file."""
    return load_taxonomy(resolve_path(settings.taxonomy)) if settings.taxonomy else PAPER


def _annotate_table(table: pa.Table, *, settings: Annotation, taxonomy: Taxonomy) -> tuple[pa.Table, list[Reject]]:
    first, second = (load_rule_book(resolve_path(a.rule_book)) for a in settings.annotators)
    judge = load_rule_book(resolve_path(settings.adjudicator.rule_book))
    rows, rejects = [], []
    for row in table.to_pylist():
        spans = zip(row["segment_start"], row["segment_end"], strict=True)
        segments = [row["text"][start:end] for start, end in spans]
        steps = _label(segments, books=(first, second, judge), settings=settings, taxonomy=taxonomy)
        if isinstance(steps, str):
            rejects.append(Reject(row["row_id"], "invalid_annotation", steps, row["text"]))
        else:
            names = ("row_id", "question_id", "dataset", "polarity")
            rows.append({**{n: row[n] for n in names}, "steps": [asdict(step) for step in steps]})
    return pa.Table.from_pylist(rows, schema=ANNOTATIONS), rejects


def _label(
    segments: list[str], *, books: tuple[RuleBook, RuleBook, RuleBook], settings: Annotation, taxonomy: Taxonomy
) -> list[FinalStep] | str:
    """The final steps, or why an annotator's opinion is invalid."""
    first, second, judge = books
    opinions = [annotate(segments, book=book) for book in (first, second)]
    for annotator, opinion in zip(settings.annotators, opinions, strict=True):
        fault = validate(opinion, segments=len(segments), taxonomy=taxonomy)
        if fault:
            return f"annotator {annotator.name}: {fault}"
    try:
        return consensus(
            *opinions,
            segments=len(segments),
            taxonomy=taxonomy,
            adjudicate=partial(adjudicate, segments=segments, book=judge),
            threshold=settings.threshold,
        )
    except ValueError as error:  # the adjudicator's answer is invalid
        return str(error)


def _run(context: Context) -> Outcome:
    settings = context.config.annotation
    taxonomy = taxonomy_of(settings)
    source = context.upstream["candidates"]
    if not any(source.rows(part) for part in source.parts()):
        raise ValueError(
            "no candidate is left: no question was right in every draw of one mode and wrong in every draw of the "
            "other, or its draws were invalid, or the length filter dropped it. The same command with --until "
            "candidates prints how many went where; see candidates.*, rollouts.prompt and model.family"
        )
    context.out.write_text("taxonomy.json", json.dumps({"states": taxonomy.states, "macro": dict(taxonomy.macro)}))
    map_parts(
        context,
        partial(_annotate_table, settings=settings, taxonomy=taxonomy),
        source=source,
        schema=ANNOTATIONS,
        upstream_schema=CANDIDATES,
    )
    rows_in = source.read(schema=CANDIDATES, columns=["row_id"]).num_rows
    rows = context.out.read(schema=ANNOTATIONS, columns=["steps"]).column("steps").to_pylist()
    return Outcome(rows_in, len(rows), _figures(rows))


def _figures(rows: list[list[dict[str, Any]]]) -> dict[str, Any]:
    steps = [step for row in rows for step in row]
    rules = Counter(step["rule"] for step in steps)
    labels = Counter(label for step in steps for label in step["labels"])
    return {"steps": len(steps), "rules": dict(rules.most_common()), "labels": dict(labels.most_common())}


def _inputs(config: RunConfig) -> dict[str, str]:
    settings = config.annotation
    roles = zip(("first", "second", "adjudicator"), (*settings.annotators, settings.adjudicator), strict=True)
    books = {role: annotator.rule_book for role, annotator in roles}  # by role: two annotators may share a name
    return books | ({"taxonomy": settings.taxonomy} if settings.taxonomy else {})


def _check(config: RunConfig) -> None:
    for path in _inputs(config).values():
        Directory(resolve_path(path)).require("annotation file")
    labels = set(taxonomy_of(config.annotation).labels)
    for annotator in (*config.annotation.annotators, config.annotation.adjudicator):
        unknown = set(load_rule_book(resolve_path(annotator.rule_book)).labels) - labels
        if unknown:
            raise ValueError(
                f"rule book {annotator.rule_book} uses labels {sorted(unknown)} that the taxonomy does not have; "
                f"allowed are {sorted(labels)}"
            )


ANNOTATION_STAGE = Stage(
    name="annotation",
    run=_run,
    matters=lambda config: {"threshold": config.annotation.threshold},
    upstream=("candidates",),
    inputs=_inputs,
    check=_check,
)
