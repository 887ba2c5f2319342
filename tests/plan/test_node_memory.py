"""Whether workers fit into the memory of a machine or of a node: numbers made by hand."""

import pytest

from mralign.plan import node_memory, places
from mralign.plan.memory import GIB
from mralign.plan.node_memory import memory_verdict
from mralign.run.capacity import Capacity
from mralign.run.room import Growth, NodeKind

HEAD = {"CPU": 0, "memory": 4 * GIB, "object_store_memory": 2 * GIB}
LARGE = NodeKind("large", {"CPU": 8, "memory": 28 * GIB}, 2)


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        (1, "one takes 3.0 of this machine's 8.0 GiB: fits"),
        (2, "2 take 6.0 of this machine's 8.0 GiB: fits"),
        (3, "3 take 9.0 of this machine's 8.0 GiB: does NOT fit"),
    ],
)
def test_all_workers_share_a_machine_alone(monkeypatch, workers, said):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(node_memory, "_of_this_machine", lambda: 8.0 * GIB)
    assert memory_verdict(3 * GIB, workers=workers) == said


@pytest.mark.parametrize(
    ("growth", "said"),
    [
        (None, "one takes 12.0 of the largest node's 6.0 GiB: does NOT fit"),
        (Growth((LARGE,), 2), "one takes 12.0 of the largest node's 28.0 GiB: fits"),
    ],
)
def test_a_worker_needs_one_node_of_a_cluster(monkeypatch, growth, said):
    node_memory._of_cluster.cache_clear()
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(places, "cluster_fault", lambda: None)
    monkeypatch.setattr(node_memory, "capacity", lambda address: Capacity((HEAD,), growth))
    assert memory_verdict(12 * GIB, workers=4) == said
    node_memory._of_cluster.cache_clear()


def test_a_cluster_that_does_not_say(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert memory_verdict(GIB) == "the memory of the cluster's nodes is not known"
