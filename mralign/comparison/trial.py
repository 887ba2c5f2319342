"""One trial: a training from the base of a prepared world, and the examination of what it has become.

A `Prepared` world and a `Point` enter, a row of the table of runs leaves. Everything is in this process: for models
this small a start of Ray, DeepSpeed or vLLM takes longer than the trial (`training/alone.py`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from mralign.chat.model_files import model_path
from mralign.comparison.exam import Exam, calibration_error, divergence, own_logps
from mralign.comparison.run_rows import BASE, Point, RunRow
from mralign.config import RunConfig
from mralign.rows import Mode
from mralign.run.store import StageDir, fingerprint
from mralign.serving.merging import merge
from mralign.training.alone import score_alone, train_alone
from mralign.training.engine import prepare_process
from mralign.training.logprobs import TokenLogProbs
from mralign.training.objectives import find, source_digest
from mralign.training.policy import base_policy
from mralign.training.task_files import Sources

SAMPLING_SEED = 50_000  # of an exam; a training seed is added, so that two trainings are not asked with one stream
OTHER = "other"  # the split of questions unlike those that were trained on


@dataclass(frozen=True)
class Prepared:
    """A world with all that trainings need. `identity` names the world and how its examples were made; `sources` and
    `configs` are by method, `tables` (schema QUESTIONS) by split."""

    world: str
    identity: str
    config: RunConfig
    tables: Mapping[str, pa.Table]
    configs: Mapping[str, RunConfig]
    sources: Mapping[str, Sources]

    def mark(self, method: str) -> str:
        """What a result of the method stands on, apart from its point. Settings at their defaults do not count: a new
        setting leaves old results as they are."""
        settings: list[Any] = [self.config.evaluation.model_dump(mode="json", exclude_defaults=True)]
        stages = {}
        if method != BASE:
            config, sources = self.configs[method], self.sources[method]
            tuned = {"learning_rate", "epochs"}
            settings.append(config.training.model_dump(mode="json", exclude_defaults=True, exclude=tuned))
            settings.append(source_digest(config.training.method))
            stages["examples"] = sources.examples.fingerprint
            if sources.weights is not None:
                settings.append(config.weights.model_dump(mode="json", exclude_defaults=True))
                stages["weights"] = sources.weights.fingerprint
        inputs = {"world": self.identity}
        return fingerprint(stage="trial", version=1, config=settings, upstream=stages, inputs=inputs)[:12]


class Trials:
    """Trials on one world: its base and its prompts are loaded once."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared, config = prepared, prepared.config
        prepare_process(config.training)
        self.exam = Exam(config, path=str(model_path(config.model)), tables=prepared.tables)
        self.base: TokenLogProbs = base_policy(config.model, config.training)
        self._with_reference: dict[tuple[Any, ...], Sources] = {}

    def of_base(self) -> RunRow:
        """The model before training, on test."""
        point = Point(self.prepared.world, BASE, 0.0, 0, 0)
        return self._row(point, split="test", policy=self.base, model=self.base.causal)

    def run(self, point: Point, *, split: str) -> RunRow:
        """Train once and examine: on dev what a choice needs, on test everything."""
        began = time.monotonic()
        settings = self.prepared.configs[point.method].training.model_copy(
            update={"learning_rate": point.learning_rate, "epochs": point.epochs, "workers": 1}
        )
        trained = train_alone(self._sources(point), settings=settings)
        merged = merge(trained.policy.model, kind=settings.dtype)
        row = self._row(point, split=split, policy=TokenLogProbs(merged), model=merged)
        return replace(row, steps=trained.steps, seconds=round(time.monotonic() - began, 2))

    def _sources(self, point: Point) -> Sources:
        """The method's sources under this seed, with a reference where its objective has one."""
        sources = replace(self.prepared.sources[point.method], seed=point.seed)
        settings = sources.settings.model_copy(update={"epochs": point.epochs})
        sources = replace(sources, settings=settings)
        objective = find(settings.method)
        if not objective.reference:
            return sources
        key = (sources.examples.uri, point.seed, point.epochs, objective.pairs, objective.negatives)
        if key not in self._with_reference:
            name = f"{point.seed}-{point.epochs}-{settings.method}"
            out = StageDir(f"{sources.examples.uri}/reference/{name}", stage="reference", fingerprint=name)
            self._with_reference[key] = score_alone(sources, base=self.base, out=out)
        return replace(sources, reference=self._with_reference[key].reference)

    def _row(self, point: Point, *, split: str, policy: TokenLogProbs, model: Any) -> RunRow:
        exam, config, seed = self.exam, self.prepared.config, SAMPLING_SEED + point.seed
        draws = config.evaluation.draws
        on = exam.ask(model, split, draws=draws, seed=seed)
        figures: dict[str, Any] = exam.figures(on)
        if split == "test":
            own, before = (own_logps(one, on, config=config) for one in (policy, self.base))
            figures["kl"] = divergence(own, before)
            figures["ece"] = calibration_error(on, own, config=config)
            off = exam.ask(model, split, mode=Mode.OFF, draws=draws, seed=seed)
            figures["off_acc"] = exam.figures(off)["acc"]
            if OTHER in self.prepared.tables:
                other = exam.ask(model, OTHER, draws=draws, seed=seed)
                figures["other_acc"] = exam.figures(other)["acc"]
        return RunRow(**vars(point), split=split, mark=self.prepared.mark(point.method), **figures)
