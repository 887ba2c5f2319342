"""Every method on the same worlds, each at its own best learning rate and length, chosen on dev.

Run directories whose stages up to `reference` are sealed enter; one result a checkpoint leaves, as it is made. Many
small checkpoints are served by ONE vLLM engine, in which the weights are exchanged in place (`serving/warm.py`): it
answers nothing unless its log-probabilities of a probe are the trainer's.

Training is the loop of `training/loop.py` on one worker, whose result does not depend on the number of workers. It is
not the stage `training`, whose workers and exports cost more than such a small training itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mralign.comparison.choice import METHODS, Point
from mralign.config import Evaluation, Model, RunConfig, parse, resolve_path
from mralign.evaluation.benchmarks import short_answer
from mralign.plan import pipeline
from mralign.rows import Request, from_table
from mralign.rows.schema import QUESTIONS
from mralign.run.digests import digest
from mralign.run.placement import actor_options
from mralign.run.store import StageDir, absolute, fingerprint
from mralign.serving.requests import Sampling, build_requests, sampling_of_evaluation
from mralign.serving.streaming import engine_workers
from mralign.serving.vllm import worker_environment
from mralign.serving.warm import KeptEngine
from mralign.training.alone import train_alone
from mralign.training.reference import shelf_dir
from mralign.training.task_files import Sources

SETTING = ("world", "method", "learning_rate", "epochs", "mark")  # columns that say what a result is of


def setting_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a result is of: world, method, learning rate, epochs, and the mark of what it stands on."""
    return tuple(row.get(name) for name in SETTING)


@dataclass(frozen=True)
class Prepared:
    """A world whose road is walked up to the reference: configuration, questions' stage and what training needs."""

    config: RunConfig
    questions: StageDir
    sources: Mapping[str, Sources]  # by method

    def mark(self, method: str | None = None) -> str:
        """What a result of the method (None: of the base model) stands on, apart from learning rate and epochs."""
        sources = self.sources[method] if method else None
        parts = [sources.examples, sources.weights, sources.reference] if sources else []
        stages = {str(n): part.fingerprint for n, part in enumerate(parts) if part is not None}
        settings = sources.settings.model_dump(exclude={"learning_rate", "epochs"}) if sources else None
        evaluation = self.config.evaluation.model_dump(mode="json")
        model = {"model": digest(resolve_path(self.config.model.path)), "questions": self.questions.fingerprint}
        return fingerprint(stage="result", version=2, config=[settings, evaluation], upstream=stages, inputs=model)


def variant(config: RunConfig, changes: Mapping[str, Mapping[str, Any]]) -> RunConfig:
    """`config` with some sections' fields replaced, checked anew."""
    values = config.model_dump(mode="json")
    for section, fields in changes.items():
        values[section].update(fields)
    return parse(values)


def prepare(config: RunConfig, *, methods: Sequence[str], start_ray: Callable[[], None]) -> Prepared:
    """Walk the road up to `reference` for the base method, then the weights of every variant."""
    last = {"sft": "examples", "kto": "reference"}
    sources = {}
    for method in methods:
        changed = variant(config, METHODS[method])
        planned = pipeline.plan(changed, until=last.get(changed.training.method, "reference"))
        planned = pipeline.run(changed, planned, start_ray=start_ray)
        out = {item.stage.name: item.out for item in planned}
        sources[method] = Sources(
            settings=changed.training,
            model=changed.model,
            seed=changed.run.seed,
            examples=out["examples"],
            weights=out.get("weights"),
            reference=out.get("reference"),
            shelf=shelf_dir(absolute(changed.run.dir)),
        )
    return Prepared(config, out["questions"], sources)


class Trainer:
    """An actor that trains one checkpoint after the other, each to a merged model directory."""

    def train(self, sources: Sources, learning_rate: float, epochs: int, target: str) -> dict[str, Any]:
        changes: dict[str, Any] = {
            "learning_rate": learning_rate,
            "epochs": epochs,
            "workers": 1,
            "checkpoint_every": 10**9,
        }
        settings = sources.settings.model_copy(update=changes)
        return train_alone(sources, settings=settings, target=Path(target))


def metrics_by_mode(
    rows: Sequence[Mapping[str, Any]], *, modes: Sequence[str], settings: Evaluation
) -> dict[str, dict[str, Any]]:
    """Metrics of the generations of each mode, which is also the name of their method."""
    found = {}
    for mode in modes:
        scores = [{**row, **short_answer.score(row, {}, settings)} for row in rows if row["mode"] == mode]
        found[mode] = short_answer.figures(scores, samples=settings.bootstrap_samples, level=settings.level)
    return found


class Server:
    """An actor with one engine, into which one checkpoint after the other is loaded. It starts with the base model."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.engine = KeptEngine(sampling=self._sampling(config.model))

    def _sampling(self, model: Model, *, probe: str = "") -> Sampling:
        return sampling_of_evaluation(self.config, model=model, methods=("think_on", "think_off"), probe=probe)

    async def load(self, directory: str) -> float:
        """Serve the model in `directory`; return the mean difference of its probe's log-probabilities.

        Raises RuntimeError if the engine does not serve what was trained.
        """
        model = self.config.model.model_copy(update={"path": directory, "adapter": None})
        fault, told = await self.engine.take(self._sampling(model, probe=directory))
        if fault is not None:
            raise RuntimeError(f"{directory}: {fault}")
        return float(told["served_minus_trained_logp"])

    async def evaluate(self, questions: StageDir, split: str, modes: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Metrics by mode on one split of the questions."""
        settings = self.config.evaluation
        table = questions.read_parts(questions.parts(split), schema=QUESTIONS)
        requests = build_requests(table, modes=modes, draws=settings.draws, seed=self.config.run.seed + 1)
        done = await self.engine.complete(from_table(requests, Request))
        if done.rejects:
            raise RuntimeError(f"{len(done.rejects)} questions of {split} could not be asked: {done.rejects[0]}")
        return metrics_by_mode([vars(row) for row in done.rows], modes=modes, settings=settings)


def start_server(prepared: Prepared) -> Any:
    """A remote Server of this world's models."""
    import ray

    engine = prepared.config.engine
    place = actor_options(engine_workers(engine))
    environment = {"env_vars": worker_environment(engine)}
    return ray.remote(Server).options(**place, runtime_env=environment).remote(prepared.config)


def end_server(server: Any) -> None:
    """End the process of a remote Server."""
    import ray

    ray.kill(server)


def start_trainers(count: int) -> list[Any]:
    """So many remote Trainers, one CPU each."""
    import ray

    return [ray.remote(Trainer).options(num_cpus=1).remote() for _ in range(count)]


def evaluate_base(
    prepared: Prepared,
    *,
    world: int,
    server: Any,
    done: Sequence[Mapping[str, Any]],
    write: Callable[[dict[str, Any]], None],
) -> None:
    """The base on test, unless `done` holds it. No checkpoint may have been loaded into the server yet."""
    import ray

    row = {"world": world, "learning_rate": None, "epochs": None, "mark": prepared.mark()}
    first = {**row, "method": "base_think_on"}
    if setting_of(first) in map(setting_of, done):
        return
    measured = ray.get(server.evaluate.remote(prepared.questions, "test", ["off", "on"]))
    for mode in ("off", "on"):
        write({**row, "method": f"base_think_{mode}", "split": "test", "metrics": measured[mode]})


def run_grid(
    points: Sequence[Point],
    prepared: Mapping[int, Prepared],
    *,
    server: Any,
    trainers: Sequence[Any],
    work: Path,
    write: Callable[[dict[str, Any]], None],
) -> None:
    """Train every point on the next free trainer, evaluate it on dev, keep its model until the choice is made."""
    import ray

    for point, info in _trained(points, prepared, trainers=trainers, work=work):
        target = work / point.key
        difference = ray.get(server.load.remote(str(target)))
        found = ray.get(server.evaluate.remote(prepared[point.world].questions, "dev", ["on"]))
        write(
            {
                "split": "dev",
                "world": point.world,
                "method": point.method,
                "learning_rate": point.learning_rate,
                "epochs": point.epochs,
                "mark": prepared[point.world].mark(point.method),
                "metrics": found["on"],
                "probe_difference": difference,
                **info,
            }
        )


def _trained(
    points: Sequence[Point], prepared: Mapping[int, Prepared], *, trainers: Sequence[Any], work: Path
) -> Iterator[tuple[Point, dict[str, Any]]]:
    import ray

    left, busy = list(points), {}

    def start(actor: Any) -> None:
        if left:
            point = left.pop(0)
            sources, target = prepared[point.world].sources[point.method], str(work / point.key)
            busy[actor.train.remote(sources, point.learning_rate, point.epochs, target)] = (point, actor)

    for actor in trainers:
        start(actor)
    while busy:
        ready, _ = ray.wait(list(busy), num_returns=1)
        point, actor = busy.pop(ready[0])
        start(actor)
        yield point, ray.get(ready[0])


def evaluate_choices(
    prepared: Prepared,
    chosen: Mapping[tuple[int, str], Mapping[str, Any]],
    *,
    world: int,
    server: Any,
    trainers: Sequence[Any],
    work: Path,
    done: Sequence[Mapping[str, Any]],
    write: Callable[[dict[str, Any]], None],
) -> None:
    """Every method's dev choice, once on test; what `done` holds for the same setting is not repeated."""
    import ray

    tested = set(map(setting_of, done))
    for row in chosen.values():
        if setting_of(row) in tested:
            continue
        point = Point(world, row["method"], row["learning_rate"], row["epochs"])
        target = str(work / point.key)
        if not (work / point.key / "model.safetensors").exists():  # chosen in an earlier comparison: train it again
            sources = prepared.sources[point.method]
            ray.get(trainers[0].train.remote(sources, point.learning_rate, point.epochs, target))
        ray.get(server.load.remote(target))
        measured = ray.get(server.evaluate.remote(prepared.questions, "test", ["on"]))
        kept = {name: row[name] for name in SETTING}
        write({**kept, "split": "test", "metrics": measured["on"]})
