"""Who is heard where, how what was heard travels, and how a trajectory is settled."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mralign.annotation.instruction import Trajectory
from mralign.annotation.panel import ROLES, Hearing, Visit, hear, plan_visits, settle
from mralign.annotation.replies import Opinion
from mralign.annotation.step_labels import StepLabels
from mralign.annotation.taxonomy import PAPER
from mralign.run.rejects import Reject

THOUGHT = Trajectory("q/on/0", "Who?", (), ("a", "b"))
ALL = ("first", "second", "adjudicator")


def keys(first, second, adjudicator):
    return {"first": first, "second": second, "adjudicator": adjudicator}


@pytest.mark.parametrize(
    ("engines", "visits"),
    [
        (keys(None, None, None), []),
        (keys("E", "E", "E"), [Visit("E", ALL)]),
        (keys("A", "B", "J"), [Visit("A", ("first",)), Visit("B", ("second",)), Visit("J", ("adjudicator",))]),
        (keys("A", "A", "J"), [Visit("A", ("first", "second")), Visit("J", ("adjudicator",))]),
        (keys("J", "B", "J"), [Visit("B", ("second",)), Visit("J", ("first", "adjudicator"))]),
        (keys(None, "B", "J"), [Visit("B", ("second",)), Visit("J", ("first", "adjudicator"))]),
        (keys("A", None, None), [Visit("A", ALL)]),
        (keys("A", "B", None), [Visit("A", ("first",)), Visit("B", ("second", "adjudicator"))]),
        (keys(None, None, "J"), [Visit("J", ALL)]),
    ],
)
def test_each_engine_is_visited_once_and_the_adjudicators_last(engines, visits):
    assert plan_visits(engines) == visits


@given(st.tuples(*[st.sampled_from([None, "A", "B", "C"])] * 3))
def test_every_role_is_heard_exactly_once_whatever_the_engines(engines):
    named = dict(zip(ROLES, engines, strict=True))
    visits = plan_visits(named)
    heard = [role for visit in visits for role in visit.roles]
    assert sorted(heard) == (sorted(ROLES) if any(engines) else [])
    assert len({visit.engine_key for visit in visits}) == len(visits)
    assert all(named[role] in (None, visit.engine_key) for visit in visits for role in visit.roles)
    assert not visits or "adjudicator" in visits[-1].roles


class Voice:
    """A fake annotator: it says what it is given."""

    def __init__(self, said):
        self.said, self.asked = said, 0

    async def annotate(self, trajectory, *, tally):
        self.asked += 1
        tally["trajectories"] += 1
        return self.said

    async def adjudicate(self, trajectory, disputed, *, tally):
        self.asked += 1
        self.disputed = disputed
        return self.said


def opinion(*labels, confidence=None):
    return Opinion(tuple(StepLabels(i, i, (name,), (6.0,)) for i, name in enumerate(labels)), confidence)


def run(first, second, judge):
    async def go():
        hearing = Hearing()
        await hear(THOUGHT, hearing=hearing, annotators={"first": first})
        hearing = Hearing.from_json(hearing.to_json())  # it travels from engine to engine
        await hear(THOUGHT, hearing=hearing, annotators={"second": second})
        row = await settle(THOUGHT, hearing=hearing, adjudicator=judge, taxonomy=PAPER, threshold=7.0)
        return row, hearing

    return asyncio.run(go())


def test_agreement_asks_no_adjudicator():
    judge = Voice(None)
    row, hearing = run(
        Voice(opinion("framing", "chaining", confidence=4.0)), Voice(opinion("framing", "chaining")), judge
    )
    assert [step["labels"] for step in row["steps"]] == [("framing",), ("chaining",)]
    assert (row["segments"], row["confidence_a"], row["confidence_b"]) == (2, 4.0, None)
    assert judge.asked == 0
    assert hearing.tallies["first"] == hearing.tallies["second"] == Counter(trajectories=1)


def test_only_disputed_steps_go_to_the_adjudicator_and_all_is_recorded():
    judge = Voice((StepLabels(1, 1, ("analogy",), (9.0,)),))
    row, _ = run(Voice(opinion("framing", "chaining")), Voice(opinion("framing", "retrieval")), judge)
    assert [(a.labels, b.labels) for a, b in judge.disputed] == [(("chaining",), ("retrieval",))]
    assert row["steps"][1] == {
        "first_segment": 1,
        "last_segment": 1,
        "labels": ("analogy",),
        "confidences": (9.0,),
        "rule": "adjudicated",
        "labels_a": ("chaining",),
        "confidences_a": (6.0,),
        "labels_b": ("retrieval",),
        "confidences_b": (6.0,),
    }


def test_a_row_put_aside_is_asked_about_no_more():
    reject = Reject("q/on/0", "not_json", "annotator first: x", "raw")
    second, judge = Voice(opinion("framing", "framing")), Voice(None)
    row, _ = run(Voice(reject), second, judge)
    assert row == reject
    assert second.asked == judge.asked == 0


def test_an_adjudicator_without_a_verdict_puts_the_row_aside():
    reject = Reject("q/on/0", "bad_labels", "annotator adjudicator: x", "raw")
    row, _ = run(Voice(opinion("framing", "chaining")), Voice(opinion("framing", "retrieval")), Voice(reject))
    assert row == reject
