"""The plan of a study: its worlds, fixed before any method is tried, and the grid that every method has.

A YAML file of `mralign/presets/studies` enters; worlds by name, each with its knobs and its grid, leave. The hash of
every world stands in the file: a world that has become another one is refused. What the study takes is told before it
starts.

A plan may have two parts. Under `choice` it names candidates and worlds on which one of them is chosen; its name is
then written into the file as `chosen`, and the worlds of the centre compare it with the methods of the plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from mralign.comparison.schedule import RateGrid
from mralign.comparison.small_labels import world_hash
from mralign.miniworld.knobs import Cause, Knobs
from mralign.miniworld.small_world import SmallWorld
from mralign.presets import STUDIES

CENTRE, CHOICE = "centre", "choice"
# Of processor time, 2026-11-27; a base extrapolated from a shorter training, the others measured at the centre.
SECONDS = {"base": 14.0, "answers": 4.0, "dev": 0.6, "test": 1.2}


@dataclass(frozen=True)
class StudyWorld:
    """A world of the study: `factor` and `level` say which knob it turns; at the centre the factor is CENTRE, and
    CHOICE in the worlds on which a candidate is chosen."""

    name: str
    factor: str
    level: str
    knobs: Knobs
    grid: RateGrid


@dataclass(frozen=True)
class StudyPlan:
    """The worlds of a study in the order in which they are measured. `smaller`: see `small_worlds.prepare`."""

    name: str
    worlds: tuple[StudyWorld, ...]
    smaller: float
    candidates: tuple[str, ...] = ()  # methods of which one is chosen
    chosen: str = ""

    @property
    def ready(self) -> tuple[StudyWorld, ...]:
        """The worlds that can be measured: those of the choice alone while none of the candidates is chosen."""
        if not self.candidates or self.chosen:
            return self.worlds
        return tuple(world for world in self.worlds if world.factor == CHOICE)

    @property
    def page(self) -> str:
        """The file name of its page."""
        return f"{self.name}.md" if self.candidates else "study.md"

    def hashes(self) -> str:
        """The hash of every world, as the file of the plan has them."""
        return "\n".join(["hashes:", *(f'  {one.name}: "{world_hash(SmallWorld(one.knobs))}"' for one in self.worlds)])

    def cost(self) -> str:
        """What the worlds that are ready take, in a sentence."""
        trainings = sum(world.grid.trainings for world in self.ready)
        seconds = len(self.ready) * (SECONDS["base"] * self.smaller + SECONDS["answers"])
        for world in self.ready:
            tested = len(world.grid.methods) * len(world.grid.seeds)
            seconds += tested * SECONDS["test"] + (world.grid.trainings - tested) * SECONDS["dev"]
        return f"{len(self.ready)} worlds, {trainings} trainings, about {seconds / 60:.0f} minutes of one idle core"


def read_plan(name: str, *, check: bool = True) -> StudyPlan:
    """The plan of that name, or in the YAML file of that path.

    Raises ValueError for a missing file, a knob out of its range, and a world whose hash is not that of the file.
    """
    path = Path(name) if name.endswith(".yaml") else STUDIES / f"{name}.yaml"
    if not path.is_file():
        known = sorted(one.stem for one in STUDIES.glob("*.yaml"))
        raise ValueError(f"no study {name!r}; allowed are {known}, or the path of a YAML file")
    values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    worlds = tuple(_worlds(values))
    if check:
        _check(worlds, hashes=values.get("hashes") or {}, name=name)
    candidates = tuple((values.get("choice") or {}).get("candidates") or ())
    chosen = values.get("chosen") or ""
    if chosen and chosen not in candidates:
        raise ValueError(f"the study {name} has chosen {chosen!r}; allowed are its candidates {list(candidates)}")
    return StudyPlan(path.stem, worlds, float(values.get("smaller", 1.0)), candidates, chosen)


def _worlds(values: Mapping[str, Any]) -> list[StudyWorld]:
    """First the worlds of the choice, then the centre, then factor by factor."""
    centre = dict(values["centre"])
    chosen = [values["chosen"]] if values.get("chosen") else []
    grid = RateGrid(
        methods=(*values["methods"], *chosen),
        rates=tuple(map(float, values["rates"])),
        epochs=tuple(values["epochs"]),
        tuning_seed=values["tuning_seed"],
        seeds=tuple(values["seeds"]),
    )
    found = []
    choice = values.get("choice")
    if choice:
        wide = replace(grid, methods=tuple(choice["candidates"]), seeds=tuple(choice["seeds"]))
        found += [_plain(CHOICE, seed, knobs=centre, grid=wide) for seed in choice["worlds"]]
    found += [_plain(CENTRE, seed, knobs=centre, grid=grid) for seed in values["worlds"]]
    curves = values.get("curves") or {}
    for factor, levels in (curves.get("levels") or {}).items():
        narrow = replace(grid, methods=tuple(curves["methods"]), seeds=tuple(curves["seeds"]))
        for level in levels:
            changed = centre | {factor: Cause(level) if factor == "cause" else level}
            for seed in curves["worlds"]:
                name = f"{factor}={level}-{seed}"
                found.append(StudyWorld(name, factor, str(level), Knobs(seed=seed, **changed), narrow))
    return found


def _plain(factor: str, seed: int, *, knobs: Mapping[str, Any], grid: RateGrid) -> StudyWorld:
    return StudyWorld(f"{factor}-{seed}", factor, "", Knobs(seed=seed, **knobs), grid)


def _check(worlds: tuple[StudyWorld, ...], *, hashes: Mapping[str, str], name: str) -> None:
    for world in worlds:
        own = world_hash(SmallWorld(world.knobs))
        if hashes and hashes.get(world.name) != own:
            raise ValueError(
                f"the world {world.name} of the study {name} has the hash {own}, its file says "
                f"{hashes.get(world.name)}: its knobs or the code of the worlds have changed; give the study another "
                f"name and write the new hashes (mralign study --hashes)"
            )
