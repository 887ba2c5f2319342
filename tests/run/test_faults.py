"""Faults that were raised in tasks and actors, on a real Ray: what is told of them is what was raised."""

import pytest
import ray
import ray.data

from mralign.run import local_ray
from mralign.run.faults import carried, own_sentence, user_sentence

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("local_ray")]


class Configured(ValueError):
    """A ValueError of a class of its own."""


@ray.remote
def task(kind, text):
    raise kind(text)


@ray.remote
def task_of_a_task(kind, text):
    return ray.get(task.remote(kind, text))


@ray.remote
class Actor:
    """An actor that raises."""

    async def act(self, kind, text):
        raise kind(text)


def raised(reference):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        ray.get(reference)
    return caught.value


def in_task(kind, text):
    return raised(task.remote(kind, text))


def in_task_of_a_task(kind, text):
    return raised(task_of_a_task.remote(kind, text))


def in_actor(kind, text):
    return raised(Actor.remote().act.remote(kind, text))


def in_data(kind, text):
    """Of a function that Ray Data maps."""

    def fail(table):
        raise kind(text)

    local_ray.settle_data()
    with pytest.raises(Exception) as caught:  # noqa: PT011
        list(ray.data.from_items([1]).map_batches(fail, batch_format="pyarrow").iter_batches())
    return caught.value


def in_an_actor_that_starts(kind, text):
    @ray.remote
    class Failing:
        def __init__(self):
            raise kind(text)

        def act(self):
            return None

    return raised(Failing.remote().act.remote())


def in_an_actor_of_data(kind, text):
    """Of one that starts, as an engine's does."""

    class Failing:
        def __init__(self):
            raise kind(text)

        def __call__(self, table):
            return table

    local_ray.settle_data()
    with pytest.raises(Exception) as caught:  # noqa: PT011
        list(ray.data.from_items([1]).map_batches(Failing, concurrency=1, batch_format="pyarrow").iter_batches())
    return caught.value


ways = pytest.mark.parametrize(
    "way", [in_task, in_task_of_a_task, in_actor, in_an_actor_that_starts, in_data, in_an_actor_of_data]
)


@ways
@pytest.mark.parametrize("kind", [ValueError, Configured])
def test_a_value_error_of_a_worker_is_told_as_it_was_raised(way, kind):
    error = way(kind, "give a\tlabel,\x1b[2J not a number")
    assert user_sentence(error) == "give a label, not a number"


@ways
def test_a_fault_of_ours_is_told_in_one_sentence(way):
    error = way(KeyError, "row\nid")
    assert user_sentence(error) is None
    assert own_sentence(error) == "a fault of mralign, not of your input: KeyError: 'row\\nid'"


def test_a_worker_that_dies_is_a_fault_of_the_cluster():
    @ray.remote(max_retries=0)
    def die():
        import os

        os._exit(9)

    error = raised(die.remote())
    assert user_sentence(error) is None
    assert own_sentence(error).startswith("the cluster failed: WorkerCrashedError: ")
    assert own_sentence(error).endswith("; what was committed is kept: run the same command to go on")
    assert "\n" not in own_sentence(error)


def test_a_task_of_data_that_dies_says_how_and_not_that_a_system_failed():
    def die(table):
        import os

        os._exit(9)

    local_ray.settle_data()
    once = {"max_retries": 0, "batch_format": "pyarrow"}
    with pytest.raises(ray.exceptions.RayError) as caught:
        list(ray.data.from_items([1]).map_batches(die, **once).iter_batches())
    assert own_sentence(caught.value).startswith("the cluster failed: WorkerCrashedError: ")


def test_what_ray_s_core_raises_without_a_type_is_a_fault_of_the_cluster():
    gone = ray.util.placement_group([{"CPU": 1}])
    assert gone.wait(60)
    ray.util.remove_placement_group(gone)

    def look():
        while True:
            gone.wait(1)

    with pytest.raises(Exception, match="does not exist") as caught:
        look()
    assert type(caught.value) is Exception
    assert own_sentence(caught.value).startswith("the cluster failed: Exception: Placement group ")


def test_an_exception_of_ours_without_a_type_is_none_of_the_cluster():
    def act():
        raise Exception("ours")

    with pytest.raises(Exception, match="ours") as caught:
        act()
    assert own_sentence(caught.value) == "a fault of mralign, not of your input: Exception: ours"
    assert own_sentence(Exception("ours")) == "a fault of mralign, not of your input: Exception: ours"


def test_a_value_error_that_only_lies_behind_a_fault_is_not_the_user_s():
    def act():
        try:
            raise ValueError("inside")
        except ValueError as inner:
            raise RuntimeError("outside") from inner

    with pytest.raises(RuntimeError) as caught:
        act()
    assert carried(caught.value) is caught.value
    assert user_sentence(caught.value) is None
    assert own_sentence(caught.value) == "a fault of mralign, not of your input: RuntimeError: outside"


def test_a_long_fault_is_cut():
    assert len(own_sentence(RuntimeError("x" * 5000))) < 500
