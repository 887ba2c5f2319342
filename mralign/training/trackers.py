"""Where metrics go beside metrics.jsonl: TensorBoard, Weights & Biases, MLflow, each if asked for and installed.

Rows of figures enter as they are made, on rank 0 only; what a tracker keeps leaves by its own ways: TensorBoard's files
into the run directory, the others to where their own environment variables say (WANDB_*, MLFLOW_*). Keys are read by
those libraries from the environment and never pass through here.

TensorBoard and MLflow get their rows at checkpoints: a run that is killed keeps its curves up to the last one, and what
is made again after it is not there twice. W&B gets them at once. A tracker that is lost does not end a training.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mralign.config import Training
from mralign.run.stage import log as logger
from mralign.run.store import StageDir

_PROJECT = "mralign"  # unless WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME says otherwise
_KEYS = ("step", "of")
_TOLD = ("model", "transitions", "weights", "examples", "training")  # endpoints and questions may be private
_MLFLOW_BATCH = 1000  # metrics that MLflow takes in one request

Row = tuple[int, float, dict[str, float]]  # step, time, figures


@dataclass(frozen=True)
class Tracker:
    """How a row is written, what a checkpoint makes safe, how the end is told."""

    name: str
    log: Callable[[Row], None]
    flush: Callable[[], None]
    close: Callable[[], None]
    lost: tuple[type[Exception], ...] = ()  # what its library raises when its service cannot be reached


@dataclass(frozen=True)
class Trackers:
    """All trackers of a training; none on ranks other than 0."""

    opened: list[Tracker]

    @staticmethod
    def open(settings: Training, *, out: StageDir, config: dict[str, Any], active: bool) -> Trackers:
        """Open what `training.trackers` names. The run's name is the fingerprint of the stage: a training that goes on
        goes on in the same run."""
        kinds = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}
        told = {name: config[name] for name in _TOLD}
        opened = []
        for name in settings.trackers if active else ():
            try:
                opened.append(kinds[name](out, told))
            except _lost(name) as error:
                logger.warning("training begins without %s (metrics.jsonl has all rows): %s", name, error)
        return Trackers(opened)

    def log(self, row: dict[str, float]) -> None:
        """Write one row of metrics under its step."""
        figures = {name: float(value) for name, value in row.items() if name not in _KEYS}
        self._each(lambda tracker: tracker.log((int(row["step"]), time.time(), figures)))

    def flush(self) -> None:
        """Make safe what was logged; call at every checkpoint, before it is reported."""
        self._each(lambda tracker: tracker.flush())

    def close(self) -> None:
        self._each(lambda tracker: tracker.close())

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for tracker in list(self.opened):
            try:
                act(tracker)
            except tracker.lost as error:
                self.opened.remove(tracker)
                logger.warning("training goes on without %s (metrics.jsonl has all rows): %s", tracker.name, error)


def _lost(name: str) -> tuple[type[Exception], ...]:
    """What the library of a tracker raises when its service cannot be reached or refuses us."""
    if name == "wandb":
        import wandb

        return wandb.Error, OSError
    if name == "mlflow":
        from mlflow import MlflowException

        return MlflowException, OSError
    return (OSError,)  # of the disk that TensorBoard's files go to


def _tensorboard(out: StageDir, told: dict[str, Any]) -> Tracker:
    """One event file a checkpoint, named by its first step: made again, it takes its own place."""
    from tensorboardX import SummaryWriter

    rows: list[Row] = []

    def flush() -> None:
        if not rows:
            return
        with tempfile.TemporaryDirectory() as directory:
            writer = SummaryWriter(directory)
            for step, at, figures in rows:
                for name, value in figures.items():
                    writer.add_scalar(f"training/{name}", value, step, walltime=at)
            writer.close()
            (events,) = Path(directory).iterdir()
            out.write_bytes(f"tensorboard/events.out.tfevents.{rows[0][0]:010d}", events.read_bytes())
        rows.clear()

    return Tracker("tensorboard", rows.append, flush=flush, close=flush, lost=_lost("tensorboard"))


def _wandb(out: StageDir, told: dict[str, Any]) -> Tracker:
    import wandb

    project = os.environ.get("WANDB_PROJECT", _PROJECT)
    place = hashlib.sha256(out.uri.encode()).hexdigest()[:6]  # equal settings elsewhere are another run
    run = wandb.init(project=project, id=f"{out.fingerprint}-{place}", resume="allow", config=told)
    return Tracker(
        "wandb",
        lambda row: run.log(row[2], step=row[0]),
        flush=lambda: None,  # it writes to its own disk at once and sends from there
        close=run.finish,
        lost=_lost("wandb"),
    )


def _mlflow(out: StageDir, told: dict[str, Any]) -> Tracker:
    """The client, not the fluent interface: that one's run belongs to a thread."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient()
    run_id, new = _mlflow_run(client, out.fingerprint)
    if new:  # a parameter cannot change in MLflow, and some may when a training goes on
        params = [Param(f"training.{name}", str(value)[:500]) for name, value in told["training"].items()]
        client.log_batch(run_id, params=params)
    metrics: list[Metric] = []

    def log(row: Row) -> None:
        step, at, figures = row
        metrics.extend(Metric(name, value, int(at * 1000), step) for name, value in figures.items())

    def flush() -> None:
        for start in range(0, len(metrics), _MLFLOW_BATCH):
            client.log_batch(run_id, metrics=metrics[start : start + _MLFLOW_BATCH])
        metrics.clear()

    def close() -> None:
        flush()
        client.set_terminated(run_id)

    return Tracker("mlflow", log, flush=flush, close=close, lost=_lost("mlflow"))


def _mlflow_run(client: Any, name: str) -> tuple[str, bool]:
    """The id of the run of that name, and whether it was made now."""
    title = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
    experiment = client.get_experiment_by_name(title)
    identity = experiment.experiment_id if experiment else client.create_experiment(title)
    found = client.search_runs([identity], f"attributes.run_name = '{name}'", max_results=1)
    if not found:
        return client.create_run(identity, run_name=name).info.run_id, True
    client.update_run(found[0].info.run_id, status="RUNNING")
    return found[0].info.run_id, False
