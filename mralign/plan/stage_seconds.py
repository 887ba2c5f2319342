"""What each stage of a run is expected to take, for a screen that shows how long it still goes on.

A configuration and its planned stages enter; seconds by stage leave, of those of which something was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mralign.config import RunConfig
from mralign.plan import expected, sizes
from mralign.plan.hours import expected_hours
from mralign.plan.placing import Planned
from mralign.plan.shipped_run import shipped_run
from mralign.questions.counting import count_questions


def expected_seconds(config: RunConfig, planned: Sequence[Planned]) -> Mapping[str, float]:
    """The most likely seconds of the stages that have work; nothing where that cannot be known."""
    try:
        return _by_stage(config, planned)
    except (ValueError, OSError):  # a file that cannot be counted is told by the stage that reads it
        return {}
    except KeyError:  # a result of an older version does not have all figures
        return {}


def _by_stage(config: RunConfig, planned: Sequence[Planned]) -> Mapping[str, float]:
    sources = [] if planned[0].manifest is not None else count_questions(config)
    counts = expected.counts_of(config, planned, sources=sources)
    model = sizes.model_of(config)
    shipped = shipped_run(config, parameters=model.parameters)
    length = expected.lengths(planned, shipped=shipped)
    examples = expected.examples_expected(config, counts=counts, shipped=shipped, length=length)
    return expected_hours(config, planned, counts=counts, shape=model.shape, examples=examples).by_stage
