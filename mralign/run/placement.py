"""What a stage asks of the cluster, in one place for every kind of worker.

`Workers` (equal workers, and what each takes of a node) enter. Ray's arguments for them leave, for pools of Ray Data,
single actors and Ray Train, and before anything is paid for a sentence that says what the cluster lacks: no room, or a
package or device that is missing where the work would run. What is missing on the machine of a dry run is no fault.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

log = logging.getLogger("mralign")

_REHEARSAL_S = 120  # how long a run waits at its start for a GPU that others hold


class NotInstalled(ValueError):
    """A package that a stage needs on the machine that starts the run is not installed there. A dry run tells it and
    goes on."""


@dataclass(frozen=True)
class Workers:
    """Equal workers of a stage: each takes `cpus` and `gpus` of one node; `least` to `most` of them run at once.

    `elastic`: their number is that for which the nodes would have room if nobody else were there.
    """

    what: str  # as a message names them, e.g. "vLLM engines"
    setting: str  # the setting that asks for them, e.g. "engine.gpus_per_replica"
    cpus: float = 1
    gpus: float = 0
    least: int = 1
    most: int = 1
    elastic: bool = False


DEALING = Workers("tasks that deal the rows", "run.local_cpus")


@dataclass(frozen=True)
class NodeFault:
    """What a machine lacks. Not `fatal`: the stage would run there all the same, and the user is told."""

    text: str
    fatal: bool = True


def pool_arguments(workers: Workers) -> dict[str, Any]:
    """What one worker takes, as `map_batches` is told. A worker with a GPU takes one CPU unless it asks for more: Ray
    Data reserves that one by itself, and warns of both numbers together."""
    if not workers.gpus:
        return {"num_cpus": workers.cpus}
    more = {"num_cpus": workers.cpus} if workers.cpus > 1 else {}
    return {"num_gpus": workers.gpus, **more}


def actor_options(workers: Workers) -> dict[str, Any]:
    """What one worker takes, as the options of an actor."""
    return {"num_cpus": workers.cpus, "num_gpus": workers.gpus or None}


def bundle(workers: Workers) -> dict[str, float]:
    """What one worker takes, as resources by name (a bundle of a placement group)."""
    return {"CPU": workers.cpus, **({"GPU": workers.gpus} if workers.gpus else {})}


def describe(workers: Sequence[Workers]) -> str:
    """The GPUs that are asked for, for the plan; empty if there are none."""
    parts = []
    for one in workers:
        if one.gpus:
            number = f"{one.least}" if one.least == one.most else f"{one.least} to {one.most}"
            parts.append(f"{number} {one.what} with {one.gpus:g} GPU each")
    return ", ".join(parts)


def shortages(workers: Sequence[Workers], *, nodes: Sequence[Mapping[str, float]]) -> list[str]:
    """Why workers that run at the same time can never all start on these nodes (resources by name)."""
    found = []
    for kind in ("GPU", "CPU"):
        asked = [(one, bundle(one).get(kind, 0)) for one in workers]
        widest = max((node.get(kind, 0) for node in nodes), default=0)
        total = sum(node.get(kind, 0) for node in nodes)
        needed = sum(one.least * amount for one, amount in asked)
        too_wide = [(one, amount) for one, amount in asked if amount > widest]
        if too_wide:
            one, amount = too_wide[0]
            there = f"the largest node has {widest:g}" if widest else "the cluster has none"
            found.append(f"{one.what} take {amount:g} {kind} each ({one.setting}), and {there}")
        elif needed > total:
            settings = ", ".join(dict.fromkeys(one.setting for one, amount in asked if amount))
            found.append(f"{needed:g} {kind} are needed at the same time ({settings}), and the cluster has {total:g}")
    return found


def alive_nodes() -> list[dict[str, float]]:
    """The resources by name of every node that is alive. Ray must have been started."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def node_ids() -> set[str]:
    """Ray's ids of the nodes that are alive. Ray must have been started."""
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def this_node() -> Any:
    """The scheduling strategy of an actor that must live as long as the driver: on the driver's node, nowhere else."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)


def check_room(stages: Mapping[str, Sequence[Workers]], *, local: bool) -> None:
    """Raise ValueError where a Ray of this machine has no room for the workers of a stage: it never grows. Of a
    cluster, which may grow, it is a warning. Ray must have been started."""
    nodes = alive_nodes()
    for stage, workers in stages.items():
        lacks = shortages(workers, nodes=nodes)
        if not lacks:
            continue
        text = f"stage {stage}: {'; '.join(lacks)}"
        if local:
            raise ValueError(
                f"{text}. This is a Ray of this machine alone: run where that is there (RAY_ADDRESS or `ray job "
                f"submit` names a cluster), or ask for less (CPUs of a local Ray: run.local_cpus)"
            )
        log.warning("%s: unless the cluster grows, the stage waits for ever", text)


def needs_rehearsal(workers: Sequence[Workers]) -> bool:
    """Whether these workers may find another machine than the driver does: in a cluster, and wherever GPUs are."""
    return bool(workers) and (any(one.gpus for one in workers) or bool(os.environ.get("RAY_ADDRESS")))


def rehearse(
    stage: str, workers: Sequence[Workers], *, faults: Callable[[Any], Sequence[NodeFault]], config: Any, wait: bool
) -> bool:
    """Ask a worker of the stage's own size what it lacks; False if none could be had yet.

    Workers without a GPU on a Ray of this machine are not asked: they find what the driver finds. Raises ValueError for
    what is fatal. `wait`: until there is a worker; else only for a while, and only if the cluster has room for it now.
    """
    if not needs_rehearsal(workers):
        return True
    wide = max(workers, key=lambda one: one.gpus)
    cpus = 0 if wide.gpus else wide.cpus  # where a GPU is free a CPU need not be
    import ray

    if not wait and shortages([Workers(wide.what, wide.setting, cpus, wide.gpus)], nodes=alive_nodes()):
        return False
    task: Any = ray.remote(faults).options(num_cpus=cpus, num_gpus=wide.gpus)
    asked = task.remote(config)
    ready, _ = ray.wait([asked], timeout=None if wait else _REHEARSAL_S)
    if not ready:  # not cancelled: Ray 2.60 can end the driver when a task completes while it is being cancelled
        return False
    found: Sequence[NodeFault] = ray.get(asked)
    fatal = [fault.text for fault in found if fault.fatal]
    if fatal:
        raise ValueError(f"stage {stage}, on the node where it would run: {'; '.join(fatal)}")
    for fault in found:
        log.warning("stage %s: %s", stage, fault.text)
    return True
