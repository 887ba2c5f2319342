"""When nodes have no room for workers: numbers without a cluster."""

import pytest

from mralign.run.placement import DEALING, Workers
from mralign.run.room import Growth, NodeKind, shortages

ENGINES = Workers("engines", "engine.gpus_per_replica", cpus=2, gpus=2, least=2, most=3)
APART = (
    "2 engines with 2 CPU, 2 GPU each do not fit on single nodes beside what else runs (engine.gpus_per_replica), "
    "though all nodes together have as much"
)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([{"CPU": 8, "GPU": 4}], []),
        ([{"CPU": 8, "GPU": 2}, {"CPU": 8, "GPU": 2}], []),
        ([{"CPU": 8}], ["2 engines take 2 GPU each (engine.gpus_per_replica), and the cluster has none"]),
        # Four GPUs, but no two of them on one node.
        (
            [{"CPU": 8, "GPU": 1}] * 4,
            ["2 engines take 2 GPU each (engine.gpus_per_replica), and the largest node has 1"],
        ),
        (
            [{"CPU": 8, "GPU": 3}],
            ["4 GPU are needed at the same time (engine.gpus_per_replica), and the cluster has 3"],
        ),
        (
            [{"CPU": 4, "GPU": 4}],
            ["5 CPU are needed at the same time (engine.gpus_per_replica, run.local_cpus), and the cluster has 4"],
        ),
        ([], ["2 engines take 2 GPU each (engine.gpus_per_replica), and the cluster has none"]),
        # Enough of both in all, and one node that is wide enough: a second engine has nowhere to go.
        (
            [{"CPU": 8, "GPU": 3}, {"CPU": 8, "GPU": 1}],
            [APART],
        ),
        # The GPUs are on nodes without CPUs.
        (
            [{"CPU": 8}, {"CPU": 1, "GPU": 4}],
            [APART],
        ),
    ],
)
def test_what_a_cluster_lacks(nodes, expected):
    assert shortages([ENGINES, DEALING], nodes=nodes)[: len(expected) or None] == expected


TWO_GPUS = NodeKind("gpu", {"CPU": 8, "GPU": 2}, 3)
CPUS = NodeKind("cpu", {"CPU": 16}, 10)


@pytest.mark.parametrize(
    ("nodes", "growth", "lacks"),
    [
        ([], Growth((TWO_GPUS,), 3), []),
        ([{"CPU": 1}], Growth((CPUS, TWO_GPUS), 13), []),
        ([{"CPU": 8, "GPU": 2}], Growth((TWO_GPUS,), 1), []),
        # Of both kinds together one node may be added, and the engines need two of the second.
        ([], Growth((CPUS, TWO_GPUS), 1), ["4 GPU are needed", "and the cluster has 0 and may grow to 2"]),
        (
            [],
            Growth((CPUS,), 10),
            ["2 engines take 2 GPU each", "the cluster has none, those that may be added included"],
        ),
        (
            [{"CPU": 8, "GPU": 1}],
            Growth((NodeKind("one", {"CPU": 8, "GPU": 1}, 5),), 5),
            ["the largest node has 1, those that may be added included"],
        ),
        # Eight GPUs may come, three to a node: two engines want two nodes, and only one may be added.
        (
            [{"CPU": 8, "GPU": 1}],
            Growth((NodeKind("three", {"CPU": 8, "GPU": 3}, 1),), 1),
            ["2 engines with 2 CPU, 2 GPU each do not fit on single nodes"],
        ),
    ],
)
def test_nodes_that_may_be_added_count(nodes, growth, lacks):
    found = shortages([ENGINES, DEALING], nodes=nodes, growth=growth)
    assert len(found) == bool(lacks)
    assert [words for words in lacks if words not in "".join(found)] == []


def test_stages_of_several_workers_are_placed_together():
    """Two annotators' engines and the adjudicator's, of different sizes, on two nodes of four GPUs."""
    annotators = Workers("engine of 'a'", "a", gpus=2, least=1)
    others = [Workers("engine of 'b'", "b", gpus=3), Workers("engine of 'c'", "c", gpus=3)]
    nodes = [{"CPU": 8, "GPU": 4}] * 2
    assert shortages([annotators, others[0]], nodes=nodes) == []
    (lack,) = shortages([annotators, *others], nodes=nodes)
    assert lack.startswith("engine of 'a' with 1 CPU, 2 GPU each do not fit on single nodes beside what else runs (a)")


def test_growth_in_words():
    assert str(Growth()) == "no node may be added"
    assert str(Growth((TWO_GPUS,), 2)) == "up to 2 nodes may be added: 3 of gpu (8 CPU, 2 GPU each)"
