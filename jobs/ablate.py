"""A table of several trainings: every row a run of its own, all in one run directory, and one table of the results.

    python jobs/ablate.py --table main|ablation|lambda|FILE [--preset NAME|FILE] [--dry-run] [section.field=value ...]

Stages that rows have in common (rollouts, annotation, references, the base's evaluation) are run once. Stop it at any
time, run it again: it goes on where it was. The table is printed and written to `<run.dir>/tables/<table>/`.
"""

from __future__ import annotations

import argparse
import logging
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from mralign.run import interruption  # noqa: E402

if __name__ == "__main__":
    interruption.listen()  # before the imports that take their time

from align import check_run_directory, check_trains, guarded, job_parser, start_ray  # noqa: E402

from mralign.comparison import run_tables  # noqa: E402
from mralign.config import RunConfig, to_yaml  # noqa: E402
from mralign.plan import pipeline, plan_text, template_dates  # noqa: E402
from mralign.report.result_tables import comparison_sheet, result_sheet, result_table, write_tables  # noqa: E402
from mralign.report.sheets import to_text  # noqa: E402
from mralign.report.wording import aligned  # noqa: E402
from mralign.run import held, lease  # noqa: E402
from mralign.run.store import Directory, absolute  # noqa: E402

log = logging.getLogger("mralign")


def main(arguments: list[str] | None = None) -> int:
    return guarded(lambda: run(_parser().parse_intermixed_args(arguments)))


def run(args: argparse.Namespace) -> None:
    """Plan every row, run them one after the other, and print their table."""
    table = run_tables.read_table(args.table, tables_dir=HERE / "presets" / "tables")
    rows = run_tables.configure(table, preset=args.preset, overrides=args.overrides, presets_dir=HERE / "presets")
    rows = {name: template_dates.settle(config) for name, config in rows.items()}
    first = next(iter(rows.values()))
    check_run_directory(first)
    check_trains(first)
    # All are checked before any is run.
    plans = {name: pipeline.plan(config, dry_run=args.dry_run) for name, config in rows.items()}
    if args.dry_run:
        print(f"{plan_text.describe(first, plans[next(iter(rows))])}\n\ntable {table.name}, row by row")
        print(run_tables.describe(plans))
        return
    home = Directory(f"{absolute(first.run.dir)}/tables/{table.name}")
    with lease.hold(first.run.dir, take_over=args.take_over), held.holding():
        run_rows(rows, home=home)  # a row asks the engines that the last one started
        print(publish(table, rows, home=home, with_published=args.published))


def run_rows(rows: Mapping[str, RunConfig], *, home: Directory) -> None:
    """Run what is not finished of every row, one after the other; each row's configuration lies beside the table."""
    first = next(iter(rows))
    for (name, config), file in zip(rows.items(), row_files(rows), strict=True):
        log.info("row %s", name)
        home.write_text(file, to_yaml(config))
        # Planned anew: what the rows before have sealed is skipped.
        # The rows differ from each other by design: only the first is explained against what was there before.
        pipeline.run(config, pipeline.plan(config), start_ray=partial(start_ray, config), explain=name == first)


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
            ("next", f"python jobs/align.py --preset {example}   (writes the report of that row; likewise the others)"),
            ("", "another table in the same run directory shares its rollouts and annotations: --table FILE"),
        ]
    )


def _parser() -> argparse.ArgumentParser:
    parser = job_parser(__doc__)
    parser.add_argument("--table", required=True, help="main, ablation, lambda, or a YAML file of your own")
    parser.add_argument("--dry-run", action="store_true", help="print what every row will run and stop")
    parser.add_argument("--published", action="store_true", help="the paper's figures as rows below one's own")
    return parser


if __name__ == "__main__":
    sys.exit(main())
