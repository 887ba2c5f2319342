"""The schema of a row class, and rows through a table and back."""

from dataclasses import dataclass
from enum import IntEnum, StrEnum

import pyarrow as pa
import pytest

from mralign.rows import (
    AnnotatedStep,
    AnnotatedTrajectory,
    Mode,
    Polarity,
    from_table,
    question_of,
    row_id_of,
    schema,
    thinking_mode,
    to_table,
    turn_mode,
    turn_of_mode,
)
from mralign.rows.columns import Float32, Int8, Int32, schema_of

# What the tables looked like before any class was written: committed tables must stay readable. A type is written as
# pyarrow prints it; `float` is 32 bits wide.
IDS = "list<item: int32>"
TEXTS = "list<item: string>"
FLOATS = "list<item: float>"
STEPS = (
    f"list<item: struct<first_segment: int32, last_segment: int32, labels: {TEXTS}, confidences: {FLOATS}, "
    f"rule: string, labels_a: {TEXTS}, confidences_a: {FLOATS}, labels_b: {TEXTS}, confidences_b: {FLOATS}>>"
)
HUMAN_STEPS = (
    f"list<item: struct<first_segment: int32, last_segment: int32, labels_a: {TEXTS}, labels_b: {TEXTS}, "
    f"labels: {TEXTS}, labels_human: {TEXTS}>>"
)
OPEN_STEPS = f"list<item: struct<first_segment: int32, last_segment: int32, labels: {TEXTS}, confidences: {FLOATS}>>"
SNIPPETS = "list<item: struct<id: string, title: string, text: string, score: double>>"
FROZEN = {
    "QUESTIONS": {
        "question_id": "string",
        "dataset": "string",
        "split": "string",
        "question": "string",
        "answers": TEXTS,
        "choices": TEXTS,
        "extra": "string",
    },
    "REQUESTS": {
        "row_id": "string",
        "question_id": "string",
        "dataset": "string",
        "question": "string",
        "answers": TEXTS,
        "choices": TEXTS,
        "mode": "string",
        "draw": "int32",
        "seed": "int64",
    },
    "GENERATIONS": {
        "row_id": "string",
        "question_id": "string",
        "dataset": "string",
        "question": "string",
        "answers": TEXTS,
        "mode": "string",
        "draw": "int32",
        "seed": "int64",
        "prompt_token_ids": IDS,
        "token_ids": IDS,
        "completion_tokens": "int32",
        "text": "string",
        "finish_reason": "string",
        "thought_start": "int32",
        "thought_end": "int32",
        "answer": "string",
        "thought_tokens": "int32",
        "invalid": "string",
    },
    "CANDIDATES": {
        "row_id": "string",
        "question_id": "string",
        "dataset": "string",
        "question": "string",
        "answers": TEXTS,
        "polarity": "int8",
        "prompt_token_ids": IDS,
        "token_ids": IDS,
        "text": "string",
        "thought_start": "int32",
        "thought_end": "int32",
        "segment_start": IDS,
        "segment_end": IDS,
        "em_thought": "bool",
        "em_answer": "bool",
    },
    "ANNOTATIONS": {
        "row_id": "string",
        "question_id": "string",
        "dataset": "string",
        "polarity": "int8",
        "segments": "int32",
        "confidence_a": "float",
        "confidence_b": "float",
        "steps": STEPS,
    },
    "HUMAN_STEPS": {
        "row_id": "string",
        "question_id": "string",
        "dataset": "string",
        "polarity": "int8",
        "steps": HUMAN_STEPS,
    },
    "OPEN_LABELS": {"row_id": "string", "steps": OPEN_STEPS},
    "COUNTS": {"dataset": "string", "polarity": "int8", "source": "int32", "target": "int32", "count": "int64"},
    "REPLICATED_COUNTS": {
        "dataset": "string",
        "polarity": "int8",
        "source": "int32",
        "target": "int32",
        "count": "int64",
        "replicates": "list<item: int64>",
    },
    "MATRICES": {
        "matrix": "string",
        "source": "string",
        "target": "string",
        "probability": "double",
        "responsibility": "double",
        "standard_error": "double",
        "replicates": "list<item: double>",
    },
    "EDGES": {
        "level": "string",
        "polarity": "int8",
        "source": "string",
        "target": "string",
        "count": "double",
        "ratio": "double",
        "ratio_standard_error": "double",
        "weight": "double",
        "weight_standard_error": "double",
        "clipped": "bool",
        "band": "string",
    },
    "WEIGHTS": {"row_id": "string", "polarity": "int8", "step_weights": "list<item: double>"},
    "EXAMPLES": {
        "row_id": "string",
        "question_id": "string",
        "dataset": "string",
        "polarity": "int8",
        "prompt_token_ids": IDS,
        "token_ids": IDS,
        "token_step": IDS,
        "prompt_tokens": "int32",
        "completion_tokens": "int32",
        "prompt_hash": "int64",
        "completion_hash": "int64",
    },
    "EXAMPLE_INDEX": {
        "row_hash": "int64",
        "part": "int32",
        "row": "int32",
        "question": "int64",
        "polarity": "int8",
        "prompt_tokens": "int32",
        "completion_tokens": "int32",
        "prompt_hash": "int64",
        "completion_hash": "int64",
    },
    "EDGE_NOISE": {
        "polarity": "int8",
        "source": "string",
        "target": "string",
        "count": "int64",
        "questions": "int64",
        "log_weight": "double",
        "standard_error": "double",
        "p": "double",
        "told": "bool",
        "contribution": "double",
    },
    "HELD_OUT_SCORES": {
        "row_id": "string",
        "question_id": "string",
        "polarity": "int8",
        "fold": "int32",
        "transitions": "double",
        "transitions_sum": "double",
        "frequencies": "double",
        "segments": "double",
        "tokens": "double",
    },
    "REFERENCE": {"kind": "string", "name": "string", "address": "string", "rows": "int64"},
    "MATCHED_LOGPS": {"logps": FLOATS},
    "PAIR_SUMS": {"step": "int32", "logp_sum": "double"},
    "RESPONSE_INDEX": {"row_id": "string", "part": "string"},
    "EVIDENCE": {"question_id": "string", "dataset": "string", "query": "string", "snippets": SNIPPETS},
    "JUDGEMENTS": {
        "judgement_id": "string",
        "row_id": "string",
        "question_id": "string",
        "dataset": "string",
        "kind": "string",
        "number": "int32",
        "subject": "string",
        "evidence": SNIPPETS,
        "prompt": "string",
        "reply": "string",
        "verdict": "string",
    },
    "REJECTS": {  # its first four columns; dataset, polarity and role came with the classes
        "row_id": "string",
        "reason": "string",
        "detail": "string",
        "raw": "string",
        "dataset": "string",
        "polarity": "int8",
        "role": "string",
    },
}


def test_every_schema_is_in_the_list():
    assert {name for name, value in vars(schema).items() if isinstance(value, pa.Schema)} == set(FROZEN)


@pytest.mark.parametrize("name", FROZEN)
def test_the_generated_schema_is_that_of_committed_tables(name):
    generated = getattr(schema, name)
    assert [(field.name, str(field.type)) for field in generated] == list(FROZEN[name].items())
    assert all(field.nullable for field in generated)


class Colour(StrEnum):
    RED = "red"


class Sign(IntEnum):
    MINUS = -1


@dataclass(frozen=True)
class Leaf:
    weight: Float32
    size: Int8 | None


@dataclass(frozen=True)
class Tree:
    name: str
    colour: Colour
    sign: Sign | None
    height: Int32
    leaves: list[Leaf]
    best: Leaf | None = None
    marks: list[Sign] | None = None


TREES = [
    Tree("oak", Colour.RED, Sign.MINUS, 3, [Leaf(0.5, 1), Leaf(2.0, None)], Leaf(1.0, 7), [Sign.MINUS]),
    Tree("", Colour.RED, None, -1, []),
]


def test_types_follow_from_annotations():
    leaf = pa.struct({"weight": pa.float32(), "size": pa.int8()})
    assert schema_of(Tree) == pa.schema(
        {
            "name": pa.string(),
            "colour": pa.string(),
            "sign": pa.int8(),
            "height": pa.int32(),
            "leaves": pa.list_(leaf),
            "best": leaf,
            "marks": pa.list_(pa.int8()),
        }
    )


def test_rows_pass_through_a_table_and_back():
    table = to_table(TREES, Tree)
    assert table.schema == schema_of(Tree)
    assert table.to_pylist()[0] == {
        "name": "oak",
        "colour": "red",
        "sign": -1,
        "height": 3,
        "leaves": [{"weight": 0.5, "size": 1}, {"weight": 2.0, "size": None}],
        "best": {"weight": 1.0, "size": 7},
        "marks": [-1],
    }
    back = from_table(table, Tree)
    assert back == TREES
    assert isinstance(back[0].colour, Colour) and isinstance(back[0].sign, Sign) and isinstance(back[0].best, Leaf)
    assert to_table([], Tree).schema == schema_of(Tree) and from_table(to_table([], Tree), Tree) == []


def test_columns_with_a_default_may_be_missing_and_others_may_not():
    table = to_table(TREES, Tree).append_column("more", pa.array([1, 2]))
    assert from_table(table.drop_columns(["best", "marks"]), Tree)[0].best is None
    with pytest.raises(TypeError, match="height"):
        from_table(table.drop_columns(["height"]), Tree)


def test_a_row_without_a_value_that_it_needs_is_refused():
    with pytest.raises(ValueError, match="1 of 1 rows of Tree have no name"):
        to_table([Tree(None, Colour.RED, None, 1, [])], Tree)


def test_what_has_no_arrow_type_is_refused():
    @dataclass(frozen=True)
    class Odd:
        values: dict

    with pytest.raises(TypeError, match="has no Arrow type"):
        schema_of(Odd)


def test_steps_within_a_trajectory_are_rows_too():
    step = AnnotatedStep(0, 1, ["framing"], [8.0], "equal", ["framing"], [8.0], ["framing"], [7.0])
    trajectory = AnnotatedTrajectory("q/on/0", "q", "d", Polarity.NEGATIVE, 2, None, 9.0, [step])
    assert from_table(to_table([trajectory], AnnotatedTrajectory), AnnotatedTrajectory) == [trajectory]


def test_ids_and_modes_are_spelled_in_one_place():
    assert row_id_of("nq/1/a", mode=Mode.OFF, draw=2) == "nq/1/a/off/2"
    assert question_of("nq/1/a/off/2") == "nq/1/a"
    assert turn_mode("revise-1") == "on/revise-1" and turn_of_mode("on/revise-1") == "revise-1"
    assert turn_of_mode("on") == ""
    assert [thinking_mode(mode) for mode in ("off", "on", "on/revise-1")] == [Mode.OFF, Mode.ON, Mode.ON]
    with pytest.raises(ValueError, match="perhaps"):
        thinking_mode("perhaps")
