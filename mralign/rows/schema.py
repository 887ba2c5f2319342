"""The Arrow schema of every table that crosses a door between rooms.

A row's `row_id` is `question_id/mode/draw` from the first rollout to the last weight, so that any number in the
report can be followed back to its trajectory. Tables are cast to these schemas before they are committed: a room
that emits another column or type fails at its own door.
"""

from __future__ import annotations

import pyarrow as pa

_ids = pa.list_(pa.int32())

QUESTIONS = pa.schema(
    {
        "question_id": pa.string(),
        "dataset": pa.string(),
        "split": pa.string(),  # train | dev | test
        "question": pa.string(),
        "answers": pa.list_(pa.string()),  # gold aliases
        "choices": pa.list_(pa.string()),  # of a multiple-choice question, lettered from A in this order; else null
        "extra": pa.string(),  # JSON of the source's other fields
    }
)

GENERATIONS = pa.schema(
    {
        "row_id": pa.string(),  # question_id/mode/draw
        "question_id": pa.string(),
        "dataset": pa.string(),
        "question": pa.string(),
        "answers": pa.list_(pa.string()),
        "mode": pa.string(),  # on | off
        "draw": pa.int32(),
        "seed": pa.int64(),
        "prompt_token_ids": _ids,
        "token_ids": _ids,  # the completion as the engine sampled it, end token included
        "completion_tokens": pa.int32(),  # how many those are
        "text": pa.string(),  # the completion, special tokens removed
        "finish_reason": pa.string(),  # the engine's own word: stop | length | ... (chat/endings.py)
        "thought_start": pa.int32(),  # characters of `text`; -1 where there is no thought
        "thought_end": pa.int32(),
        "answer": pa.string(),  # null where the text could not be split
        "thought_tokens": pa.int32(),
        "invalid": pa.string(),  # reason why this draw cannot be judged; null when it can
    }
)

CANDIDATES = pa.schema(
    {
        "row_id": pa.string(),
        "question_id": pa.string(),
        "dataset": pa.string(),
        "question": pa.string(),
        "answers": pa.list_(pa.string()),
        "polarity": pa.int8(),  # +1 thinking helped, -1 thinking hurt, 0 neither (counted in P only)
        "prompt_token_ids": _ids,
        "token_ids": _ids,
        "text": pa.string(),
        "thought_start": pa.int32(),
        "thought_end": pa.int32(),
        "segment_start": _ids,  # characters of `text`, one a segment of the thought
        "segment_end": _ids,
        "em_thought": pa.bool_(),
        "em_answer": pa.bool_(),
    }
)

STEP = pa.struct(
    {
        "first_segment": pa.int32(),
        "last_segment": pa.int32(),  # inclusive
        "labels": pa.list_(pa.string()),  # 0 to 2, highest confidence first; empty: left unlabelled
        "confidences": pa.list_(pa.float32()),  # 0..10, one a label
        "rule": pa.string(),  # equal | intersection | confident | adjudicated | unlabelled
        "labels_a": pa.list_(pa.string()),  # what the first annotator said of the step that this one lies in ...
        "confidences_a": pa.list_(pa.float32()),
        "labels_b": pa.list_(pa.string()),  # ... and the second; an adjudicated step's labels are the adjudicator's
        "confidences_b": pa.list_(pa.float32()),
    }
)

ANNOTATIONS = pa.schema(
    {
        "row_id": pa.string(),
        "question_id": pa.string(),
        "dataset": pa.string(),
        "polarity": pa.int8(),
        "segments": pa.int32(),  # base segments of the thought
        "confidence_a": pa.float32(),  # 0..10, of the first annotator in the whole; null where it gives none
        "confidence_b": pa.float32(),
        "steps": pa.list_(STEP),
    }
)

COUNTS = pa.schema(
    {
        "dataset": pa.string(),
        "polarity": pa.int8(),
        "source": pa.int32(),  # state set, encoded a*K + b with a <= b (a = b: a single state)
        "target": pa.int32(),
        "count": pa.int64(),
    }
)

# COUNTS, and the same counts where trajectory i counts Poisson(1) times, once a replicate; empty without a bootstrap.
REPLICATED_COUNTS = COUNTS.append(pa.field("replicates", pa.list_(pa.int64())))

MATRICES = pa.schema(
    {
        "matrix": pa.string(),  # all | positive | negative
        "source": pa.string(),
        "target": pa.string(),
        "probability": pa.float64(),
        "responsibility": pa.float64(),  # expected count C_ab of the last E-step: the support of the entry
        "standard_error": pa.float64(),  # of the probability, over bootstrap replicates; null without a bootstrap
        "replicates": pa.list_(pa.float64()),  # the probability in each replicate; empty without a bootstrap
    }
)

EDGES = pa.schema(
    {
        "level": pa.string(),  # sets: a transition between label sets, as steps are weighed | states: a single edge
        "polarity": pa.int8(),
        "source": pa.string(),  # a state; on level sets, one or two joined by +
        "target": pa.string(),
        "count": pa.float64(),  # how often it occurs in that polarity; on level states the expected count C_ab
        "ratio": pa.float64(),  # before clipping
        "ratio_standard_error": pa.float64(),  # null without a bootstrap, or where a replicate has no ratio
        "weight": pa.float64(),  # the ratio after clipping
        "weight_standard_error": pa.float64(),
        "clipped": pa.bool_(),
        "band": pa.string(),  # high | low: in the 15 % with the highest, lowest ratio of its level and polarity | none
    }
)

WEIGHTS = pa.schema(
    {
        "row_id": pa.string(),
        "polarity": pa.int8(),
        "step_weights": pa.list_(pa.float64()),  # one a labelled or unlabelled step, in order
    }
)

EXAMPLES = pa.schema(
    {
        "row_id": pa.string(),
        "question_id": pa.string(),
        "dataset": pa.string(),
        "polarity": pa.int8(),
        "prompt_token_ids": _ids,
        "token_ids": _ids,
        "token_step": _ids,  # per completion token: index of its step, -1 for the answer
        "prompt_tokens": pa.int32(),  # lengths and contents as scalars: a plan is made without reading any tokens
        "completion_tokens": pa.int32(),
        "prompt_hash": pa.int64(),
        "completion_hash": pa.int64(),
    }
)

# Every example once, without its tokens, in an order that does not depend on how the examples are cut into parts.
EXAMPLE_INDEX = pa.schema(
    {
        "row_hash": pa.int64(),  # of row_id; the order of this table
        "part": pa.int32(),  # which of the sorted parts of the examples ...
        "row": pa.int32(),  # ... and which row of it
        "question": pa.int64(),  # hash of question_id
        "polarity": pa.int8(),
        "prompt_tokens": pa.int32(),
        "completion_tokens": pa.int32(),
        "prompt_hash": pa.int64(),
        "completion_hash": pa.int64(),
    }
)

# Where the reference of a block lies on the shelf `<run.dir>/reference_by_content`.
REFERENCE = pa.schema(
    {
        "kind": pa.string(),  # matched: a part of the examples | pairs: the mismatched pairs of some steps
        "name": pa.string(),  # of that part, or `<epoch>-<first step of the epoch>`
        "address": pa.string(),  # name of the part on the shelf
        "rows": pa.int64(),
    }
)

MATCHED_LOGPS = pa.schema({"logps": pa.list_(pa.float32())})  # log pi_ref of each completion token, a row an example

PAIR_SUMS = pa.schema(
    {
        "step": pa.int32(),  # within the block
        "logp_sum": pa.float64(),  # log pi_ref(y_j | x_i), unweighted; pairs of a step in the order of its batch
    }
)

# Where a response lies: the path of its part below the run directory.
RESPONSE_INDEX = pa.schema({"row_id": pa.string(), "part": pa.string()})

SNIPPET = pa.struct({"id": pa.string(), "title": pa.string(), "text": pa.string(), "score": pa.float64()})

# What was found for a question (METHOD.md section 6, +Ret), best first.
EVIDENCE = pa.schema(
    {
        "question_id": pa.string(),
        "dataset": pa.string(),
        "query": pa.string(),
        "snippets": pa.list_(SNIPPET),
    }
)

# One question to a judge about one response, and what came of it: a row of a table can be followed to every word.
JUDGEMENTS = pa.schema(
    {
        "judgement_id": pa.string(),  # row_id/kind/number
        "row_id": pa.string(),  # of the response
        "question_id": pa.string(),
        "dataset": pa.string(),
        "kind": pa.string(),  # of a step of its benchmark, e.g. truthful, claims, support
        "number": pa.int32(),  # of what is judged (a passage, a claim) among those of the response
        "subject": pa.string(),  # the answer, passage or claim that is judged
        "evidence": pa.list_(SNIPPET),  # what it was checked against
        "prompt": pa.string(),  # JSON: the messages of the request that was answered
        "reply": pa.string(),  # as it came
        "verdict": pa.string(),  # JSON, e.g. {truthful, informative}, {claims: [...]}, {supported}
    }
)

REJECTS = pa.schema(
    {
        "row_id": pa.string(),
        "reason": pa.string(),
        "detail": pa.string(),
        "raw": pa.string(),
    }
)


def cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return `table` with exactly the columns and types of `schema`, in its order.

    Raises ValueError naming the missing and the unexpected columns.
    """
    missing = [name for name in schema.names if name not in table.column_names]
    unexpected = [name for name in table.column_names if name not in schema.names]
    if missing or unexpected:
        raise ValueError(
            f"table does not fit its schema: missing columns {missing}, unexpected columns {unexpected}; "
            f"allowed are {schema.names}"
        )
    return table.select(schema.names).cast(schema)


ANNOTATOR_FIELDS = {"first": "labels_a", "second": "labels_b", "final": "labels"}  # who says it -> field of a step
HUMAN_FIELDS = {**ANNOTATOR_FIELDS, "human": "labels_human"}

_HUMAN_STEP = pa.struct(
    {"first_segment": pa.int32(), "last_segment": pa.int32()}
    | {field: pa.list_(pa.string()) for field in HUMAN_FIELDS.values()}
)

# Trajectories that a human has labelled, cut wherever the human's steps or the final steps have a boundary.
HUMAN_STEPS = pa.schema(
    {
        "row_id": pa.string(),
        "question_id": pa.string(),
        "dataset": pa.string(),
        "polarity": pa.int8(),
        "steps": pa.list_(_HUMAN_STEP),
    }
)

_OPEN_STEP = pa.struct(
    {
        "first_segment": pa.int32(),
        "last_segment": pa.int32(),  # inclusive
        "labels": pa.list_(pa.string()),  # 1 or 2 freely found names in snake_case, highest confidence first
        "confidences": pa.list_(pa.float32()),  # 0..10, one a name
    }
)

# Trajectories whose strategies an annotator has named freely (METHOD.md section 2b).
OPEN_LABELS = pa.schema({"row_id": pa.string(), "steps": pa.list_(_OPEN_STEP)})
