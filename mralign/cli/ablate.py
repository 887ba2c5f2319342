"""`mralign ablate`: a table of several trainings, every row a run of its own, all in one run directory."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Annotated

import typer

from mralign.cli.arguments import DryRun, Preset, Settings, TakeOver, complete_table
from mralign.cli.display import display
from mralign.comparison import run_tables
from mralign.config import RunConfig, to_yaml
from mralign.plan import pipeline, plan_text, template_dates
from mralign.plan.walking import check_run_directory, check_trains
from mralign.presets import PRESETS, TABLES
from mralign.report.result_tables import comparison_sheet, result_sheet, result_table, write_tables
from mralign.report.sheets import to_text
from mralign.report.wording import aligned
from mralign.run import held, lease, local_ray
from mralign.run.store import Directory, absolute


def ablate(
    settings: Settings = None,
    *,
    table: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE", help="main, ablation, lambda, or a YAML file.", autocompletion=complete_table
        ),
    ],
    preset: Preset = "miniworld",
    dry_run: DryRun = False,
    published: Annotated[bool, typer.Option("--published", help="Add the paper's figures as rows.")] = False,
    take_over: TakeOver = False,
) -> None:
    """A table of several trainings: every row a run of its own, all in one run directory, and one table of the results.

    Stages that rows have in common (rollouts, annotation, references, the base's evaluation) are run once. Stop it at
    any time, run it again: it goes on where it was. The table is printed and written to RUN/tables/TABLE/.
    """
    wanted = run_tables.read_table(table, tables_dir=TABLES)
    rows = run_tables.configure(wanted, preset=preset, overrides=settings or (), presets_dir=PRESETS)
    rows = {name: template_dates.settle(config) for name, config in rows.items()}
    first = next(iter(rows.values()))
    check_run_directory(first)
    check_trains(first)
    if first.run.rounds > 1:
        raise ValueError(f"run.rounds={first.run.rounds}: every row of a table is one round; leave it out")
    # All are checked before any is run.
    plans = {name: pipeline.plan(config, dry_run=dry_run) for name, config in rows.items()}
    if dry_run:
        plan = plan_text.describe(first, plans[next(iter(rows))])
        display.result(f"{plan}\n\ntable {wanted.name}, row by row\n{run_tables.describe(plans)}")
        return
    home = Directory(f"{absolute(first.run.dir)}/tables/{wanted.name}")
    with lease.hold(first.run.dir, take_over=take_over), display.running(first.run.dir), held.holding():
        run_rows(rows, home=home)  # a row asks the engines that the last one started
        display.result(publish(wanted, rows, home=home, with_published=published))


def run_rows(rows: Mapping[str, RunConfig], *, home: Directory) -> None:
    """Run what is not finished of every row, one after the other; each row's configuration lies beside the table."""
    first = next(iter(rows))
    for (name, config), file in zip(rows.items(), row_files(rows), strict=True):
        home.write_text(file, to_yaml(config))
        # Planned anew: what the rows before have sealed is skipped.
        # The rows differ from each other by design: only the first is explained against what was there before.
        start = partial(local_ray.start, config, hears_workers=True)
        pipeline.run(config, pipeline.plan(config), start_ray=start, explain=name == first, title=f"row {name}")


def row_files(names: Iterable[str]) -> list[str]:
    """Where the configurations of the rows lie in the directory of the table."""
    plain = [re.sub(r"[^A-Za-z0-9.]+", "-", name.replace("λ", "lambda")).strip("-.") for name in names]
    return [f"rows/{number}-{name}.yaml" for number, name in enumerate(plain, 1)]


def publish(
    table: run_tables.TableFile, rows: Mapping[str, RunConfig], *, home: Directory, with_published: bool
) -> str:
    """Write the table and return the text that ends the job."""
    reference = table.reference or next(iter(rows))
    settings = rows[reference].evaluation
    measured = run_tables.collect(rows)
    samples = settings.bootstrap_samples
    found = run_tables.differences(measured, reference=reference, level=settings.level, samples=samples)
    result = result_table({name: m.figures for name, m in measured.items()}, with_published=with_published)
    scores = {name: m.place for name, m in measured.items()}  # below the run directory
    more = {"table": table.name, "reference": reference, "level": settings.level, "scores": scores}
    write_tables(home, table=result, comparisons=found, more=more)
    interval = f"[{100 * settings.level:g}% CI]"
    parts = [f"table {table.name} {interval}\n{to_text(result_sheet(result))}"]
    if found:
        parts.append(f"paired differences {interval}, minus {reference}\n{to_text(comparison_sheet(found))}")
    return "\n\n".join([*parts, closing(rows, home=home)])


def closing(names: Iterable[str], *, home: Directory) -> str:
    """Where the table lies, and what to do next: each row's configuration runs by itself, and all it needs is there."""
    places = [("table", f"{home.uri}/table.md"), ("", f"{home.uri}/table.tex"), ("", f"{home.uri}/table.json")]
    example = shlex.quote(f"{home.uri}/{row_files(names)[0]}")
    return aligned(
        [
            *places,
            ("next", f"mralign align --preset {example}   (writes the report of that row; likewise the others)"),
            ("", "another table in the same run directory shares its rollouts and annotations: --table FILE"),
        ]
    )
