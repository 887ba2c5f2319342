"""`mralign evaluate`: any model, aligned here or not; or two evaluated runs, question by question."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mralign.cli.arguments import DryRun, Settings, TakeOver, complete_suite, listed
from mralign.cli.display import display
from mralign.cli.walk import walk
from mralign.plan import template_dates
from mralign.plan.prediction_runs import configure_predictions
from mralign.plan.suites import configure
from mralign.plan.walking import check_run_directory


def evaluate(
    settings: Settings = None,
    *,
    model: Annotated[
        str | None, typer.Option(metavar="DIR|NAME", help="Model directory or hub name; default: the suite's.")
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(metavar="DIR", help="LoRA adapter directory on top of the model.")
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="A suite by name, or a YAML file; default: miniworld.",
            autocompletion=complete_suite,
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="DIR", help="Where the suite's files lie.")] = None,
    benchmarks: Annotated[
        list[str] | None, typer.Option(metavar="NAME,...", help="Only these benchmarks of the suite.")
    ] = None,
    predictions: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Score these responses, made elsewhere, and ask no model: JSONL (id, question, answers, response), a "
            "JSON log of inspect_ai, or samples of lm-eval. Gold answers: on its lines, or those of --suite.",
        ),
    ] = None,
    dry_run: DryRun = False,
    take_over: TakeOver = False,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="RUN RUN", help="Two run directories, RUN or RUN:METHOD, to compare."),
    ] = None,
    common: Annotated[bool, typer.Option("--common", help="Compare on the questions that both have.")] = False,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the comparison goes; default: in the second run.")
    ] = None,
) -> None:
    """Evaluate any model, aligned here or not; or compare two evaluated runs question by question.

    Stop it at any time, run it again: it goes on where it was. A further benchmark asks its own questions only.
    """
    if compare:
        if settings:
            raise ValueError(f"--compare takes no settings, given {settings}; it compares what is finished")
        from mralign.comparison import runs

        display.result(runs.compare_runs(*compare, common=common, out=out))
        return
    chosen: dict[str, Any] = {"suite": suite, "data": data, "benchmarks": _names(benchmarks)}
    if predictions is None:
        wanted = configure(settings or (), model=model, adapter=adapter, **chosen)
    else:
        _check_no_model(model, adapter)
        wanted = configure_predictions(settings or (), path=predictions, keep=not dry_run, **chosen)
    config = template_dates.settle(wanted)
    check_run_directory(config)
    walk(config, dry_run=dry_run, take_over=take_over)


def _check_no_model(*given: str | None) -> None:
    """Raise ValueError if --model or --adapter is given beside predictions."""
    if any(given):
        raise ValueError("--predictions are scored as they are, and no model is asked; leave --model and --adapter out")


def _names(benchmarks: list[str] | None) -> tuple[str, ...]:
    return listed(benchmarks, option="--benchmarks", of=str, allowed="names") if benchmarks else ()
