"""A whole comparison: the worlds prepared, every checkpoint of the grid measured, and the table of the choices.

A `Comparison` enters, the text of its table leaves. Every result is a line of results.jsonl in its directory as soon as
it is there, and is not measured again.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from functools import partial
from typing import Any

from mralign.comparison import choice, stage, worlds
from mralign.comparison.worlds import Comparison
from mralign.run import local_ray

log = logging.getLogger("mralign")


def run(comparison: Comparison) -> str:
    """Build the worlds that are missing, measure, write the table, and return the text that ends the command."""
    out = comparison.out
    worlds.build_worlds(comparison.worlds, worlds_dir=comparison.worlds_dir, at_once=comparison.trainers)
    configs = {world: worlds.configure(comparison, world=world) for world in comparison.worlds}
    prepared = {
        world: stage.prepare(config, methods=comparison.methods, start_ray=partial(local_ray.start, config))
        for world, config in configs.items()
    }
    local_ray.start(configs[comparison.worlds[0]])
    results = measure(comparison, prepared)
    text = table_text(results)
    (out / "table.txt").write_text(text + "\n")
    return f"{text}\n\nevery checkpoint: {out / 'results.jsonl'}\nthis table: {out / 'table.txt'}"


def table_text(results: list[dict[str, Any]]) -> str:
    """The table of the methods at their choices, and what was chosen."""
    chosen = choice.choose([row for row in results if row["split"] == "dev"])
    judged = {stage.setting_of(row) for row in chosen.values()}
    methods = [row for row in results if row["split"] == "test" and stage.setting_of(row) in judged]
    bases = [row for row in results if row["split"] == "test" and row["epochs"] is None]
    settings = [
        f"  world {world} {method}: lr {row['learning_rate']:g}, {row['epochs']} epochs"
        for (world, method), row in sorted(chosen.items())
    ]
    return "\n".join([choice.summarize([*methods, *bases]), "", "chosen on dev:", *settings])


def measure(comparison: Comparison, prepared: Mapping[int, stage.Prepared]) -> list[dict[str, Any]]:
    """The base on test, the grid on dev, then every method's choice once on test; the rows of this comparison.

    Rows of an earlier comparison count where everything they stand on is the same (`mark`).
    """
    file = comparison.out / "results.jsonl"
    results = choice.read_results(file)

    def write(row: dict[str, Any]) -> None:
        results.append(row)
        with file.open("a") as stream:
            stream.write("\n" + json.dumps(row))  # a line cut short by a kill stays a line of its own
        found = row["metrics"]
        log.info("%s %s Acc %.3f Mis %s", row["split"], stage.setting_of(row)[:4], found["acc"], found["mis"])

    trainers = stage.start_trainers(comparison.trainers)
    work = comparison.out / "models"
    wanted: set[tuple[Any, ...]] = set()
    for world, item in prepared.items():
        points = choice.grid([world], methods=comparison.methods, rates=comparison.rates, epochs=comparison.epochs)
        by_setting = {(world, p.method, p.learning_rate, p.epochs, item.mark(p.method)): p for p in points}
        wanted |= by_setting.keys()
        wanted |= {(world, f"base_think_{mode}", None, None, item.mark()) for mode in ("off", "on")}
        there = {stage.setting_of(row) for row in results if row["split"] == "dev"}
        todo = [point for setting, point in by_setting.items() if setting not in there]
        server = stage.start_server(item)
        tests = [row for row in results if row["split"] == "test"]
        stage.evaluate_base(item, world=world, server=server, done=tests, write=write)
        stage.run_grid(todo, prepared, server=server, trainers=trainers, work=work, write=write)
        chosen = choice.choose([r for r in results if r["split"] == "dev" and stage.setting_of(r) in by_setting])
        stage.evaluate_choices(
            item, chosen, world=world, server=server, trainers=trainers, work=work, done=tests, write=write
        )
        stage.end_server(server)
        shutil.rmtree(work / str(world), ignore_errors=True)
    return [row for row in results if stage.setting_of(row) in wanted]
