"""What a cluster has and may still become, and whether that is enough for the stages of a run.

The address of a head, and the workers of stages, enter; the resources of its nodes, the nodes that may still be added
(limits.py), what the autoscaler says of those that it starts, and for each stage what is missing, leave.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mralign.run.limits import LIMIT_S, GrowthLimits, asking, limits_at
from mralign.run.placement import Workers, alive_nodes
from mralign.run.room import NONE_MORE, Growth, Node, NodeKind, amounts, shortages

log = logging.getLogger("mralign")


@dataclass(frozen=True)
class Capacity:
    """The nodes of a cluster, and those that may be added; `growth` None: it is not known whether any may."""

    nodes: tuple[Node, ...]
    growth: Growth | None

    def __str__(self) -> str:
        total = {}
        for kind in ("CPU", "GPU"):
            total[kind] = sum(node.get(kind, 0) for node in self.nodes)
        grown = "whether it grows is not known" if self.growth is None else str(self.growth)
        nodes = "1 node" if len(self.nodes) == 1 else f"{len(self.nodes)} nodes"
        return f"{nodes} with {amounts(total)} in all; {grown}"


@dataclass(frozen=True)
class Launches:
    """What an autoscaler says of the nodes that it starts."""

    starting: int  # nodes
    failed: tuple[str, ...]  # why nodes could not be started

    def __str__(self) -> str:
        nodes = "1 node is" if self.starting == 1 else f"{self.starting} nodes are"
        said = [f"{nodes} being started"] if self.starting else []
        said += [f"a node could not be started ({reason:.200})" for reason in self.failed[:1]]
        return "; ".join(said) or "no node is being started"


def capacity(address: str) -> Capacity:
    """The nodes of the cluster whose head has this address, and how far it may grow. Raises OSError if it is silent."""
    nodes = _nodes(address)
    limits = limits_at(address)
    grown = None if limits is None else left(limits, nodes)
    return Capacity(tuple(resources for _, resources in nodes), grown)


def joined() -> Capacity:
    """That of the Ray that this process has started or joined. One of this machine alone never grows."""
    if not os.environ.get("RAY_ADDRESS"):
        return Capacity(tuple(alive_nodes()), NONE_MORE)
    try:
        return capacity(joined_address())
    except OSError as error:  # a client's own address of the head may lead nowhere
        log.debug("how far the cluster may grow is not known: %s", error)
        return Capacity(tuple(alive_nodes()), None)


def joined_address() -> str:
    """Address of the head that this process has joined."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


def check_room(stages: Mapping[str, Sequence[Workers]], *, patience_s: float) -> None:
    """Raise ValueError for workers that can never be placed: on a Ray of this machine, or on a cluster whose autoscaler
    may not start what they need. Where nobody knows how far a cluster grows, it is a warning. Ray must have been
    started."""
    found = joined()
    lacks = lacks_by_stage(stages, found)
    if lacks and not os.environ.get("RAY_ADDRESS"):
        raise ValueError(
            f"{'; '.join(lacks)}. This is a Ray of this machine alone: run where that is there (RAY_ADDRESS or `ray "
            f"job submit` names a cluster), or ask for less (CPUs of a local Ray: run.local_cpus)"
        )
    if lacks and found.growth is not None:
        raise ValueError(
            f"{'; '.join(lacks)}. The cluster can become no larger ({found}): let its autoscaler start more or larger "
            f"nodes, or ask for less"
        )
    for line in lacks:
        log.warning("%s: unless the cluster grows, the run ends after waiting run.patience_s=%g s", line, patience_s)


def lacks_by_stage(stages: Mapping[str, Sequence[Workers]], found: Capacity) -> list[str]:
    """What a cluster lacks for each stage when it is as large as it is known to become."""
    lines: list[str] = []
    for stage, workers in stages.items():
        lacks = shortages(workers, nodes=found.nodes, growth=found.growth or NONE_MORE)
        lines += [f"stage {stage}: {'; '.join(lacks)}"] if lacks else []
    return lines


def launches(address: str) -> Launches:
    """What the autoscaler says now; of one that says nothing (version 1, none at all): nothing."""
    said = _status(address).autoscaling_state
    starting = sum(one.count for one in said.pending_instance_requests) + len(said.pending_instances)
    return Launches(starting, tuple(dict.fromkeys(one.reason for one in said.failed_instance_requests)))


def _status(address: str) -> Any:
    """What the head says of its nodes and of its autoscaler."""
    from ray.core.generated import autoscaler_pb2

    messages: Any = autoscaler_pb2  # generated: mypy sees nothing in it
    with asking(address) as head:
        return messages.GetClusterStatusReply.FromString(head.get_cluster_status(timeout_s=LIMIT_S))


def _nodes(address: str) -> list[tuple[str, Node]]:
    """Kind and resources of each node that works and is not about to go."""
    from ray.core.generated import autoscaler_pb2

    status: Any = autoscaler_pb2.NodeStatus  # type: ignore[attr-defined]  # generated: mypy sees nothing in it
    stays = (status.RUNNING, status.IDLE)
    states = [state for state in _status(address).cluster_resource_state.node_states if state.status in stays]
    return [(state.ray_node_type_name, dict(state.total_resources)) for state in states]


def left(limits: GrowthLimits, nodes: Sequence[tuple[str, Node]]) -> Growth:
    """What may be added to the nodes that there are. A node that does not name its kind is of one that looks alike."""
    running = dict.fromkeys(limits.kinds, 0)
    for name, resources in nodes:
        alike = (kind for kind, (has, _) in limits.kinds.items() if amounts(has) == amounts(resources))
        kind = name if name in running else next(alike, None)
        if kind is not None:
            running[kind] += 1
    kinds = [NodeKind(name, has, max(0, most - running[name])) for name, (has, most) in limits.kinds.items() if most]
    workers = sum(running[kind.name] for kind in kinds)
    return Growth(tuple(kinds), max(0, min(limits.most - workers, sum(kind.more for kind in kinds))))
