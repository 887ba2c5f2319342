"""The later rounds of a run as text, for `--dry-run`: when each begins, where it goes, and what it would cost.

A configuration with `run.rounds` above 1 enters; lines for a terminal leave. A round whose model is not trained yet is
forecast with the first model in its place, which is as large. How many questions will then have a verdict is not known.
"""

from __future__ import annotations

from dataclasses import replace

from mralign.config import RunConfig
from mralign.plan import pipeline
from mralign.plan.placing import Planned
from mralign.plan.plan_text import forecast
from mralign.plan.round_config import asks_at_the_end, rounds_ahead
from mralign.plan.round_loop import rule_of
from mralign.report.rounds import first_directory, round_directory, rounds_of, rounds_text


def describe_rounds(config: RunConfig) -> str:
    """What follows the first round, whose own plan stands above."""
    fixed = config.run.round_reference == "fixed"
    reference = "the model before the first round" if fixed else "the policy that the round begins with"
    lines = [f"rounds: {config.run.rounds} at most, of which this is the first; {rule_of(config)}"]
    lines.append(f"reference of later rounds: {reference}")
    for number, ahead in enumerate(rounds_ahead(config), 2):
        lines += ["", f"round {number}, the same stages: {round_directory(config.run.dir, number)}"]
        lines += [f"  {line}" for line in forecast(ahead, _to_come(ahead))]
    lines += ["", *_at_the_end(config)]
    there = rounds_of(config.run.dir)
    if there is not None and there.records:
        lines += ["", f"so far, in {first_directory(config.run.dir)}:", rounds_text(there)]
    return "\n".join(lines)


def _to_come(config: RunConfig) -> list[Planned]:
    """The stages of a round as if none had run: what lies there is found when its model is known."""
    return [replace(item, manifest=None, damaged=()) for item in pipeline.survey(config)]


def _at_the_end(config: RunConfig) -> list[str]:
    if not asks_at_the_end(config):
        return ["at the end: no other questions; the figures are those of dev"]
    names = ", ".join(source.name for source in config.questions.test)
    return [f"at the end: the test questions ({names}) are put to the first model, to round 1 and to the round kept"]
