"""Thoughts in made-up words with the steps and labels that a panel gave them by a rule that is known.

A segment is four words. Its first word says what it does; `und` as the first word goes on with the step before it; a
segment whose last word is `zwei` has a second label. Other words say nothing.
"""

import random

import numpy as np

from mralign.annotation.label_sets import Calibration
from mralign.annotation.labeller import Labeller
from mralign.annotation.labeller_fit import LabelledThought
from mralign.annotation.segment_features import COLUMNS
from mralign.annotation.step_labels import StepLabels
from mralign.annotation.taxonomy import PAPER

WORDS = ("alba", "beno", "cira", "dolo", "emri", "fanu", "giso", "heta")
FIRST = dict(zip(("ask", "look", "check", "join", "tell"), PAPER.labels[:5], strict=True))
SECOND = PAPER.labels[7]


def segments_and_steps(dice, *, least=3, most=7):
    """A thought and its steps."""
    segments, steps = [], []
    for place in range(dice.randint(least, most)):
        goes_on = place > 0 and dice.random() < 0.25
        two = not goes_on and dice.random() < 0.3
        word = "und" if goes_on else dice.choice(list(FIRST))
        segments.append(" ".join([word, *dice.choices(WORDS, k=2), "zwei" if two else "eins"]))
        if goes_on:
            steps[-1] = (steps[-1][0], place, steps[-1][2])
        else:
            steps.append((place, place, (FIRST[word], SECOND) if two else (FIRST[word],)))
    return tuple(segments), tuple(StepLabels(a, b, labels, (9.0,) * len(labels)) for a, b, labels in steps)


def lessons(count, *, seed=0):
    """Lessons, each of a question of its own."""
    dice = random.Random(seed)
    return [LabelledThought(f"d/{number}", *segments_and_steps(dice)) for number in range(count)]


def candidate(number, lesson, *, polarity):
    """A row of schema CANDIDATES with the columns that annotation reads."""
    text, starts, ends = "", [], []
    for segment in lesson.segments:
        text += "\n\n" if text else ""
        starts.append(len(text))
        text += segment
        ends.append(len(text))
    return {
        "row_id": f"d/{number}/on/0",
        "question_id": lesson.question_id,
        "dataset": "d",
        "question": f"What is {number}?",
        "answers": ["x"],
        "polarity": polarity,
        "text": f"{text}</think>x",
        "segment_start": starts,
        "segment_end": ends,
    }


def annotated(number, lesson, *, polarity):
    """A row of schema ANNOTATIONS whose annotators both said what the panel says."""
    steps = []
    for step in lesson.steps:
        labels, confidences = list(step.labels), list(step.confidences)
        own = {"labels": labels, "confidences": confidences, "rule": "equal"}
        both = {"labels_a": labels, "confidences_a": confidences, "labels_b": labels, "confidences_b": confidences}
        steps.append({"first_segment": step.first_segment, "last_segment": step.last_segment, **own, **both})
    ids = {"row_id": f"d/{number}/on/0", "question_id": lesson.question_id, "dataset": "d", "polarity": polarity}
    return ids | {"segments": len(lesson.segments), "confidence_a": None, "confidence_b": None, "steps": steps}


def random_labeller(labels=PAPER.labels):
    """A labeller that has learned nothing."""
    rng = np.random.default_rng(0)
    H = len(labels) + 1
    weight_CH, intercept_H = rng.normal(size=(COLUMNS, H)), rng.normal(size=H)
    return Labeller(tuple(labels), weight_CH.astype(np.float32), intercept_H.astype(np.float32), Calibration(0.7))
