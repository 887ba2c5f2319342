"""Open labels: the request, the strict reader of its reply, the sample."""

import json
import math
import random

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mralign.annotation.instruction import Trajectory
from mralign.annotation.open_labels import INSTRUCTION, open_request, open_schema, read_open, sample_ids, snake_case
from mralign.annotation.step_labels import StepLabels
from mralign.asking.json_reply import Fault

TRAJECTORY = Trajectory("nq/1/on/0", "Who wrote it?", ("Ann", "A. Lee"), ("First, recall.", "It was Ann.", "Check."))
GOOD = {
    "steps": [
        {"segments": [0, 1], "labels": [{"label": "Recall Fact", "confidence": 6}, {"label": "plan", "confidence": 9}]},
        {"segments": [2], "labels": [{"label": "double-check", "confidence": 10}]},
    ]
}
STEPS = (StepLabels(0, 1, ("plan", "recall_fact"), (9.0, 6.0)), StepLabels(2, 2, ("double_check",), (10.0,)))


def changed(**change):
    """GOOD with fields of its first step, or of that step's first label, changed."""
    reply = json.loads(json.dumps(GOOD))
    step = reply["steps"][0]
    (step if set(change) <= {"segments", "labels"} else step["labels"][0]).update(change)
    return reply


def test_the_request_begins_with_what_never_changes_and_shows_question_segments_and_answers_if_wanted():
    request, hidden = (open_request(TRAJECTORY, show_answers=shown) for shown in (True, False))
    system, user = request.messages
    assert (system.role, system.content) == ("system", INSTRUCTION) == (hidden.messages[0].role, INSTRUCTION)
    assert request.key_id == "nq/1/on/0"
    for text in ("Who wrote it?", "[0] First, recall.", "[2] Check."):
        assert text in user.content
    assert "A. Lee" in user.content and "A. Lee" not in hidden.messages[1].content


def test_the_schema_takes_the_example_of_the_instruction_and_no_third_name():
    example = json.loads(INSTRUCTION[INSTRUCTION.index('{"steps"') :])
    jsonschema.validate(example, open_schema(segments=3))
    assert not isinstance(read_open(json.dumps(example), segments=3), Fault)
    jsonschema.validate(GOOD, open_schema(segments=3))
    for bad in (changed(labels=[]), changed(labels=GOOD["steps"][0]["labels"] * 2), changed(segments=[3])):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, open_schema(segments=3))


@pytest.mark.parametrize("wrap", ["{}", "```json\n{}\n```", "Here it is:\n{}\nDone.", "<think>hm {{</think>{}"])
def test_a_good_reply_is_read_alone_fenced_after_a_thought_or_in_prose(wrap):
    assert read_open(wrap.replace("{{", "{").replace("{}", json.dumps(GOOD)), segments=3) == STEPS


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "not_json"),
        ("I see recall and checking.", "not_json"),
        (json.dumps(GOOD)[:-9], "not_json"),
        (json.dumps(GOOD) * 2, "not_json"),
        ("[" * 100_000, "not_json"),
        ('{"steps": ' + "[" * 100_000, "wrong_shape"),
        (f'{{"steps": {"[" * 900}{"]" * 900}}}', "wrong_shape"),
        (f"<think>{json.dumps(GOOD)}", "not_json"),
        ('{"steps": ' + "9" * 5000 + "}", "not_json"),
        ("{}", "wrong_shape"),
        ('{"steps": {"segments": [0]}}', "wrong_shape"),
        ('{"steps": [7]}', "wrong_shape"),
        ('{"steps": []}', "bad_segments"),
        (changed(segments=[0]), "bad_segments"),
        (changed(segments=[0, 1, 2]), "bad_segments"),
        (changed(segments=[1, 0]), "bad_segments"),
        (changed(segments=[0, True]), "bad_segments"),
        (changed(segments=[-1, 0, 1]), "bad_segments"),
        (changed(segments=[]), "bad_segments"),
        (changed(labels=[]), "bad_labels"),
        (changed(labels=[{"label": n, "confidence": 1} for n in "abc"]), "bad_labels"),
        (changed(label="Plan"), "bad_labels"),  # the other one is "plan": twice the same
        (changed(label=" ?! "), "bad_labels"),
        (changed(label="42"), "bad_labels"),
        (changed(label="so long " * 8), "bad_labels"),
        (changed(label=None), "bad_labels"),
        (changed(confidence=11), "bad_labels"),
        (changed(confidence=-1), "bad_labels"),
        (changed(confidence=math.nan), "bad_labels"),
        (changed(confidence=math.inf), "bad_labels"),
        (changed(confidence="8"), "bad_labels"),
        (changed(confidence=True), "bad_labels"),
    ],
)
def test_a_reply_that_is_not_exactly_right_is_a_fault_with_a_detail(reply, reason):
    found = read_open(reply if isinstance(reply, str) else json.dumps(reply), segments=3)
    assert isinstance(found, Fault) and found.reason == reason
    assert 10 < len(found.detail) <= 500


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Recall-Fact", "recall_fact"),
        ("  double  check! ", "double_check"),
        ("__a__b__", "a_b"),
        ("ＦＵＬＬ ｗｉｄｔｈ", "full_width"),
        ("Überprüfung", "überprüfung"),
        ("?!", ""),
        ("a\ud800b", "a_b"),
    ],
)
def test_names_become_snake_case(name, expected):
    assert snake_case(name) == expected == snake_case(expected)


_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["segments", "labels", "x"]), inner),
    max_leaves=8,
)


def _mutate(value, *, dice, odd):
    """`value` with one part, anywhere in it, replaced by `odd`."""
    if not isinstance(value, dict | list) or not value or dice.random() < 0.2:
        return odd
    key = dice.choice(sorted(value)) if isinstance(value, dict) else dice.randrange(len(value))
    copy = value.copy()
    copy[key] = _mutate(value[key], dice=dice, odd=odd)
    return copy


def check_any_reply(text, *, segments):
    """Whatever comes: a fault, or steps that keep every rule (checked here, not by the reader)."""
    found = read_open(text, segments=segments)
    if isinstance(found, Fault):
        assert found.reason in {"not_json", "wrong_shape", "bad_segments", "bad_labels"} and found.detail
        found.detail.encode()
        return False
    assert [i for s in found for i in range(s.first_segment, s.last_segment + 1)] == list(range(segments))
    for step in found:
        assert 1 <= len(step.labels) == len(set(step.labels)) == len(step.confidences) <= 2
        assert all(0 <= c <= 10 for c in step.confidences) and sorted(step.confidences)[::-1] == list(step.confidences)
        assert all(label == snake_case(label) and 1 <= len(label) <= 60 for label in step.labels)
    return True


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), odd=_VALUE, wrap=st.sampled_from(["{}", "```json\n{}\n```", "So: {} !", "{}{"]))
def test_no_mutated_reply_raises_and_none_breaks_a_rule(seed, odd, wrap):
    dice = random.Random(seed)
    text = wrap.replace("{}", json.dumps(_mutate(GOOD, dice=dice, odd=odd)))
    check_any_reply(text, segments=3)
    check_any_reply(text[: dice.randrange(len(text) + 1)], segments=3)
    check_any_reply(text + " " * 1000 + "}" * 1000, segments=3)


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_no_text_raises(text):
    assert not check_any_reply(text, segments=2)


def test_a_huge_reply_is_read():
    segments = 20_000
    steps = [{"segments": [i], "labels": [{"label": f"name {i}", "confidence": 5}]} for i in range(segments)]
    assert check_any_reply(json.dumps({"steps": steps}), segments=segments)
    assert not check_any_reply(json.dumps({"steps": steps}), segments=segments + 1)


def test_the_sample_depends_on_the_seed_alone_and_grows():
    ids = [f"set/{n}/on/0" for n in range(500)]
    chosen = sample_ids(ids, size=50, seed=1)
    assert len(set(chosen)) == 50 and sample_ids(reversed(ids), size=50, seed=1) == chosen
    assert sample_ids(ids, size=200, seed=1)[:50] == chosen
    assert sample_ids(ids, size=50, seed=2) != chosen
    assert sorted(sample_ids(ids, size=1000, seed=1)) == sorted(ids)
    picks = [sum(int(i.split("/")[1]) for i in sample_ids(ids, size=50, seed=s)) / 50 for s in range(40)]
    assert abs(sum(picks) / 40 - 249.5) < 10  # the mean of a fair draw; its standard deviation is 3.1
