"""What a reply may look like, what is wrong with it otherwise, and its schemas (method.md §2a, validation)."""

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mralign.annotation.replies import (
    Fault,
    Opinion,
    adjudication_schema,
    annotation_schema,
    read_adjudication,
    read_annotation,
)
from mralign.annotation.step_labels import StepLabels
from mralign.annotation.taxonomy import PAPER, Taxonomy

GOOD = {
    "steps": [
        {"segments": [0, 1], "labels": [{"label": "framing", "confidence": 9}]},
        {
            "segments": [2],
            "labels": [{"label": "retrieval", "confidence": 6.5}, {"label": "chaining", "confidence": 0}],
        },
        {"segments": [3, 4, 5], "labels": []},
    ],
    "confidence": 8,
}
GOOD_OPINION = Opinion(
    (
        StepLabels(0, 1, ("framing",), (9.0,)),
        StepLabels(2, 2, ("retrieval", "chaining"), (6.5, 0.0)),
        StepLabels(3, 5, (), ()),
    ),
    8.0,
)
SPANS = [(0, 1), (4, 4)]
RULING = {"dispute_1": [{"label": "analogy", "confidence": 3}], "dispute_2": []}
RULING_STEPS = (StepLabels(0, 1, ("analogy",), (3.0,)), StepLabels(4, 4, (), ()))


def read(text: str, *, segments: int = 6) -> Opinion | Fault:
    return read_annotation(text, segments=segments, taxonomy=PAPER)


def rule(text: str) -> tuple[StepLabels, ...] | Fault:
    return read_adjudication(text, spans=SPANS, taxonomy=PAPER)


def one_step(indices: Any, labels: Any, *, segments: int = 1) -> Opinion | Fault:
    return read(
        json.dumps({"steps": [{"segments": indices, "labels": labels}], "confidence": 5}),
        segments=segments,
    )


def one_label(label: Any, confidence: Any) -> Opinion | Fault:
    return one_step([0], [{"label": label, "confidence": confidence}])


# --- what is accepted --------------------------------------------------------------------------------------------

FRAMES = {
    "alone": "{}",
    "white space": " \n\t{}\r\n ",
    "fence": "```json\n{}\n```",
    "fence without a tag": "```\n{}\n```",
    "fence on one line": "```{}```",
    "fence after prose": "Here it is:\n```json\n{}\n```\nAsk if anything is unclear.",
    "fence that has no end": "```json\n{}",
    "prose before": "Sure! Segment [0] frames the question: {}",
    "prose after": "{}\nI hope that this [1, 2] helps.",
    "byte order mark": "\ufeff{}",
    "NUL": "\x00{}\x00",
    "thought": "<think>\nThe first segment asks.\n</think>\n\n{}",
    "thought with a draft": '<think>{{"steps": []}} no: {{"steps": [{{"segments": [9]</think>{}',
    "empty thought, then a fence": "\n<think>\n\n</think>\n\n```json\n{}\n```",
    "thought, then prose": "<think>Hm.</think>So: {}",
    "thought that the template opened": 'Hm. {{"steps": 1}}</think>\n\n{}',
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
@pytest.mark.parametrize("indent", [None, 2])
def test_one_object_is_read_whatever_stands_around_it(frame: str, indent: int | None) -> None:
    assert read(frame.format(json.dumps(GOOD, indent=indent))) == GOOD_OPINION
    assert rule(frame.format(json.dumps(RULING, indent=indent))) == RULING_STEPS


def test_an_extra_key_and_another_order_of_keys_change_nothing() -> None:
    steps = [{"why": {"x": [1]}, "labels": s["labels"], "segments": s["segments"]} for s in GOOD["steps"]]
    assert read(json.dumps({"note": None, "confidence": 8, "steps": steps})) == GOOD_OPINION
    with_tag = "<think>Hm.</think>" + json.dumps(GOOD | {"note": "</think>"})  # the thought ends at the first
    assert read(with_tag) == GOOD_OPINION
    assert rule(json.dumps({"dispute_3": 7, "dispute_2": [], "dispute_1": RULING["dispute_1"]})) == RULING_STEPS


@pytest.mark.parametrize("confidence", [0, 10, 0.0, 10.0, 7.25, 1e-300])
def test_a_confidence_is_any_number_from_0_to_10(confidence: float) -> None:
    assert one_label("framing", confidence) == Opinion((StepLabels(0, 0, ("framing",), (confidence,)),), 5.0)


# --- what is not, and why ----------------------------------------------------------------------------------------

LABELS_ALLOWED = f"it must be one of {list(PAPER.labels)}"
CONFIDENCE = "it must be a whole number from 0 to 10"
TWICE = [{"label": "framing", "confidence": 5}, {"label": "framing", "confidence": 6}]
TWO = "it must be a list of at most 2 entries"
ALONE = "reply with the JSON object alone"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["holds no JSON object", ALONE]),
        ("I cannot help with that.", ["holds no JSON object", ALONE]),
        ("[1, 2]", ["holds no JSON object"]),
        ("null", ["holds no JSON object"]),
        (json.dumps(GOOD)[:-1], ["not JSON: Expecting ',' delimiter", ALONE]),
        (json.dumps(GOOD)[:40], ["not JSON: ", ALONE]),
        ("{'steps': []}", ["not JSON: Expecting property name enclosed in double quotes"]),
        ('{"steps": [],}', ["not JSON: "]),
        ("{" + json.dumps(GOOD) + "}", ["not JSON: "]),
        ("Let {s} be a step: " + json.dumps(GOOD), ["not JSON: "]),
        (json.dumps(json.dumps(GOOD)), ["not JSON: "]),
        ('{"confidence": 1, "confidence": 1, "steps": []}', ["not JSON: a key occurs twice in one object", ALONE]),
        ('{"steps": [{"segments": [0], "segments": [0]}]}', ["a key occurs twice in one object"]),
        ('{"confidence": ' + "9" * 4301 + "}", ["not JSON: Exceeds the limit", "4301 digits"]),
        (json.dumps(GOOD) * 2, ["more than one JSON object", "reply with one"]),
        (json.dumps(GOOD) + "\nor {?", ["more than one JSON object"]),
        ("<think>" + json.dumps(GOOD), ["the thought has no end", "after </think>"]),
        (" <think>a</think><think>" + json.dumps(GOOD), ["the thought has no end"]),
        ("<think>" + json.dumps(GOOD) + "</think>", ["holds no JSON object"]),
    ],
)
def test_what_is_not_json_says_so(text: str, said: list[str]) -> None:
    fault = read(text)
    assert isinstance(fault, Fault)
    assert fault.reason == "not_json"
    assert [words for words in said if words not in fault.detail] == []
    assert rule(text) == fault


@pytest.mark.parametrize(
    ("reply", "detail"),
    [
        ({}, "the reply is []; it must be an object with the keys ['steps', 'confidence']"),
        ({"steps": []}, "the reply is ['steps']; it must be an object with the keys ['steps', 'confidence']"),
        (
            {"Steps": [], "confidence": 1},
            "the reply is ['Steps', 'confidence']; it must be an object with the keys ['steps', 'confidence']",
        ),
        ({"steps": {"0": 1}, "confidence": 1}, "steps is {'0': 1}; it must be a list of 1 to 6 entries"),
        ({"steps": None, "confidence": 1}, "steps is None; it must be a list of 1 to 6 entries"),
        (
            {"steps": [[0]], "confidence": 1},
            "steps[0] is [0]; it must be an object with the keys ['segments', 'labels']",
        ),
        (
            {"steps": [{"segments": [0]}], "confidence": 1},
            "steps[0] is ['segments']; it must be an object with the keys ['segments', 'labels']",
        ),
        (
            {"steps": [{"segments": 0, "labels": []}], "confidence": 1},
            "steps[0].segments is 0; it must be a list of 1 to 6 entries",
        ),
        (
            {"steps": [{"segments": [0], "labels": "framing"}], "confidence": 1},
            "steps[0].labels is 'framing'; it must be a list of at most 2 entries",
        ),
        (
            {"steps": [{"segments": [0], "labels": ["framing"]}], "confidence": 1},
            "steps[0].labels[0] is 'framing'; it must be an object with the keys ['label', 'confidence']",
        ),
        (
            {"steps": [{"segments": [0], "labels": [{"label": "framing"}]}], "confidence": 1},
            "steps[0].labels[0] is ['label']; it must be an object with the keys ['label', 'confidence']",
        ),
    ],
)
def test_a_wrong_shape_is_named(reply: dict[str, Any], detail: str) -> None:
    assert read(json.dumps(reply)) == Fault("wrong_shape", detail)


WHOLE = "it must be a whole number from 0 to 5"
ORDER = "they must be neighbours in ascending order"
COVER = "steps must be ascending, disjoint and cover every segment from 0 to 5"


@pytest.mark.parametrize(
    ("parts", "detail"),
    [
        ([[]], "steps[0].segments has 0 entries; it must be a list of 1 to 6 entries"),
        ([[0, 1, True]], f"steps[0].segments[2] is True; {WHOLE}"),
        ([[0.0]], f"steps[0].segments[0] is 0.0; {WHOLE}"),
        ([["0"]], f"steps[0].segments[0] is '0'; {WHOLE}"),
        ([[[0]]], f"steps[0].segments[0] is [0]; {WHOLE}"),
        ([[0, 0]], f"steps[0].segments is [0, 0]; {ORDER}"),
        ([[0], [2, 1]], f"steps[1].segments is [2, 1]; {ORDER}"),
        ([[0, 1, 3]], f"steps[0].segments is [0, 1, 3]; {ORDER}"),
        ([[-1, 0, 1, 2, 3]], f"steps[0].segments[0] is -1; {WHOLE}"),
        ([[1, 2, 3, 4, 5]], f"step 0 begins at segment 1, expected 0: {COVER}"),
        ([[0, 1], [1, 2, 3, 4, 5]], f"step 1 begins at segment 1, expected 2: {COVER}"),
        ([[0], [2, 3, 4, 5], [1]], f"step 1 begins at segment 2, expected 1: {COVER}"),
        ([[0, 1, 2, 3, 4, 5, 6]], "steps[0].segments has 7 entries; it must be a list of 1 to 6 entries"),
        ([[0, 1, 2], [3, 4]], "segments 5 to 5 are in no step; every segment must be in exactly one"),
        ([], "steps has 0 entries; it must be a list of 1 to 6 entries"),
        ([[3, 4, 5, 6]], f"steps[0].segments[3] is 6; {WHOLE}"),
        ([[10**30]], f"steps[0].segments[0] is {10**30}; {WHOLE}"),
    ],
)
def test_bad_segments_are_quoted(parts: list[Any], detail: str) -> None:
    steps = [{"segments": part, "labels": []} for part in parts]
    assert read(json.dumps({"steps": steps, "confidence": 1})) == Fault("bad_segments", detail)


@pytest.mark.parametrize(
    ("entries", "detail"),
    [
        ([("guessing", 5)], f"labels[0].label is 'guessing'; {LABELS_ALLOWED}"),
        ([("Framing", 5)], f"labels[0].label is 'Framing'; {LABELS_ALLOWED}"),
        ([("framing ", 5)], f"labels[0].label is 'framing '; {LABELS_ALLOWED}"),
        ([("", 5), ("framing", 5)], f"labels[0].label is ''; {LABELS_ALLOWED}"),
        ([("ﬁ", 5)], f"labels[0].label is 'ﬁ'; {LABELS_ALLOWED}"),
        ([("<start>", 5)], f"labels[0].label is '<start>'; {LABELS_ALLOWED}"),
        ([(5, 5)], f"labels[0].label is 5; {LABELS_ALLOWED}"),
        ([(None, 5), ("framing", 5)], f"labels[0].label is None; {LABELS_ALLOWED}"),
        (
            [("framing", 5), ("framing", 6)],
            f"labels is {TWICE}; allowed are at most two different labels",
        ),
        (
            [("framing", 5), ("chaining", 6), ("analogy", 1)],
            f"labels has 3 entries; {TWO}",
        ),
        ([("framing", -1)], f"labels[0].confidence is -1; {CONFIDENCE}"),
        ([("framing", 10.5)], f"labels[0].confidence is 10.5; {CONFIDENCE}"),
        ([("framing", "9")], f"labels[0].confidence is '9'; {CONFIDENCE}"),
        ([("framing", True)], f"labels[0].confidence is True; {CONFIDENCE}"),
        ([("framing", None)], f"labels[0].confidence is None; {CONFIDENCE}"),
        ([("framing", [9])], f"labels[0].confidence is [9]; {CONFIDENCE}"),
        ([("framing", float("nan"))], f"labels[0].confidence is nan; {CONFIDENCE}"),
        ([("framing", float("inf"))], f"labels[0].confidence is inf; {CONFIDENCE}"),
        ([("framing", float("-inf"))], f"labels[0].confidence is -inf; {CONFIDENCE}"),
    ],
)
def test_bad_labels_are_quoted(entries: list[tuple[Any, Any]], detail: str) -> None:
    labels = [{"label": label, "confidence": confidence} for label, confidence in entries]
    assert one_step([0], labels) == Fault("bad_labels", f"steps[0].{detail}")
    told = detail.replace("labels", "dispute_2", 1)
    assert rule(json.dumps({"dispute_1": [], "dispute_2": labels})) == Fault("bad_labels", told)


@pytest.mark.parametrize("confidence", [False, -0.1, "8", None, float("nan"), {}])
def test_a_bad_final_confidence_is_quoted(confidence: Any) -> None:
    told = Fault("bad_labels", f"confidence is {confidence!r}; {CONFIDENCE}")
    assert read(json.dumps(GOOD | {"confidence": confidence})) == told


def test_the_reason_is_that_of_the_fault_which_is_quoted() -> None:
    steps = [
        {"segments": [1], "labels": []},
        {"segments": [0], "labels": [{"label": "guessing", "confidence": 1}]},
    ]
    fault = read(json.dumps({"steps": steps, "confidence": 1}), segments=2)
    assert fault == Fault("bad_labels", f"steps[1].labels[0].label is 'guessing'; {LABELS_ALLOWED}")


def test_an_adjudication_lacks_a_dispute() -> None:
    told = "the reply is ['dispute_1']; it must be an object with the keys ['dispute_1', 'dispute_2']"
    assert rule('{"dispute_1": []}') == Fault("wrong_shape", told)


@pytest.mark.parametrize(
    ("fault", "allowed"),
    [
        (one_label("x" * 10**6, 5), LABELS_ALLOWED),
        (one_step([0], [{"label": f"x{i}", "confidence": 5} for i in range(3000)]), "it must be"),
        (one_step([0], [{"label": "framing", "confidence": 5}] * 3000), TWO),
        (one_step([0], [{"label": 5, "confidence": 5}] * 3000), "it must be"),
        (one_step([10**4299], []), "it must be a whole number from 0 to 0"),
        (one_step([-(10**4299)], []), "it must be a whole number from 0 to 0"),
        (one_step(list(range(5000)), [], segments=3), "it must be a list of 1 to 3 entries"),
        (one_step(["x" * 10**6], []), "it must be a whole number from 0 to 0"),
        (one_step("x" * 10**6, []), "must be a list"),
        (one_label("framing", "9" * 10**6), CONFIDENCE),
        (one_label("framing", 10**4299), CONFIDENCE),
        (read(json.dumps({f"key {i}": 1 for i in range(10**4)})), "['steps', 'confidence']"),
        (read(json.dumps({"k" * 10**6: 1})), "['steps', 'confidence']"),
    ],
)
def test_a_giant_value_leaves_room_for_what_is_allowed(fault: Opinion | Fault, allowed: str) -> None:
    assert isinstance(fault, Fault)
    assert allowed in fault.detail
    assert len(fault.detail) <= 500


def test_a_detail_can_be_quoted() -> None:
    """A lone surrogate, in JSON an innocent escape, could not be sent back or stored."""
    fault = one_label("a\ud800b", 5)
    assert "\\ud800" in json.dumps("a\ud800b")
    assert fault == Fault("bad_labels", f"steps[0].labels[0].label is 'a\\ud800b'; {LABELS_ALLOWED}")
    assert Fault("not_json", "a\ud800b" + "c" * 600).detail == "a?b" + "c" * 497
    assert fault.detail.encode("utf-8")


# --- deep values, deep stacks, large replies ---------------------------------------------------------------------


TOO_DEEP = "the reply is nested too deeply; it must hold the keys asked for and nothing below them"
PLACES = [
    '{"steps": HERE, "confidence": 1}',
    '{"steps": [], "confidence": HERE}',
    '{"steps": [{"segments": HERE, "labels": []}], "confidence": 1}',
    '{"steps": [{"segments": [0], "labels": HERE}], "confidence": 1}',
    '{"steps": [{"segments": [0], "labels": [{"label": HERE, "confidence": 1}]}], "confidence": 1}',
    '{"steps": [{"segments": [0], "labels": [{"label": "framing", "confidence": HERE}]}], "confidence": 1}',
]


def deep(depth: int) -> Iterator[str]:
    """A value so deep, wherever a value may stand."""
    for value in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        yield from (place.replace("HERE", value) for place in PLACES)


def at_depth(frames: int, call: Callable[[], Any]) -> Any:
    """What the call returns or raises so many frames down, where nothing more can be done with it."""
    if frames:
        return at_depth(frames - 1, call)
    try:
        return call()
    except RecursionError as error:
        return error


def on_full_stacks(call: Callable[[], Any]) -> list[Any]:
    """What the call returns in the last 60 frames of the stack, less the frames where it cannot be entered."""
    left, results = frames_left(), []
    for frames in range(left - 60, left):
        try:
            result = at_depth(frames, call)
        except RecursionError:  # not even `at_depth` fits
            break
        if isinstance(result, RecursionError):
            trace = [frame.f_code.co_name for frame, _ in traceback.walk_tb(result.__traceback__)]
            assert not {"read_annotation", "read_adjudication"} & set(trace), "a RecursionError escaped"
        else:
            results.append(result)
    return results


def frames_left() -> int:
    return sys.getrecursionlimit() - sum(1 for _ in traceback.walk_stack(sys._getframe()))


@pytest.mark.parametrize("depth", [10, 100, 400, 900, 100_000])
def test_a_deep_value_is_a_reason(depth: int) -> None:
    for text in deep(depth):
        assert isinstance(read(text, segments=1), Fault)
        assert isinstance(rule(text.replace("steps", "dispute_1").replace("confidence", "dispute_2")), Fault)


def test_a_value_just_under_the_limit_of_the_parser_is_a_reason() -> None:
    left = frames_left()
    for depth in range(left - 30, left + 3):
        for text in deep(depth):
            assert isinstance(read(text, segments=1), Fault)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (json.dumps(GOOD), GOOD_OPINION),
        ("no object", None),
        ("{", None),
        ('{"steps": 1, "confidence": 1}', None),
        (json.dumps(GOOD).replace("framing", "guessing"), None),
        (json.dumps(GOOD).replace("[2]", "[3]"), None),
        ('{"steps": [[[[[[[[]]]]]]]], "confidence": 1}', None),
    ],
)
def test_a_full_stack_is_a_reason(text: str, right: Opinion | None) -> None:
    read_before = read(text)  # the class of the reply and its schema are made once, when a request is made
    results = on_full_stacks(lambda: read(text))
    assert len(results) > 40
    assert all(isinstance(result, Fault) or result == right for result in results)
    assert Fault("wrong_shape", TOO_DEEP) in results
    assert results[0] == read_before


@pytest.mark.parametrize("text", [json.dumps(RULING), "", "{", json.dumps(RULING).replace("analogy", "guessing")])
def test_an_adjudication_on_a_full_stack_is_a_reason(text: str) -> None:
    read_before = rule(text)
    results = on_full_stacks(lambda: rule(text))
    assert len(results) > 40
    assert all(isinstance(result, Fault) or result == RULING_STEPS for result in results)
    assert Fault("wrong_shape", TOO_DEEP) in results
    assert results[0] == read_before


MEGABYTE = 2**20


@pytest.mark.parametrize(
    "unit",
    [" ", "\n", "<think>", "</think>", "`", "```", "```\n", "```json", "{", "[", '"', "\\", "{}", '{"a":', "9", "\x00"],
)
def test_a_hostile_megabyte_is_read_to_its_end(unit: str) -> None:
    """Patterns that go back over the text would need a day for these."""
    body = unit * (MEGABYTE // len(unit))
    for text in (body, "<think>" + body, "```" + body, '{"' + body, '{"a": "' + body, '{"a": ' + body, body + "{"):
        assert isinstance(read(text), Fault)
        assert isinstance(rule(text + "```"), Fault)


def test_many_steps_are_read() -> None:
    """Were each step looked up in all others, this would take minutes."""
    count = 40_000
    entry = [{"label": "framing", "confidence": 5}]
    steps = [{"segments": [index], "labels": entry} for index in range(count)]
    text = json.dumps({"steps": steps, "confidence": 5})
    opinion = read(text, segments=count)
    assert isinstance(opinion, Opinion)
    assert opinion.steps[-1] == StepLabels(count - 1, count - 1, ("framing",), (5.0,))
    told = f"segments {count} to {count} are in no step; every segment must be in exactly one"
    assert read(text, segments=count + 1) == Fault("bad_segments", told)
    whole = one_step(list(range(count)), entry, segments=count)
    assert whole == Opinion((StepLabels(0, count - 1, ("framing",), (5.0,)),), 5.0)


# --- schema against reader ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    reply: dict[str, Any]
    segments: int
    taxonomy: Taxonomy


def taxonomy_of(count: int) -> Taxonomy:
    labels = tuple(f"label {(index * 37) % 101}" for index in range(count))  # not in the order of the alphabet
    return Taxonomy(labels=labels, macro=dict.fromkeys(labels, "all"))


def entries(taxonomy: Taxonomy) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Labels of a step, as the schema has them: also one label twice."""
    entry = st.fixed_dictionaries({"label": st.sampled_from(taxonomy.labels), "confidence": st.integers(0, 10)})
    return st.lists(entry, max_size=2)


@st.composite
def replies(draw: st.DrawFn) -> Case:
    """Replies whose segments are a partition."""
    taxonomy, segments = taxonomy_of(draw(st.integers(1, 64))), draw(st.integers(1, 12))
    cuts = sorted(draw(st.sets(st.integers(1, segments - 1)))) if segments > 1 else []
    steps = [
        {"segments": list(range(first, end)), "labels": draw(entries(taxonomy))}
        for first, end in zip([0, *cuts], [*cuts, segments], strict=True)
    ]
    return Case({"steps": steps, "confidence": draw(st.integers(0, 10))}, segments, taxonomy)


def twice(labels: list[dict[str, Any]]) -> bool:
    return len(labels) == 2 and labels[0]["label"] == labels[1]["label"]


@settings(deadline=None, max_examples=150)
@given(case=replies())
def test_what_the_schema_lets_through_is_read(case: Case) -> None:
    schema = annotation_schema(segments=case.segments, taxonomy=case.taxonomy)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(case.reply, schema)
    result = read_annotation(json.dumps(case.reply), segments=case.segments, taxonomy=case.taxonomy)
    if any(twice(step["labels"]) for step in case.reply["steps"]):
        assert isinstance(result, Fault)
        assert result.reason == "bad_labels"
        return
    assert isinstance(result, Opinion)
    assert result.confidence == case.reply["confidence"]
    assert [
        {
            "segments": list(range(step.first_segment, step.last_segment + 1)),
            "labels": [
                {"label": label, "confidence": confidence}
                for label, confidence in zip(step.labels, step.confidences, strict=True)
            ],
        }
        for step in result.steps
    ] == case.reply["steps"]


@settings(deadline=None, max_examples=60)
@given(data=st.data(), labels=st.integers(1, 64), disputes=st.integers(0, 12))
def test_what_the_adjudication_schema_lets_through_is_read(data: st.DataObject, labels: int, disputes: int) -> None:
    taxonomy = taxonomy_of(labels)
    reply = {f"dispute_{number}": data.draw(entries(taxonomy)) for number in range(1, disputes + 1)}
    schema = adjudication_schema(disputes=disputes, taxonomy=taxonomy)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(reply, schema)
    spans = [(3 * index, 3 * index + 1) for index in range(disputes)]
    result = read_adjudication(json.dumps(reply), spans=spans, taxonomy=taxonomy)
    if any(twice(verdict) for verdict in reply.values()):
        assert isinstance(result, Fault)
        assert result.reason == "bad_labels"
        return
    assert result == tuple(
        StepLabels(first, last, tuple(e["label"] for e in verdict), tuple(e["confidence"] for e in verdict))
        for (first, last), verdict in zip(spans, reply.values(), strict=True)
    )


def changed(**change: Any) -> dict[str, Any]:
    """A right reply on six segments, but for one step's field, a label's, or the reply's own."""
    reply = json.loads(json.dumps(GOOD | {"steps": [s for s in GOOD["steps"] if s["segments"] != [2]]}))
    for name, value in change.items():
        place = reply["steps"][0]["labels"][0] if name in ("label", "sure") else reply["steps"][0]
        place = reply if name in ("steps", "confidence", "more") else place
        place["confidence" if name == "sure" else name] = value
    return reply


@pytest.mark.parametrize(
    ("change", "obeys"),
    [
        ({}, True),
        ({"segments": [0]}, True),
        ({"segments": [5]}, True),
        ({"segments": [6]}, False),
        ({"segments": [-1]}, False),
        ({"segments": []}, False),
        ({"segments": [0] * 7}, False),
        ({"segments": ["0"]}, False),
        ({"segments": [True]}, False),
        ({"segments": [0.5]}, False),
        ({"label": "guessing"}, False),
        ({"label": "Framing"}, False),
        ({"label": None}, False),
        ({"labels": []}, True),
        ({"labels": [{"label": "framing", "confidence": 1}] * 2}, True),  # no schema of a grammar can forbid this
        ({"labels": [{"label": "framing", "confidence": 1}] * 3}, False),
        ({"labels": [{"label": "framing"}]}, False),
        ({"labels": None}, False),
        ({"sure": 0}, True),
        ({"sure": 10}, True),
        ({"sure": 11}, False),
        ({"sure": -1}, False),
        ({"sure": 7.5}, False),
        ({"sure": "7"}, False),
        ({"confidence": 0}, True),
        ({"confidence": 10}, True),
        ({"confidence": 11}, False),
        ({"confidence": -1}, False),
        ({"confidence": None}, False),
        ({"steps": []}, False),
        ({"steps": [{"segments": [0], "labels": []}] * 6}, True),
        ({"steps": [{"segments": [0], "labels": []}] * 7}, False),
        ({"more": 1}, False),
        ({"why": "so"}, False),
    ],
)
def test_the_bounds_of_the_schema(change: dict[str, Any], obeys: bool) -> None:
    schema = annotation_schema(segments=6, taxonomy=PAPER)
    assert jsonschema.Draft202012Validator(schema).is_valid(changed(**change)) == obeys


@pytest.mark.parametrize(
    ("reply", "obeys"),
    [
        (RULING, True),
        ({"dispute_1": [], "dispute_2": []}, True),
        ({"dispute_1": []}, False),
        (RULING | {"dispute_3": []}, False),
        (RULING | {"dispute_0": []}, False),
        (RULING | {"dispute_2": [{"label": "guessing", "confidence": 1}]}, False),
        (RULING | {"dispute_2": [{"label": "framing", "confidence": 11}]}, False),
        (RULING | {"dispute_2": [{"label": "framing", "confidence": -1}]}, False),
        (RULING | {"dispute_2": [{"label": "framing", "confidence": 1, "more": 1}]}, False),
        (RULING | {"dispute_2": [{"label": "framing", "confidence": 1}] * 3}, False),
        (RULING | {"dispute_2": None}, False),
    ],
)
def test_the_bounds_of_the_adjudication_schema(reply: dict[str, Any], obeys: bool) -> None:
    schema = adjudication_schema(disputes=2, taxonomy=PAPER)
    assert jsonschema.Draft202012Validator(schema).is_valid(reply) == obeys


@pytest.mark.parametrize("count", [1, 14, 144])
def test_the_schemas_become_grammars(count: int) -> None:
    """The engine compiles them with xgrammar; it must hold the last index and the first that is too high apart."""
    xgrammar = pytest.importorskip("xgrammar")
    testing = pytest.importorskip("xgrammar.testing")
    grammar = xgrammar.Grammar.from_json_schema(json.dumps(annotation_schema(segments=count, taxonomy=PAPER)))

    def accepted(index: int, label: str, confidence: float) -> bool:
        step = {"segments": [index], "labels": [{"label": label, "confidence": confidence}]}
        return testing._is_grammar_accept_string(grammar, json.dumps({"steps": [step], "confidence": 5}))

    assert accepted(0, "framing", 0) and accepted(count - 1, "summarization", 10)
    assert not accepted(count, "framing", 0) and not accepted(-1, "framing", 0)
    assert not accepted(0, "guessing", 0) and not accepted(0, "framing", 11) and not accepted(0, "framing", 0.5)
    grammar = xgrammar.Grammar.from_json_schema(json.dumps(adjudication_schema(disputes=count, taxonomy=PAPER)))
    ruling = {f"dispute_{number}": [{"label": "framing", "confidence": 10}] * 2 for number in range(1, count + 1)}
    assert testing._is_grammar_accept_string(grammar, json.dumps(ruling))
    ruling[f"dispute_{count}"] *= 2
    assert not testing._is_grammar_accept_string(grammar, json.dumps(ruling))
