"""What a stage asks of the cluster, in one place for every kind of worker.

`Workers` (equal workers, and what each takes of a node) enter. Ray's arguments for them leave, for pools of Ray Data,
single actors and Ray Train. Whether nodes have room for them says room.py; waiting.py waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


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
SHORT_TASKS = Workers("short tasks", "run.local_cpus")  # every stage has some, also one that names no workers


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
