"""Where in the run directory each stage writes, and what is there: fingerprints of settings, files and upstream.

Stages and a configuration enter; `Planned` stages leave, each with its directory and, if it is done, its manifest. A
changed setting changes the fingerprints of the stages that depend on it and of no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from mralign.config import RunConfig, resolve_path
from mralign.run.digests import digest
from mralign.run.stage import Stage
from mralign.run.store import READERS, Manifest, StageDir, absolute, fingerprint


@dataclass(frozen=True)
class Planned:
    """A stage, where it writes, and its manifest if it is done."""

    stage: Stage
    out: StageDir
    upstream: Mapping[str, StageDir]
    inputs: Mapping[str, str]
    settings: Mapping[str, Any]  # what of the configuration and of our code its result depends on
    manifest: Manifest | None
    damaged: tuple[str, ...] = ()  # parts of a finished stage that are not what they were: it makes them anew
    # Whether its fingerprint stands: of a stage that reads one portion of another, it is known when that is finished.
    settled: bool = True
    reachable: bool = True  # whether the run directory was looked at
    warnings: tuple[str, ...] = ()  # of a dry run: what this machine lacks, and the one that runs the stage must have


def placed(
    config: RunConfig, road: Sequence[Stage], *, digests: dict[str, str] | None = None, look: bool = True
) -> list[Planned]:
    """The stages of `road`, each with its place in the run directory; not `look`: as if nothing lay there."""
    located: dict[str, Planned] = {}
    known = {} if digests is None else digests
    asked: dict[str, Manifest | None] = {}
    for stage in road:
        upstream = {name: located[name].out for name in stage.upstream}
        located[stage.name] = _located(config, stage, upstream=upstream, digests=known, look=look, asked=asked)
    with ThreadPoolExecutor(READERS) as looking:
        looked = list(looking.map(_looked_at, located.values()))
    planned: dict[str, Planned] = {}
    for item in looked:
        settled = item.settled and all(planned[name].settled for name in item.stage.upstream)
        planned[item.stage.name] = replace(item, settled=settled)
    return list(planned.values())


def placed_again(config: RunConfig, planned: Sequence[Planned]) -> list[Planned]:
    """The same stages after others were finished: what a fingerprint waited for may be known now."""
    digests: dict[str, str] = {}
    for item in planned:
        digests |= {path: item.inputs[name] for name, path in item.stage.inputs(config).items()}
    return placed(config, [item.stage for item in planned], digests=digests)


def place(
    config: RunConfig,
    stage: Stage,
    *,
    upstream: Mapping[str, StageDir],
    digests: dict[str, str] | None = None,
    look: bool = True,
) -> Planned:
    """A stage with its place in the run directory; `digests` of files that are known are not computed again."""
    return _looked_at(_located(config, stage, upstream=upstream, digests=digests, look=look, asked={}))


def _located(
    config: RunConfig,
    stage: Stage,
    *,
    upstream: Mapping[str, StageDir],
    digests: dict[str, str] | None,
    look: bool,
    asked: dict[str, Manifest | None],
) -> Planned:
    """A stage with its place, which nobody has looked at yet. `asked`: manifests by URI, looked for already."""
    known = {} if digests is None else digests
    paths = stage.inputs(config)
    for path in paths.values():
        if path not in known:
            known[path] = _digest(path)
    inputs = {name: known[path] for name, path in paths.items()}
    settings = stage.settings(config)
    portions = stage.portions(config)
    manifests = {name: _manifest_of(upstream[name], asked=asked) if look else None for name in portions}
    stands_on = fingerprints(upstream) | _contents(portions, manifests=manifests)
    mark = fingerprint(stage=stage.name, version=stage.version, config=settings, upstream=stands_on, inputs=inputs)
    out = StageDir(f"{absolute(config.run.dir)}/{stage.name}/{mark}", stage=stage.name, fingerprint=mark)
    settled = None not in manifests.values()
    return Planned(stage, out, upstream, inputs, settings, None, settled=settled, reachable=look)


def _manifest_of(out: StageDir, *, asked: dict[str, Manifest | None]) -> Manifest | None:
    """The manifest of an upstream stage, asked for once though several stages read it."""
    if out.uri not in asked:
        asked[out.uri] = out.manifest()
    return asked[out.uri]


def _looked_at(item: Planned) -> Planned:
    """What lies in the place of a stage. Of a stage whose place is not known yet, nothing does."""
    manifest, damaged = item.out.standing() if item.reachable and item.settled else (None, [])
    return replace(item, manifest=manifest, damaged=tuple(damaged))


def _digest(path: str) -> str:
    """The digest of an input. One that cannot be read has that of its name: the checks of the plan say what it is."""
    try:
        return digest(resolve_path(path))
    except (OSError, ValueError):
        return f"name:{path}"


def _contents(portions: Mapping[str, str], *, manifests: Mapping[str, Manifest | None]) -> dict[str, str]:
    """What is in the portions that are read, by upstream stage. A result of an older version does not say."""
    found: dict[str, str] = {}
    for name, portion in portions.items():
        manifest = manifests[name]
        content = manifest.figures.get("content", {}) if manifest else {}
        if portion in content:
            found[name] = content[portion]
    return found


def fingerprints(upstream: Mapping[str, StageDir]) -> dict[str, str]:
    return {name: out.fingerprint for name, out in upstream.items()}


def find(planned: Sequence[Planned], name: str) -> Planned | None:
    """The planned stage of that name, if this run has it."""
    return next((item for item in planned if item.stage.name == name), None)
