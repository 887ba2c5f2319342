"""What is held between stages, and when it is given back: numbers without a cluster."""

import pytest

from mralign.run import held
from mralign.run.held import Held, hold, holding, make_room, may_hold, rehearse_once
from mralign.run.placement import Workers

ENGINE = Workers("engines", "engine", cpus=2)
ON_A_GPU = Workers("engines", "engine", gpus=1)


@pytest.fixture
def nodes(monkeypatch):
    """The nodes of the cluster; a test fills them in."""
    found = []
    monkeypatch.setattr(held, "alive_nodes", lambda: found)
    return found


def keep(workers, **more):
    """Hold workers; the list that is returned gets an item when they are given back."""
    returned = []
    hold(Held(workers, lambda: returned.append(True), **more))
    return returned


def test_what_is_held_is_given_back_when_the_outermost_block_ends():
    assert not may_hold()
    with holding():
        with holding():
            returned = keep(ENGINE)
        assert may_hold()
        assert not returned
    assert returned == [True]
    assert not may_hold()


def test_an_interrupted_block_gives_back_as_well():
    def run():
        with holding():
            returned.extend([keep(ENGINE)])
            raise KeyboardInterrupt

    returned = []
    with pytest.raises(KeyboardInterrupt):
        run()
    assert returned == [[True]]


@pytest.mark.parametrize(
    ("cpus", "workers", "stays"),
    [
        (4, [], True),
        (2, [], False),  # no CPU would be left for a short task
        (4, [Workers("training workers", "t", least=2, most=2)], True),
        (4, [Workers("training workers", "t", least=3, most=3)], False),
        (64, [Workers("training workers", "t", least=1, most=2, elastic=True)], False),  # Ray counts all 64 for it
        (2, [ENGINE], True),  # the stage's own
        (4, [ENGINE, Workers("tasks", "t", cpus=2)], True),
    ],
)
def test_room_on_one_machine(nodes, cpus, workers, stays):
    nodes.append({"CPU": cpus})
    with holding():
        returned = keep(ENGINE)
        make_room(workers)
        assert bool(returned) is not stays


def test_a_gpu_is_given_back_to_a_training_that_needs_all(nodes):
    nodes.append({"CPU": 8, "GPU": 2})
    with holding():
        returned = keep(ON_A_GPU)
        make_room([Workers("training workers", "t", gpus=1)])
        assert not returned
        make_room([Workers("training workers", "t", gpus=1, least=2, most=2)])
        assert returned


def test_on_several_nodes_a_stage_with_workers_gets_all_the_room(nodes):
    nodes.extend([{"CPU": 8}, {"CPU": 8}])
    with holding():
        returned = keep(ENGINE)
        make_room([])
        assert not returned
        make_room([Workers("training workers", "t")])
        assert returned


def test_a_large_model_does_not_stay_beside_other_workers(nodes):
    nodes.append({"CPU": 64})
    with holding():
        returned = keep(ENGINE, alone=True)
        make_room([])
        assert not returned
        make_room([Workers("training workers", "t")])
        assert returned


def test_a_rehearsal_on_a_gpu_gets_the_room_once(nodes):
    asked = []
    with holding():
        returned = keep(ON_A_GPU)
        for _ in range(2):
            assert rehearse_once("stage", lambda: not asked.append(True), workers=[ON_A_GPU])
        assert (asked, returned) == ([True], [True])
    rehearse_once("stage", lambda: not asked.append(True), workers=[ON_A_GPU])
    assert asked == [True, True]  # another run may join another cluster
