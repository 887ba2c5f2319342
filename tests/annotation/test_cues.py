"""The cue-phrase annotator and the three shipped rule books."""

import json
import pickle
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import yaml

from mralign.annotation import cues
from mralign.annotation.consensus import FinalStep, consensus, validate
from mralign.annotation.cues import RuleBook, adjudicate, annotate, load_rule_book, score
from mralign.annotation.step_labels import StepLabels
from mralign.annotation.taxonomy import PAPER

BOOKS = Path(cues.__file__).parent / "rule_books"
TRACES = Path(__file__).parents[3] / "shared" / "data" / "traces" / "qwen3-8b_simpleqa.jsonl"
RULES = [
    {"pattern": "^wait", "label": "backtracking", "confidence": 9},
    {"pattern": "wait", "label": "backtracking", "confidence": 4},
    {"pattern": "i remember", "label": "retrieval", "confidence": 8},
    {"pattern": "maybe", "label": "case_analysis", "confidence": 8},
    {"pattern": "hmm", "label": "evaluation", "confidence": 3},
]
OPENINGS = {
    "framing": ("okay the question asks for the river of dabolor", "understand the goal : the river of dabolor"),
    "decomposition": ("break it down into dabolor and its river", "split it into dabolor and its river"),
    "categorization": ("category of dabolor : one of the ports", "classify dabolor as one of the ports"),
    "chaining": ("next we move on", "then the following step comes"),
    "causal_reasoning": ("because of that it holds", "since that is so it holds"),
    "analogy": ("similarly for dabolor", "analogous to dabolor maybe"),
    "retrieval": ("recall that the river of dabolor is zuruzux", "remember that the river of dabolor is zuruzux"),
    "comparison": ("compared with others zuruzux leads", "weighing the options zuruzux leads"),
    "case_analysis": ("suppose it is so", "if this is the case then fine"),
    "explanation": ("this means little more", "meaning that it is known"),
    "evaluation": ("how plausible is zuruzux", "confidence in zuruzux is moderate"),
    "self_verification": ("check zuruzux again", "verify that zuruzux holds"),
    "backtracking": ("wait maybe it is zuruzux", "actually it is zuruzux"),
    "synthesis": ("together it is zuruzux", "overall it is zuruzux"),
    "summarization": ("in short zuruzux", "finally it is zuruzux"),
}


def book(tmp_path: Path, **changes: object) -> RuleBook:
    path = tmp_path / "book.yaml"
    path.write_text(yaml.safe_dump({"merge_equal": False, "second_from": 0, "rules": RULES} | changes))
    return load_rule_book(str(path))


def shipped() -> tuple[RuleBook, RuleBook, RuleBook]:
    first, second, judge = (load_rule_book(str(BOOKS / f"{name}.yaml")) for name in ("first", "second", "adjudicator"))
    return first, second, judge


def final_steps(segments: list[str], *, books: tuple[RuleBook, RuleBook, RuleBook]) -> list[FinalStep]:
    first, second, judge = books
    return consensus(
        annotate(segments, book=first),
        annotate(segments, book=second),
        segments=len(segments),
        taxonomy=PAPER,
        adjudicate=partial(adjudicate, segments=segments, book=judge),
    )


# --- the engine --------------------------------------------------------------------------------------------------


def test_a_label_scores_by_its_strongest_rule_and_anchors_count(tmp_path: Path) -> None:
    assert score("Wait, no.", book=book(tmp_path)) == (("backtracking",), (9.0,))
    assert score("No, wait.", book=book(tmp_path)) == (("backtracking",), (4.0,))


def test_two_labels_at_most_highest_first_ties_in_book_order(tmp_path: Path) -> None:
    text = "Hmm, maybe. I remember it. But wait."
    assert score(text, book=book(tmp_path)) == (("retrieval", "case_analysis"), (8.0, 8.0))


def test_a_weak_label_stands_only_alone(tmp_path: Path) -> None:
    strict = book(tmp_path, second_from=5)
    assert score("hmm, i remember", book=strict)[0] == ("retrieval",)
    assert score("hmm", book=strict)[0] == ("evaluation",)


def test_silence_is_no_label(tmp_path: Path) -> None:
    assert score("The river flows.", book=book(tmp_path)) == ((), ())


def test_leading_blanks_and_curly_apostrophes_do_not_hide_a_cue(tmp_path: Path) -> None:
    rules = [{"pattern": "^i'm", "label": "framing", "confidence": 9}]
    assert score("\n I\u2019m here", book=book(tmp_path, rules=rules))[0] == ("framing",)


SEGMENTS = ["wait", "oh wait", "nothing", "nothing", "maybe i remember"]


def test_a_book_without_merging_gives_a_step_a_segment(tmp_path: Path) -> None:
    steps = annotate(SEGMENTS, book=book(tmp_path))
    assert [(s.first_segment, s.last_segment) for s in steps] == [(i, i) for i in range(5)]


def test_a_merging_book_joins_equal_neighbours_with_the_higher_confidence(tmp_path: Path) -> None:
    assert annotate(SEGMENTS, book=book(tmp_path, merge_equal=True)) == [
        StepLabels(0, 1, ("backtracking",), (9.0,)),
        StepLabels(2, 3, (), ()),
        StepLabels(4, 4, ("retrieval", "case_analysis"), (8.0, 8.0)),
    ]


def test_merging_keeps_the_higher_confidence_of_either_side(tmp_path: Path) -> None:
    assert annotate(["oh wait", "wait"], book=book(tmp_path, merge_equal=True)) == [
        StepLabels(0, 1, ("backtracking",), (9.0,))
    ]


def test_the_adjudicator_reads_a_span_as_one_text(tmp_path: Path) -> None:
    verdicts = adjudicate([(0, 0), (3, 4)], segments=SEGMENTS, book=book(tmp_path))
    assert verdicts == [
        StepLabels(0, 0, ("backtracking",), (9.0,)),
        StepLabels(3, 4, ("retrieval", "case_analysis"), (8.0, 8.0)),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": 1}, "exactly the keys"),
        ({"merge_equal": "perhaps"}, "allowed are true and false"),
        ({"second_from": 11}, "second_from is 11; allowed is a number from 0 to 10"),
        ({"rules": []}, "at least one rule"),
        ({"rules": [{"pattern": "a", "label": "b"}]}, "rule 1 is .* exactly the keys"),
        ({"rules": [*RULES, {"pattern": "(", "label": "b", "confidence": 1}]}, "rule 6 has pattern '\\(', no regular"),
        ({"rules": [{"pattern": "a", "label": "b", "confidence": 11}]}, "rule 1: confidence is 11; allowed"),
        ({"rules": [{"pattern": "a", "label": "b", "confidence": True}]}, "rule 1: confidence is True; allowed"),
        ({"rules": [{"pattern": "a", "label": False, "confidence": 1}]}, "rule 1 has label False"),
        ({"rules": [{"pattern": 3, "label": "b", "confidence": 1}]}, "rule 1 has pattern 3"),
    ],
)
def test_a_bad_book_is_refused_with_file_and_rule(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        book(tmp_path, **changes)
    assert "book.yaml" in str(caught.value)


# --- the shipped books -------------------------------------------------------------------------------------------


def test_every_shipped_book_knows_the_whole_taxonomy_and_nothing_else() -> None:
    for rules in shipped():
        assert set(rules.labels) == set(PAPER.labels)


def test_one_annotator_groups_and_the_other_does_not() -> None:
    first, second, judge = shipped()
    assert (first.merge_equal, second.merge_equal, judge.merge_equal) == (True, False, False)


def test_a_book_travels_between_processes() -> None:
    rules = shipped()[0]
    assert pickle.loads(pickle.dumps(rules)) == rules


@pytest.mark.parametrize(("label", "text"), [(label, text) for label, texts in OPENINGS.items() for text in texts])
def test_all_three_books_name_the_state_of_an_opening_first(label: str, text: str) -> None:
    for rules in shipped():
        assert score(text, book=rules)[0][0] == label
    assert final_steps([text], books=shipped())[0].labels[0] == label


def test_openings_are_mostly_settled_at_once_yet_every_rule_is_used() -> None:
    books = shipped()
    steps = [(label, final_steps([text], books=books)[0]) for label, texts in OPENINGS.items() for text in texts]
    rules = Counter(step.rule for _, step in steps)
    assert rules["equal"] >= 24
    assert rules["intersection"] >= 1
    assert rules["adjudicated"] >= 1
    assert sum(step.labels == (label,) for label, step in steps) >= 26


def test_probes_and_backtracking_are_never_blurred() -> None:
    for label in ("self_verification", "comparison", "evaluation", "backtracking"):
        for text in OPENINGS[label]:
            assert final_steps([text], books=shipped())[0].labels == (label,)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("Okay, so I need to find out who won. Let me start by recalling the event.", {"framing", "retrieval"}),
        ("Wait, maybe that was another year.", {"backtracking", "case_analysis"}),
        ("I remember that the bridge opened in 1932.", {"retrieval"}),
        ("Let me double-check the dates.", {"self_verification"}),
        ("Alternatively, maybe it was his brother.", {"case_analysis"}),
        ("In conclusion, it was built in 1690.", {"summarization"}),
        ("So putting it all together, the year is 1690.", {"synthesis"}),
    ],
)
def test_common_sentences_of_reasoning_models(text: str, labels: set[str]) -> None:
    assert set(final_steps([text], books=shipped())[0].labels) == labels


@pytest.mark.skipif(not TRACES.exists(), reason="the real traces of ../shared/data are not on this machine")
def test_real_traces_get_labels_from_annotators_that_differ() -> None:
    books = shipped()
    labels, rules = Counter[str](), Counter[str]()
    for line in TRACES.read_text(encoding="utf-8").splitlines()[:200]:
        thought = json.loads(line)["thought"].removeprefix("<think>").removesuffix("</think>")
        segments = [segment for segment in thought.split("\n\n") if segment.strip()]
        for rules_of in books[:2]:
            assert validate(annotate(segments, book=rules_of), segments=len(segments), taxonomy=PAPER) is None
        for step in final_steps(segments, books=books):
            labels.update(step.labels)
            rules[step.rule] += 1
    steps = rules.total()
    assert rules["unlabelled"] < 0.05 * steps
    assert 0.4 * steps < rules["equal"] < 0.8 * steps
    assert 0.1 * steps < rules["adjudicated"] < 0.35 * steps
    assert max(labels.values()) < 0.4 * steps
    assert set(labels) == set(PAPER.labels)
