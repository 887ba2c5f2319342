"""Whether nodes have room for workers that run at the same time: numbers alone, no cluster.

Workers, the nodes that there are and those that an autoscaler may still start enter; for each lack a sentence leaves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mralign.run.placement import Workers, bundle

Node = Mapping[str, float]  # amounts of resources by name: CPU, GPU


@dataclass(frozen=True)
class NodeKind:
    """Nodes of one kind that an autoscaler may start: what each has, and how many more there may be."""

    name: str
    resources: Node
    more: int


@dataclass(frozen=True)
class Growth:
    """What a cluster may still become: nodes of these kinds, and at most `most` of all kinds together."""

    kinds: tuple[NodeKind, ...] = ()
    most: int = 0

    def with_most(self, resource: str) -> list[Node]:
        """All nodes that may start, chosen so that they have most of a resource."""
        found: list[Node] = []
        for kind in sorted(self.kinds, key=lambda kind: -kind.resources.get(resource, 0)):
            found += [kind.resources] * min(kind.more, self.most - len(found))
        return found

    def __str__(self) -> str:
        shown = [f"{kind.more} of {kind.name} ({amounts(kind.resources)} each)" for kind in self.kinds if kind.more]
        if not (shown and self.most):
            return "no node may be added"
        return f"up to {self.most} nodes may be added: {', '.join(shown)}"


NONE_MORE = Growth()


def amounts(resources: Node) -> str:
    """CPUs and GPUs of a node or of several, in words."""
    named = [kind for kind in ("CPU", "GPU") if resources.get(kind)] or ["CPU"]
    return ", ".join(f"{resources.get(kind, 0):g} {kind}" for kind in named)


def shortages(workers: Sequence[Workers], *, nodes: Sequence[Node], growth: Growth = NONE_MORE) -> list[str]:
    """Why workers that run at the same time can never all start on these nodes and on those that may be added."""
    lacks = [_lack_of(kind, workers, nodes=nodes, growth=growth) for kind in ("GPU", "CPU")]
    found = [lack for lack in lacks if lack]
    if found:
        return found
    homeless = _homeless(workers, nodes=nodes, growth=growth)
    return [_told(homeless)] if homeless else []


def _lack_of(resource: str, workers: Sequence[Workers], *, nodes: Sequence[Node], growth: Growth) -> str | None:
    """What is missing of one resource: no node is large enough, or all of them together are not."""
    there = [node.get(resource, 0) for node in nodes]
    added = [node.get(resource, 0) for node in growth.with_most(resource)]
    widest = max(there + added, default=0)
    for one in workers:
        amount = bundle(one).get(resource, 0)
        if amount > widest:
            most = f"the largest node has {widest:g}" if widest else "the cluster has none"
            return f"{_number(one)} take {amount:g} {resource} each ({one.setting}), and {most}{_not_even(growth)}"
    asking = [one for one in workers if bundle(one).get(resource, 0)]
    needed = sum(one.least * bundle(one)[resource] for one in asking)
    if needed <= sum(there) + sum(added):
        return None
    settings = ", ".join(dict.fromkeys(one.setting for one in asking))
    grown = f" and may grow to {sum(there) + sum(added):g}" if added else ""
    return f"{needed:g} {resource} are needed at the same time ({settings}), and the cluster has {sum(there):g}{grown}"


def _not_even(growth: Growth) -> str:
    return ", those that may be added included" if growth.most else ""


def _homeless(workers: Sequence[Workers], *, nodes: Sequence[Node], growth: Growth) -> Workers | None:
    """The first of the workers that find no node, the widest placed first; None where all find one."""
    rooms = _Rooms(nodes, growth=growth)
    for one in sorted(workers, key=lambda one: (-one.gpus, -one.cpus)):
        for _ in range(one.least):
            if not rooms.take(bundle(one)):
                return one
    return None


class _Rooms:
    """What is left on each node while workers are placed; where none has room, another node is added if one may be."""

    def __init__(self, nodes: Sequence[Node], *, growth: Growth) -> None:
        self.rooms = [dict(node) for node in nodes]
        self.kinds, self.most = growth.kinds, growth.most
        self.more = {kind.name: kind.more for kind in growth.kinds}

    def take(self, needs: Node) -> bool:
        """Place a worker; whether there was room."""
        room = next((room for room in self.rooms if _holds(room, needs)), None) or self._added(needs)
        if room is None:
            return False
        for resource, amount in needs.items():
            room[resource] = room.get(resource, 0) - amount
        return True

    def _added(self, needs: Node) -> dict[str, float] | None:
        for kind in self.kinds if self.most else ():
            if self.more[kind.name] and _holds(kind.resources, needs):
                self.more[kind.name] -= 1
                self.most -= 1
                self.rooms.append(dict(kind.resources))
                return self.rooms[-1]
        return None


def _holds(room: Node, needs: Node) -> bool:
    return all(room.get(resource, 0) >= amount for resource, amount in needs.items())


def _told(one: Workers) -> str:
    each = f"{_number(one)} with {amounts(bundle(one))} each"
    return (
        f"{each} do not fit on single nodes beside what else runs ({one.setting}), "
        f"though all nodes together have as much"
    )


def _number(one: Workers) -> str:
    return f"{one.least} {one.what}" if one.least > 1 else one.what
