"""Who is asked at which engine, how what was said travels, and how two opinions become final steps."""

import asyncio
import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mralign.annotation.ask import Opinions, ask
from mralign.annotation.decide import annotate_row, decide
from mralign.annotation.instruction import Trajectory
from mralign.annotation.replies import Opinion
from mralign.annotation.resolved import ROLES, ResolvedAnnotation, plan_engines
from mralign.annotation.step_labels import StepLabels
from mralign.annotation.taxonomy import PAPER
from mralign.rows import Polarity
from mralign.run.rejects import Reject
from mralign.serving.calls import Stopped

THOUGHT = Trajectory("q/on/0", "Who?", (), ("a", "b"))
ALL = ("first", "second", "adjudicator")


RESOLVED = ResolvedAnnotation(names={}, chats={}, books={}, taxonomy=PAPER, threshold=7.0, show_answers=True)


def keys(first, second, adjudicator):
    """The engine of each role; None is the cue phrases, which have none."""
    engines = {"first": first, "second": second, "adjudicator": adjudicator}
    return {role: engine for role, engine in engines.items() if engine is not None}


@pytest.mark.parametrize(
    ("engines", "planned"),
    [
        (keys(None, None, None), []),
        (keys("E", "E", "E"), [ALL]),
        (keys("A", "B", "J"), [("first",), ("second",), ("adjudicator",)]),
        (keys("A", "A", "J"), [("first", "second"), ("adjudicator",)]),
        (keys("J", "B", "J"), [("second",), ("first", "adjudicator")]),
        (keys(None, "B", "J"), [("second",), ("first", "adjudicator")]),
        (keys("A", None, None), [ALL]),
        (keys("A", "B", None), [("first",), ("second", "adjudicator")]),
        (keys(None, None, "J"), [ALL]),
    ],
)
def test_each_engine_is_asked_once_and_the_adjudicators_last(engines, planned):
    assert plan_engines(engines) == planned


@settings(deadline=None)
@given(st.tuples(*[st.sampled_from([None, "A", "B", "C"])] * 3))
def test_every_role_is_asked_exactly_once_whatever_the_engines(engines):
    named = keys(*engines)
    planned = plan_engines(named)
    asked = [role for roles in planned for role in roles]
    assert sorted(asked) == (sorted(ROLES) if any(engines) else [])
    served = [{named[role] for role in roles if role in named} for roles in planned]
    assert all(len(engine) == 1 for engine in served)  # those who are asked together share one engine
    assert len(set.union(set(), *served)) == len(planned)  # and nobody else has it
    assert not planned or "adjudicator" in planned[-1]


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
        opinions = Opinions()
        await ask(THOUGHT, {"first": first}, opinions=opinions)
        opinions = Opinions.from_json(json.loads(json.dumps(opinions.to_json())))  # it travels between engines
        await ask(THOUGHT, {"second": second}, opinions=opinions)
        row = await decide(THOUGHT, opinions=opinions, adjudicator=judge, resolved=RESOLVED)
        return row, opinions

    return asyncio.run(go())


def test_agreement_asks_no_adjudicator():
    judge = Voice(None)
    row, opinions = run(
        Voice(opinion("framing", "chaining", confidence=4.0)), Voice(opinion("framing", "chaining")), judge
    )
    assert [step["labels"] for step in row["steps"]] == [("framing",), ("chaining",)]
    assert (row["segments"], row["confidence_a"], row["confidence_b"]) == (2, 4.0, None)
    assert judge.asked == 0
    assert opinions.tallies["first"] == opinions.tallies["second"] == Counter(trajectories=1)


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
    assert row == replace(reject, role="first")
    assert second.asked == judge.asked == 0


def test_what_was_said_travels_unchanged_whatever_a_reply_holds():
    said = Reject("q/on/0", "not_json", "annotator first: x", "a lone surrogate: \ud800")
    steps = (StepLabels(0, 0, ("framing", "chaining"), (0.1 + 0.2, 1e-300)), StepLabels(1, 1, (), ()))
    opinions = Opinions({"first": said, "second": Opinion(steps, 6.5)})
    opinions.tallies["first"]["requests"] += 2
    assert Opinions.from_json(json.loads(json.dumps(opinions.to_json()))) == opinions


def test_an_adjudicator_without_a_verdict_puts_the_row_aside():
    reject = Reject("q/on/0", "bad_labels", "annotator adjudicator: x", "raw")
    row, _ = run(Voice(opinion("framing", "chaining")), Voice(opinion("framing", "retrieval")), Voice(reject))
    assert row == replace(reject, role="adjudicator")


def test_a_reject_says_whose_reply_it_was_and_what_is_known_of_the_row():
    row = {"row_id": "q/on/0", "question_id": "q", "dataset": "maths", "polarity": -1, "question": "Who?"}
    row |= {"answers": [], "text": "ab", "segment_start": [0, 1], "segment_end": [1, 2]}
    reject = Reject("q/on/0", "not_json", "annotator second: x", "raw")
    voices = {"first": Voice(opinion("framing", "framing")), "second": Voice(reject), "adjudicator": Voice(None)}
    found = asyncio.run(annotate_row(row, resolved=RESOLVED, opinions=Opinions(), annotators=voices))
    assert (found.role, found.dataset, found.polarity) == ("second", "maths", Polarity.NEGATIVE)


def test_who_is_told_to_stop_waits_for_a_reply_that_is_paid_for():
    came = []

    class Stopping(Voice):
        async def annotate(self, trajectory, *, tally):
            raise Stopped("the budget is spent")

    class Slow(Voice):
        async def annotate(self, trajectory, *, tally):
            await asyncio.sleep(0.05)
            came.append(trajectory.row_id)
            return self.said

    async def go():
        voices = {"first": Stopping(None), "second": Slow(opinion("framing", "framing"))}
        with pytest.raises(Stopped, match="the budget is spent"):
            await ask(THOUGHT, voices, opinions=Opinions())
        return list(came)

    assert asyncio.run(go()) == ["q/on/0"]
