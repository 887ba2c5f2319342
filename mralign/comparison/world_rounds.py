"""Rounds on small worlds: align, sample again from what was aligned, label, weigh and train again.

A world's seed enters, rows of the table of rounds leave: the base, the policy after the first round, and after each
later round of three ways to go on. `fixed`: pi_ref stays the base. `moving`: pi_ref is the policy with which the round
begins. `old`: as `fixed`, but on the examples of the first round again; against it, what sampling anew is worth can be
told from what more steps are worth. `python -m mralign.comparison.world_rounds --help` says how it is run.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mralign.chat.model_files import load_tokenizer, model_path
from mralign.comparison.exam import Exam, divergence, own_logps
from mralign.comparison.round_rows import ARMS, FIRST, MOVING, OLD, START, RoundRow, append_rounds, read_rounds
from mralign.comparison.run_rows import Point
from mralign.comparison.small_worlds import DRAWS, choose_examples, judged, prepare, trained_on
from mralign.comparison.trial import Prepared, Trials
from mralign.config import Model, Training
from mralign.evaluation.benchmarks import short_answer
from mralign.evaluation.intervals import bootstrap_interval
from mralign.miniworld.__main__ import write_model
from mralign.miniworld.knobs import Knobs
from mralign.rollouts.diversity import draw_diversity
from mralign.rows import SIGNED, Generation, Mode, Polarity
from mralign.run.store import StageDir
from mralign.serving.merging import merge
from mralign.training.alone import score_alone, train_alone
from mralign.training.logprobs import TokenLogProbs
from mralign.training.task_files import Sources

log = logging.getLogger("mralign")
METHOD = "mralign"
CENTRE = {"examples": 64, "negatives": 0.35, "harmful": 3, "irrelevant": 6, "blocks": 5, "noise": 0.1}  # the study's
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
EPOCHS, TUNING_SEED = 2, 0
FEWEST = 16  # examples, a batch: with fewer, or without one of a polarity, a chain ends


@dataclass(frozen=True)
class Policy:
    """A model of a chain of rounds: where it lies, itself, how it answers the training questions, and the share of
    right draws of each dev question, (Q,)."""

    path: str
    model: Any
    logps: TokenLogProbs
    answers: list[Generation]
    dev_Q: np.ndarray


@dataclass(frozen=True)
class RoundChain:
    """What all chains of rounds of a world and a training seed share."""

    prepared: Prepared
    trials: Trials
    knobs: Knobs
    home: Path
    rate: float
    share: float
    seed: int

    @property
    def exam(self) -> Exam:
        return self.trials.exam

    def settings(self, *, reference: Model | None) -> Training:
        """The settings of a training; `reference` None: the model that is trained."""
        given = {"learning_rate": self.rate, "epochs": EPOCHS, "workers": 1, "reference": reference}
        return self.prepared.configs[METHOD].training.model_copy(update=given)

    def base(self) -> Policy:
        """The model before the first round."""
        return self._policy(str(model_path(self.prepared.config.model)), self.trials.base)

    def _policy(self, path: str, logps: TokenLogProbs) -> Policy:
        model = logps.causal
        return Policy(path, model, logps, self._answers(model), self._dev(model))

    def _dev(self, model: Any) -> np.ndarray:
        """The share of right draws of each dev question: every model is asked with the same random numbers."""
        rows = self.exam.ask(model, "dev", draws=DRAWS, seed=70_000 + self.seed)
        right = [bool(short_answer.score(vars(row), {}, self.prepared.config.evaluation)["acc"]) for row in rows]
        names = np.array([row.question_id for row in rows])
        _, place_N = np.unique(names, return_inverse=True)
        return np.bincount(place_N, weights=right) / np.bincount(place_N)

    def _answers(self, model: Any) -> list[Generation]:
        """DRAWS completions of each mode of the training questions."""
        rows: list[Generation] = []
        for mode in Mode:
            rows += self.exam.ask(model, "train", mode=mode, draws=DRAWS, seed=self.knobs.seed)
        return rows

    def sources(self, policy: Policy, *, name: str) -> Sources | None:
        """What the answers of a policy give to train on; None where it is less than a batch, or of one polarity."""
        candidates = choose_examples(policy.answers, knobs=self.knobs, fewer=True)
        if len(candidates) < FEWEST or len({one.polarity for one in candidates}) < len(SIGNED):
            return None
        configs = {METHOD: self.prepared.configs[METHOD]}
        made = trained_on(candidates, knobs=self.knobs, home=self.home / name, mark=name, configs=configs)
        return made[METHOD]

    def train(self, sources: Sources, *, start: Policy, reference: Policy, name: str) -> Policy:
        """Go on from a policy, its reference another one; what comes of it, written down as a model."""
        model = self.prepared.config.model
        told = model.model_copy(update={"path": reference.path})
        settings = self.settings(reference=None if reference is start else told)
        sources = replace(sources, seed=self.seed, settings=settings)
        out = StageDir(f"{self.home}/{name}/reference", stage="reference", fingerprint=name)
        scored = score_alone(replace(sources, model=told), base=reference.logps, out=out)
        begun = replace(scored, model=model.model_copy(update={"path": start.path}))
        trained = train_alone(begun, settings=settings)
        merged = merge(trained.policy.model, kind=settings.dtype)
        place = self.home / name / "model"
        write_model(merged, load_tokenizer(start.path, model=model), out=place)
        return self._policy(str(place), TokenLogProbs(merged))

    def row(self, policy: Policy, *, arm: str, number: int, before: Policy | None, examples: int | None) -> RoundRow:
        """The examination of a policy on test, and its gain on dev over the one before it."""
        rows = self.exam.ask(policy.model, "test", draws=DRAWS, seed=60_000 + self.seed)
        figures = self.exam.figures(rows)
        spread = draw_diversity(rows)
        polarities = [one.polarity for one in judged(policy.answers)]
        config = self.prepared.config
        own, base = (own_logps(one, rows, config=config) for one in (policy.logps, self.trials.base))
        gain, low, high = None, None, None
        if before is not None:
            difference_Q = policy.dev_Q - before.dev_Q
            gain, (low, high) = float(difference_Q.mean()), bootstrap_interval(difference_Q)
        return RoundRow(
            world=self.prepared.world,
            arm=arm,
            seed=self.seed,
            round=number,
            share=self.share,
            rate=self.rate,
            answers_differ=spread.answers,
            thoughts_differ=spread.thoughts,
            kl=divergence(own, base),
            dev_gain=gain,
            dev_low=low,
            dev_high=high,
            positives=polarities.count(Polarity.POSITIVE),
            negatives=polarities.count(Polarity.NEGATIVE),
            examples=examples,
            **figures,
        )


def run_chain(chain: RoundChain, *, rounds: int) -> list[RoundRow]:
    """The base, the first round, and each way to go on from there."""
    base = chain.base()
    rows = [chain.row(base, arm=START, number=0, before=None, examples=None)]
    first = chain.sources(base, name="round-1")
    assert first is not None, "prepare has found enough"
    policy = chain.train(first, start=base, reference=base, name=f"round-1/{chain.seed}")
    rows.append(chain.row(policy, arm=FIRST, number=1, before=base, examples=_size(first)))
    for arm in ARMS:
        rows += _go_on(chain, arm, base=base, policy=policy, old=first, rounds=rounds)
    return rows


def _go_on(chain: RoundChain, arm: str, *, base: Policy, policy: Policy, old: Sources, rounds: int) -> list[RoundRow]:
    rows = []
    for number in range(2, rounds + 1):
        name = f"{arm}-{number}/{chain.seed}"
        sources = old if arm == OLD else chain.sources(policy, name=name)
        if sources is None:
            log.info("%s %s ends before round %d: too few examples", chain.prepared.world, arm, number)
            break
        reference = policy if arm == MOVING else base
        after = chain.train(sources, start=policy, reference=reference, name=name)
        rows.append(chain.row(after, arm=arm, number=number, before=policy, examples=_size(sources)))
        policy = after
    return rows


def _size(sources: Sources) -> int:
    return len(sources.load().reader.index)


def measure_world(
    seed: int, *, seeds: Sequence[int], rounds: int, share: float, cache: Path, file: Path, smaller: float
) -> None:
    """Append what the table of rounds lacks of a world. The rate of every training is a `share` of the one that is
    chosen for the first round on dev."""
    world = f"world-{seed}"
    done = {row.seed for row in read_rounds(file) if row.world == world and row.share == share}
    left = [one for one in seeds if one not in done]
    if not left:
        return
    knobs = Knobs(seed=seed, **CENTRE)  # type: ignore[arg-type]
    prepared = prepare(knobs, world=world, cache=cache, methods=[METHOD], smaller=smaller)
    trials = Trials(prepared)
    points = [Point(world, METHOD, rate, EPOCHS, TUNING_SEED) for rate in RATES]
    tuned = [trials.run(point, split="dev") for point in points]
    rate = share * max(tuned, key=lambda row: row.acc).learning_rate
    for one in left:
        began = time.process_time()
        chain = RoundChain(prepared, trials, knobs, cache / "rounds" / f"{seed}-{one}-{share:g}", rate, share, one)
        append_rounds(file, run_chain(chain, rounds=rounds))
        log.info("%s seed %d: %.0f s of processor time", world, one, time.process_time() - began)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is missing, and draw the page."""
    parser = argparse.ArgumentParser(prog="python -m mralign.comparison.world_rounds", description=__doc__)
    parser.add_argument("--worlds", default="500,501,502,503", help="seeds of worlds")
    parser.add_argument("--seeds", default="1,2,3", help="seeds of trainings")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="of the learning rate that is best for one round")
    parser.add_argument("--smaller", type=float, default=1.0, help="shortens the training of the bases, for tests")
    parser.add_argument("--out", type=Path, default=Path("runs/rounds"), help="where bases and models go")
    parser.add_argument("--rows", type=Path, help="the table of rounds; default: rounds.csv in --out")
    parser.add_argument("--page", type=Path, help="draw the page from the table into this directory; measure nothing")
    given = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    file = given.rows or given.out / "rounds.csv"
    if given.page is not None:
        from mralign.comparison.rounds_page import write_rounds_page

        write_rounds_page(read_rounds(file), out=given.page)
        return
    for world in map(int, given.worlds.split(",")):
        seeds = tuple(map(int, given.seeds.split(",")))
        measure_world(
            world,
            seeds=seeds,
            rounds=given.rounds,
            share=given.share,
            cache=given.out.absolute(),
            file=file,
            smaller=given.smaller,
        )


if __name__ == "__main__":
    main()
