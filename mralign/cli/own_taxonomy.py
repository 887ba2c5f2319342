"""`mralign taxonomy`: the strategies that an annotator finds freely in the thoughts of a run (method.md §2b)."""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mralign.annotation import cluster_map, discovery, naming
from mralign.annotation.discovery_stage import OPEN_LABELS_STAGE, labeller_of
from mralign.annotation.open_interview import name_clusters
from mralign.annotation.taxonomy import Taxonomy, load_taxonomy
from mralign.asking.chats import open_chat
from mralign.cli.arguments import Preset, Settings, TakeOver
from mralign.cli.display import display
from mralign.cli.walk import configured
from mralign.config import RunConfig, to_yaml
from mralign.plan import pipeline
from mralign.rows.schema import OPEN_LABELS
from mralign.run import local_ray
from mralign.run.store import Directory, StageDir, absolute
from mralign.serving.embedding import embed_where_it_fits

log = logging.getLogger("mralign")


def taxonomy(
    settings: Settings = None,
    *,
    preset: Preset = "miniworld",
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the taxonomy goes; default: taxonomy in the run directory.")
    ] = None,
    take_over: TakeOver = False,
) -> None:
    """A taxonomy of one's own: the strategies that an annotator finds freely in the thoughts of a run.

    The candidates of the run directory are used; the stages up to them run first where they are not finished. Stop it
    at any time, run it again: labels are kept in the run directory, replies are not paid for twice. See the section
    `discovery` of the configuration.
    """
    config = configured(preset, settings=settings)
    place = out_directory(config, out=out)
    OPEN_LABELS_STAGE.check(config)
    planned = pipeline.plan(config, until="candidates")
    with pipeline.writing(config, planned, take_over=take_over) as planned, display.running(config.run.dir):
        found = discover(label(config, planned=planned), config=config, out=place)
    display.result(closing(found, preset=preset, settings=settings or (), out=place))


def out_directory(config: RunConfig, *, out: str | None) -> Path:
    """Where the taxonomy goes: a local directory, for annotation reads a local file."""
    place = out or f"{config.run.dir}/taxonomy"
    if "://" in place:
        raise ValueError(f"a taxonomy is a local file, {place} is not local; give --out DIR")
    return Path(absolute(place))


def label(config: RunConfig, *, planned: Sequence[pipeline.Planned]) -> StageDir:
    """The open labels of the sample, committed; what they stand on is run first where it is not finished."""
    start = partial(local_ray.start, config, hears_workers=True)
    pipeline.check_nothing_lacks(config, [*planned, place(config, planned=planned)])  # before a rollout is sampled
    finished = pipeline.run(config, planned, start_ray=start)
    item = place(config, planned=finished)
    pipeline.run(config, [item], start_ray=start)
    return item.out


def place(config: RunConfig, *, planned: Sequence[pipeline.Planned]) -> pipeline.Planned:
    """The stage `open_labels`, and where in the run directory it writes."""
    candidates = pipeline.find(planned, "candidates")
    assert candidates is not None
    return pipeline.place(config, OPEN_LABELS_STAGE, upstream={"candidates": candidates.out})


def discover(labels: StageDir, *, config: RunConfig, out: Path) -> Taxonomy:
    """Cluster the names and have the clusters named; taxonomy.yaml and what it came from are in `out` then."""
    settings = config.discovery
    counts = discovery.name_counts(labels.read(schema=OPEN_LABELS).to_pylist())
    kept = discovery.frequent(counts, min_frequency=settings.min_frequency)
    log.info("%d instances of %d names, %d names often enough", sum(counts.values()), len(counts), len(kept))
    if settings.embedding.gpu or labeller_of(config).engine == "vllm":
        local_ray.start(config)
    texts = [discovery.as_text(name) for name in kept]
    embedding_ND = embed_where_it_fits(texts, settings=settings.embedding)
    clusters = discovery.cluster(kept, embedding_ND=embedding_ND, settings=settings)
    log.info("%s", discovery.describe(clusters))
    typical = discovery.representatives(clusters, embedding_ND=embedding_ND, limit=settings.representatives)
    strategies = asyncio.run(_name(typical, frequency=kept, config=config))
    taxonomy = naming.assemble(strategies, instances=[clusters.instances(c) for c in range(clusters.count)])
    names = [strategy.name for strategy in strategies]
    directory = Directory(str(out))
    directory.write_text("config.yaml", to_yaml(config))
    directory.write_text("clusters.svg", cluster_map.draw(clusters, embedding_ND=embedding_ND, labels=names))
    directory.write_text("clusters.json", json.dumps(discovery.record(clusters, labels=names, counts=counts), indent=1))
    directory.write_text("taxonomy.yaml", naming.to_yaml(taxonomy))
    return load_taxonomy(str(out / "taxonomy.yaml"))


async def _name(
    typical: list[list[str]], *, frequency: dict[str, int], config: RunConfig
) -> tuple[naming.Strategy, ...]:
    async with open_chat(labeller_of(config), config=config) as chat:
        return await name_clusters(typical, frequency=frequency, chat=chat)


def closing(taxonomy: Taxonomy, *, preset: str, settings: Sequence[str], out: Path) -> str:
    """What the user reads last: what was found, where it lies, how to use it."""
    groups = dict.fromkeys(taxonomy.macro.values())
    kept = [override for override in settings if not override.startswith("discovery.")]
    command = ["mralign", "align", "--preset", preset, *kept, f"annotation.taxonomy={out / 'taxonomy.yaml'}"]
    return "\n".join(
        [
            f"{len(taxonomy.labels)} strategies in {len(groups)} groups: {', '.join(taxonomy.labels)}",
            f"taxonomy: {out / 'taxonomy.yaml'}",
            f"picture:  {out / 'clusters.svg'}",
            f"clusters: {out / 'clusters.json'}",
            f"annotate with it: {shlex.join(command)}",
        ]
    )
