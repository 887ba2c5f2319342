"""Annotation: base segments become labelled steps, by two annotators and an adjudicator.

These functions work on plain values, in a notebook, without Ray. A taxonomy (`PAPER`, `load_taxonomy`) and a
`Trajectory` become the messages of a chat (`annotation_messages`), whose reply becomes an `Opinion`
(`read_annotation`); the cue phrases of a `RuleBook` label without a chat (`annotate`). `consensus` makes the final
steps of two opinions, and `agreement` says how far two annotations agree. The stage resolves the configuration once
(resolved.py), asks (ask.py) and decides (decide.py).
"""

from mralign.annotation.agreement import Agreement, agreement, mean_l1, to_macro
from mralign.annotation.consensus import FinalStep, align, consensus, consolidate, disputes, validate
from mralign.annotation.cues import RuleBook, adjudicate, annotate, load_rule_book
from mralign.annotation.instruction import (
    Trajectory,
    adjudication_messages,
    adjudicator_instruction,
    annotation_messages,
    annotator_instruction,
    trajectory_of,
)
from mralign.annotation.replies import (
    Opinion,
    adjudication_schema,
    annotation_schema,
    read_adjudication,
    read_annotation,
)
from mralign.annotation.step_labels import StepLabels
from mralign.annotation.taxonomy import PAPER, Taxonomy, load_taxonomy

__all__ = [
    "PAPER",
    "Agreement",
    "FinalStep",
    "Opinion",
    "RuleBook",
    "StepLabels",
    "Taxonomy",
    "Trajectory",
    "adjudicate",
    "adjudication_messages",
    "adjudication_schema",
    "adjudicator_instruction",
    "agreement",
    "align",
    "annotate",
    "annotation_messages",
    "annotation_schema",
    "annotator_instruction",
    "consensus",
    "consolidate",
    "disputes",
    "load_rule_book",
    "load_taxonomy",
    "mean_l1",
    "read_adjudication",
    "read_annotation",
    "to_macro",
    "trajectory_of",
    "validate",
]
