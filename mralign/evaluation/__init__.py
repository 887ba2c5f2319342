"""Evaluation: a model and held-out questions become accuracy, misleading thoughts and more, with intervals.

What is measured is said by the benchmarks, one file each (`benchmarks/`). These functions work on scores and figures,
in a notebook, without Ray; the stages (stage.py, responses_stage.py, judgements_stage.py) run them on whole data sets.
"""

from mralign.evaluation.benchmarks import find, of_format, registry
from mralign.evaluation.intervals import bootstrap_interval
from mralign.evaluation.paired import Difference, compare, holm, paired_difference, sign_flip_p
from mralign.evaluation.positions import hit_positions, position_figures
from mralign.evaluation.scoring import SCORES, completed, result_figures, score_responses, shared_of
from mralign.evaluation.strata import strata_figures, stratum

__all__ = [
    "SCORES",
    "Difference",
    "bootstrap_interval",
    "compare",
    "completed",
    "find",
    "hit_positions",
    "holm",
    "of_format",
    "paired_difference",
    "position_figures",
    "registry",
    "result_figures",
    "score_responses",
    "shared_of",
    "sign_flip_p",
    "strata_figures",
    "stratum",
]
