"""A run of several rounds: align, sample again from what was aligned, label, estimate, train on, for as long as it
pays.

A checked configuration enters; the round that is kept leaves, with the text that ends the run. Each round is an
ordinary run (round_config.py), so what is said of a run holds for each of them: killed at any moment, the same command
goes on, and nothing is done twice. What the rounds have come to stands in `rounds.json` beside the first one; it is
made of committed tables alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

from mralign import report
from mralign.config import RunConfig, to_yaml
from mralign.plan import pipeline
from mralign.plan.pipeline import Planned
from mralign.plan.round_config import (
    asks_at_the_end,
    at_the_end,
    check_rounds,
    first_round,
    later_round,
    rounds_ahead,
)
from mralign.plan.round_figures import candidate_counts, gain_over, marks_of, record_of, start_of
from mralign.plan.walking import Walked, walk
from mralign.report.rounds import OWN_CONFIG, RoundRecord, Rounds, rounds_of, rounds_text, write_rounds
from mralign.report.wording import signed
from mralign.run import lease, local_ray
from mralign.run.stage import log
from mralign.run.store import Directory, absolute
from mralign.training.objectives import find as find_objective

_ROUNDING = 1e-9  # a mean of differences that cancel is not exactly 0
_Hook = Callable[[Sequence[Planned]], None]


def walk_rounds(
    config: RunConfig,
    *,
    take_over: bool = False,
    showing: AbstractContextManager[object] | None = None,
    hears_workers: bool = False,
) -> Walked:
    """Go through the rounds that are not finished; what leaves is the run of the round that is kept.

    Arguments as in `walking.walk`. Raises ValueError for what the user can mend; what later rounds lack is found before
    the first one begins.
    """
    check_rounds(config)
    for one in (config, *rounds_ahead(config)):
        pipeline.plan(one)
    with showing or nullcontext():
        keeper = _RoundKeeper(config, take_over=take_over, hears_workers=hears_workers)
        keeper.begin()
        return keeper.finish(keeper.go())


def rule_of(config: RunConfig) -> str:
    """When another round follows, in words."""
    least = config.run.round_gain
    if least is None:
        return "another one follows in any case"
    level, points = 100 * config.evaluation.level, f"{100 * least:g}"
    return (
        f"another one follows if the {level:g} % interval of the last one's gain in Acc on dev, paired by question, "
        f"lies above {points} points"
    )


def why_ended(config: RunConfig, record: RoundRecord) -> str:
    """Why no round follows this one; empty where one does."""
    least = config.run.round_gain
    if record.number == config.run.rounds:
        return f"all {config.run.rounds} rounds are done"
    assert record.gain_low is not None
    if least is None or record.gain_low > least + _ROUNDING:
        return ""
    low = signed(100 * record.gain_low)
    return f"round {record.number} did not gain on dev (the lower end of the interval is {low} points)"


def kept_round(config: RunConfig, records: Sequence[RoundRecord]) -> int:
    """The round whose policy is the result: the first, until a later one has a gain over it on dev whose interval
    lies above 0 (and above `run.round_gain`)."""
    least = max(0.0, config.run.round_gain or 0.0)
    first, *later = [record for record in records if record.number]
    kept = first
    for record in later:
        if gain_over(config, record, other=kept).ci[0] > least + _ROUNDING:
            kept = record
    return kept.number


class _RoundKeeper:
    """Goes from round to round and writes down what they have come to."""

    def __init__(self, config: RunConfig, *, take_over: bool, hears_workers: bool) -> None:
        self.config, self.take_over, self.hears_workers = config, take_over, hears_workers
        self.runs: dict[int, RunConfig] = {1: first_round(config)}
        fresh = Rounds(config.run.rounds, config.run.round_reference, rule_of(config))
        there = rounds_of(config.run.dir)
        self.rounds = replace(fresh, records=there.records if there else ())

    def begin(self) -> None:
        """Write down the configuration by which the same rounds go on."""
        home, text = Directory(absolute(self.config.run.dir)), to_yaml(self.config)
        before = home.find_text(OWN_CONFIG)
        if self.rounds.records and before == text:
            return
        if before != text and before == to_yaml(_asked_on_test(self.config)):
            log.warning(
                "evaluation.split=dev: the test questions are not asked at the end, as %s/%s has it. config.yaml "
                "there is the configuration of the first round alone; give evaluation.split=test for the final figures",
                *(home.uri, OWN_CONFIG),
            )
        with lease.hold(self.config.run.dir, take_over=self.take_over):
            home.write_text(OWN_CONFIG, text)
            self._write(self.rounds)

    def go(self) -> int:
        """Do what is not finished of the rounds; the number of the round that is kept."""
        number, done, ended = 1, 0, ""
        while not ended:
            ended = self._lacks_examples(number) if number > 1 else ""
            if not ended:
                done = number
                planned = self._round(number)
                record = self.rounds.record(number)
                assert record is not None
                ended = why_ended(self.config, record)
            if not ended:
                number += 1
                model = f"{_training(planned)}/model"
                self.runs[number] = later_round(self.config, number=number, model=model)
        # Other settings may have gone on for longer before: those rounds are none of this run.
        records = tuple(record for record in self.rounds.records if record.number <= done)
        kept = kept_round(self.config, records)
        self._write(replace(self.rounds, records=records, ended=ended, kept=kept))
        return kept

    def finish(self, kept: int) -> Walked:
        """The final figures and the pages of the first round and of the one that is kept."""
        walked = None
        for number in sorted({1, kept}):
            own = at_the_end(self.config, self.runs[number]) if asks_at_the_end(self.config) else self.runs[number]
            walked = self._walk(own, title=f"round {number}, final figures", explain=False)
        assert walked is not None
        return replace(walked, text=f"{rounds_text(self.rounds)}\n\n{walked.text}")

    def _round(self, number: int) -> list[Planned]:
        """One round, up to its record."""
        config = self.runs[number]
        planned = pipeline.plan(config)
        there = self.rounds.record(number)
        done = all(item.manifest is not None for item in planned)
        if not (done and there is not None and marks_of(planned).items() <= there.marks.items()):
            title = f"round {number} of {self.config.run.rounds}"
            self._walk(config, title=title, before_page=partial(self._record, number))
        return pipeline.plan(config)

    def _record(self, number: int, planned: Sequence[Planned]) -> None:
        """Put a finished round into the table, in place of it and of all that came after it."""
        config = self.runs[number]
        kept = [record for record in self.rounds.records if record.number < number]
        if number == 1:
            kept = [start_of(config, planned)]
        before = kept[-1] if number > 1 else None
        record = record_of(config, planned, number=number, before=before)
        self._write(replace(self.rounds, records=(*kept, record), ended="", kept=None))

    def _lacks_examples(self, number: int) -> str:
        """Sample a later round's policy; why it has nothing to train on, if it has not."""
        config = self.runs[number]
        planned = pipeline.plan(config, until="candidates")
        if any(item.manifest is None for item in planned):
            with pipeline.writing(config, planned, take_over=self.take_over) as held:
                report.begin(config)
                start_ray = partial(local_ray.start, config, hears_workers=self.hears_workers)
                planned = pipeline.run(config, held, start_ray=start_ray, title=f"round {number}: its candidates")
        counts = candidate_counts(planned)
        needed = counts if find_objective(config.training.method).negatives else list(counts)[:1]
        none = [polarity.name.lower() for polarity in needed if not counts[polarity]]
        if not none:
            return ""
        return f"round {number} would have no {' and no '.join(none)} thoughts to train on"

    def _walk(self, config: RunConfig, *, title: str, explain: bool = True, before_page: _Hook | None = None) -> Walked:
        return walk(
            config,
            pipeline.plan(config),
            take_over=self.take_over,
            hears_workers=self.hears_workers,
            explain=explain,
            title=title,
            before_page=before_page,
        )

    def _write(self, rounds: Rounds) -> None:
        self.rounds = rounds
        write_rounds(self.config.run.dir, rounds)


def _asked_on_test(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"split": "test"})})


def _training(planned: Sequence[Planned]) -> str:
    item = pipeline.find(planned, "training")
    assert item is not None
    return item.out.uri
