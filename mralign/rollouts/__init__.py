"""Rollouts: questions become thinking-on and thinking-off samples, then labelled candidates.

These functions work on plain rows (`mralign.rows`), in a notebook, without Ray: `segments` cuts a thought, `judge`
makes candidates of generations, `DrawsAsNeeded` says which draw of a question can still matter, `count_funnel` counts
what each filter let through, `draw_questions` and `thoughts_of` take some thoughts of an evaluated model, and
`read_rollouts` reads rollouts that were made elsewhere.
"""

from mralign.rollouts.candidates import Limits, judge, trajectory
from mralign.rollouts.funnel import FunnelRow, count_funnel
from mralign.rollouts.imported import read_rollouts
from mralign.rollouts.needed import DrawsAsNeeded
from mralign.rollouts.segmentation import segments
from mralign.rollouts.thoughts import draw_questions, thoughts_of

__all__ = [
    "DrawsAsNeeded",
    "FunnelRow",
    "Limits",
    "count_funnel",
    "draw_questions",
    "judge",
    "read_rollouts",
    "segments",
    "thoughts_of",
    "trajectory",
]
