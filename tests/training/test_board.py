"""What a user reads when workers of a training are lost, and when it goes on."""

import logging

import pytest

from mralign.training.board import Board, Lost, Place, Resumed

HERE, THERE = (Place(node=letter * 56, host=f"node-{letter}", address=f"10.0.0.{n}") for n, letter in enumerate("ab"))
SAID = {0: "Connection closed by peer", 1: "The actor died\nbecause its node has died."}


def test_a_lost_node_is_named_with_what_remains_and_the_step_to_go_on_from():
    lost = Lost({0: HERE, 1: THERE, 2: THERE}, SAID, step=40)
    assert lost.gone(alive={HERE.node}) == [THERE, THERE]
    assert lost.sentence(alive={HERE.node}, lacks=[]) == (
        "training lost the node node-b (10.0.0.1, bbbbbbbb) with 2 of its 3 workers and has 1 worker left; it goes on "
        "from step 40, or the checkpoint before it"
    )
    waiting = lost.sentence(alive={HERE.node}, lacks=["2 CPU are needed (training.workers), and the cluster has 1"])
    assert waiting.endswith(
        "from step 40, or the checkpoint before it as soon as there is room: 2 CPU are needed (training.workers), and "
        "the cluster has 1"
    )


def test_a_worker_that_failed_on_a_node_that_is_there_is_named_with_its_reason():
    lost = Lost({0: HERE, 1: THERE}, {1: "RuntimeError: \x1b[31mno\nroom"}, step=0)
    assert lost.sentence(alive={HERE.node, THERE.node}, lacks=[]) == (
        "worker 1 of the training failed on node-b (10.0.0.1, bbbbbbbb) (RuntimeError: no room); it begins anew, there "
        "is no checkpoint yet"
    )


@pytest.mark.parametrize(
    ("workers", "before", "text"),
    [
        (2, 2, "training goes on after step 6 with 2 workers"),
        (1, 2, "training goes on after step 6 with 1 worker, 2 before: weights and optimizer are as they were saved"),
    ],
)
def test_a_training_that_goes_on_says_with_how_many_workers(workers, before, text):
    said = str(Resumed(6, workers, before))
    assert said.startswith(text) and ("up to rounding" in said) is (workers != before)


def test_what_is_told_once_is_read_once_and_belongs_to_the_group_of_its_time():
    board = Board()
    for rank, place in enumerate((HERE, THERE)):
        board.begun(rank, 2, place)
    board.kept(4)
    board.lost(SAID)
    board.begun(0, 1, HERE)
    board.resumed(4, 1, 2)
    board.lost({0: "again"})
    board.write({"step": 5})
    row, (first, second, third) = board.read()
    assert (row, first, second) == ({"step": 5}, Lost({0: HERE, 1: THERE}, SAID, 4), Resumed(4, 1, 2))
    assert third == Lost({0: HERE}, {0: "again"}, 4)
    assert board.read() == ({"step": 5}, [])


def test_what_memory_had_room_for_is_told_and_the_next_try_takes_less():
    board = Board()
    assert board.most_tokens() is None
    board.tell("micro-batches of 4,096 tokens")
    board.warn("memory ran out in step 3")
    board.lessen(2048)
    board.lessen(4096)  # another rank, which ran out later
    assert board.most_tokens() == 2048
    _, news = board.read()
    assert [str(item) for item in news[:2]] == ["micro-batches of 4,096 tokens", "memory ran out in step 3"]
    assert [item.level for item in news[:3]] == [logging.INFO, logging.WARNING, logging.WARNING]
    assert str(news[2]) == "memory ran out; training goes on with micro-batches of 2048 tokens"
