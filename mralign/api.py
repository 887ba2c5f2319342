"""What `import mralign` offers of whole runs: align, evaluate, compare, export.

A configuration enters (the name of a preset, a YAML file, a dictionary, a RunConfig); a `Result` leaves, with the
places of all that was made and the figures of the tables. The commands of the same names do the same; here, what is
wrong is a ValueError of one sentence, and progress goes to the logger `mralign`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mralign.comparison.runs import paired_rows
from mralign.config import RunConfig, to_yaml
from mralign.plan import pipeline, template_dates
from mralign.plan.named_config import Configuration, load_config
from mralign.plan.prediction_runs import configure_predictions
from mralign.plan.round_config import check_rounds
from mralign.plan.round_loop import walk_rounds
from mralign.plan.suites import configure
from mralign.plan.walking import Walked, check_run_directory, check_trains, walk
from mralign.report.findings import finished, merged_metrics, survey
from mralign.run import local_ray
from mralign.run.store import Directory, absolute

if TYPE_CHECKING:
    from mralign.exchange.dataset import ExportedSet


@dataclass(frozen=True)
class Result:
    """What a run has made: absolute paths or URIs, and the figures of its tables.

    `figures` is {method: {benchmark: figures}}, as evaluation/metrics.json has it; shares lie in [0, 1]. `adapter` and
    `model` are None where nothing was trained, `adapter` also under tuning=full.
    """

    run: str
    report: str
    figures: Mapping[str, Mapping[str, Mapping[str, Any]]]
    adapter: str | None
    model: str | None
    text: str  # the last lines that the command prints

    def table(self) -> list[dict[str, Any]]:
        """The figures as rows, one a method and benchmark, e.g. for `pandas.DataFrame(result.table())`."""
        rows = []
        for method, benchmarks in self.figures.items():
            rows += [{"method": method, "benchmark": name, **figures} for name, figures in benchmarks.items()]
        return rows


def align(
    config: Configuration,
    *,
    overrides: Sequence[str] = (),
    until: str | None = None,
    only: str | None = None,
    take_over: bool = False,
) -> Result:
    """Run the whole method, from questions to an aligned model and a report (docs/method.md §1 to §6).

    `config` and `overrides` as in `load_config`. What is finished in `run.dir` is not done again, so a call that was
    interrupted goes on when it is repeated. `until` stops after a stage, `only` does a stage and those that it stands
    on; `take_over` ends another driver that writes into the same directory. A cluster that this process belongs to
    (RAY_ADDRESS, or ray.init before) is used, else a local Ray is started and stopped. Of several rounds (`run.rounds`)
    the result is the one that is kept. Raises ValueError for a wrong configuration, and for all that the user can mend.

    >>> import mralign
    >>> result = mralign.align("miniworld", overrides=["run.dir=runs/first"])  # doctest: +SKIP
    >>> result.figures["mralign"]["miniworld"]["acc"], result.model  # doctest: +SKIP
    """
    settled = template_dates.settle(load_config(config, overrides=overrides))
    check_trains(settled)
    return _done(settled, until=until, only=only, take_over=take_over)


def evaluate(
    model: str | None = None,
    *,
    adapter: str | None = None,
    suite: str | None = None,
    data: str | None = None,
    benchmarks: Sequence[str] | None = None,
    predictions: str | None = None,
    overrides: Sequence[str] = (),
    take_over: bool = False,
) -> Result:
    """Evaluate a model on a suite, or responses that were made elsewhere (docs/method.md §6).

    `model`: a directory or a name on the hub, None for the suite's; `adapter`: a LoRA adapter on top. `suite`: a name
    (miniworld, quick, paper) or a YAML file; `data`: where its files lie; `benchmarks`: only these of it.
    `predictions`: a file of responses, in place of a model (mralign/evaluation/prediction_files.py says which forms are
    read); their gold answers stand on its lines, or are those of `suite`. Raises ValueError for all that the user can
    mend, by the line where a line is wrong.

    >>> import mralign
    >>> result = mralign.evaluate("Qwen/Qwen3-8B", suite="paper", data="data")  # doctest: +SKIP
    >>> mine = mralign.evaluate(predictions="mine.jsonl")  # doctest: +SKIP
    >>> mralign.compare(mine.run, result.run, common=True)  # doctest: +SKIP
    """
    if predictions is None:
        config = configure(overrides, model=model, adapter=adapter, suite=suite, data=data, benchmarks=benchmarks)
    elif model or adapter:
        raise ValueError("predictions are scored as they are, and no model is asked; leave model and adapter out")
    else:
        config = configure_predictions(overrides, path=predictions, suite=suite, data=data, benchmarks=benchmarks)
    return _done(template_dates.settle(config), until=None, only=None, take_over=take_over)


def compare(a: str, b: str, *, common: bool = False) -> list[dict[str, Any]]:
    """Two evaluated runs, question by question: `b` minus `a` (docs/method.md §6, paired comparison).

    `a`, `b`: run directories, RUN or RUN:METHOD; without a method it is the trained model thinking, else the base. One
    dictionary a benchmark and measure leaves: dataset, measure, a (mean of `b`'s method), b (of the reference),
    difference, ci, p, p_holm, n. `common` compares on the questions that both have. Raises ValueError for a directory
    without evaluation, for questions that differ, and for no benchmark in common.

    >>> import mralign
    >>> mralign.compare("runs/first:base_think_on", "runs/first")  # doctest: +SKIP
    """
    return paired_rows(a, b, common=common)[2]


def export(run: str, *, to: str) -> ExportedSet:
    """Write candidates, annotations, rollouts and weighted examples of a run as a data set that `datasets` loads.

    `run`: the directory of a run that has come to its examples; `to`: a new or empty directory. The examples have
    TRL's unpaired form (prompt, completion, label) and `weights`, one a token (docs/method.md §4). Raises ValueError
    for a run that is not so far, for a directory that holds something, and for a model whose tokenizer cannot be
    loaded.

    >>> import mralign
    >>> mralign.export("runs/first", to="first-examples").rows["examples"]  # doctest: +SKIP
    """
    from mralign.exchange.dataset import export_dataset  # it loads torch

    return export_dataset(run, to=to)


def _done(config: RunConfig, *, until: str | None, only: str | None, take_over: bool) -> Result:
    """Walk a run and say what it has made. A Ray that was not there before is ended."""
    check_run_directory(config)
    several = config.trains and config.run.rounds > 1
    if several:
        check_rounds(config, until=until, only=only)
    planned = pipeline.plan(config, until=until, only=only)
    there = local_ray.is_running()
    try:
        if several:
            walked = walk_rounds(config, take_over=take_over)
        else:
            walked = walk(config, planned, take_over=take_over, whole=not (until or only))
    finally:
        if not there:
            local_ray.stop()
    return _result(walked)


def _result(walked: Walked) -> Result:
    config = walked.config
    acts = survey(walked.planned)
    training = finished(acts, "training")
    adapter = training is not None and config.training.tuning != "full"
    return Result(
        run=absolute(config.run.dir),
        report=f"{_page_home(config)}/report/index.html",
        figures=merged_metrics(acts),
        adapter=f"{training.uri}/adapter" if training is not None and adapter else None,
        model=None if training is None else f"{training.uri}/model",
        text=walked.text,
    )


def _page_home(config: RunConfig) -> str:
    """Where the page of this configuration lies: an unfinished run does not replace the page of a finished one."""
    run, text = absolute(config.run.dir), to_yaml(config)
    for home in (run, f"{run}/unfinished"):
        place = Directory(home)
        if place.exists("config.yaml") and place.read_text("config.yaml") == text:
            return home
    return run
