"""An actor that dies while it starts, on a real Ray: two deaths are borne, a third ends the run with a reason."""

import os
import tempfile
from pathlib import Path

import pytest
import ray
import ray.data

from mralign.run import local_ray
from mralign.run.faults import MachineFault, own_sentence, user_sentence
from mralign.run.starts import MOST, starting

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("local_ray")]

ENDED = f"the cluster failed: the process of a thing ended {MOST} times in a row while it started on "


def dying(*, deaths, marks):
    """A class whose constructor ends its process the first `deaths` times, and counts that in the directory `marks`."""

    class Dying:
        def __init__(self, **_):
            with starting("a thing"):
                before = len(list(marks.iterdir()))
                if before < deaths:
                    (marks / str(before)).touch()
                    os._exit(9)

        def __call__(self, table):
            return table

        def answer(self):
            return "started"

    return Dying


def tallies():
    return list(Path(tempfile.gettempdir()).glob(f"mralign-starts-{os.getuid()}-*"))


def test_an_actor_that_dies_twice_while_it_starts_is_started_a_third_time(tmp_path):
    actor = ray.remote(dying(deaths=MOST - 1, marks=tmp_path)).options(max_restarts=-1, max_task_retries=9).remote()
    assert ray.get(actor.answer.remote(), timeout=60) == "started"
    assert not tallies()


def test_one_that_dies_a_third_time_is_told_and_not_started_again(tmp_path):
    actor = ray.remote(dying(deaths=99, marks=tmp_path)).options(max_restarts=-1, max_task_retries=9).remote()
    with pytest.raises(ray.exceptions.RayActorError) as caught:
        ray.get(actor.answer.remote(), timeout=60)
    assert user_sentence(caught.value) is None
    assert own_sentence(caught.value).startswith(ENDED)
    assert own_sentence(caught.value).endswith("run the same command to go on")
    assert len(list(tmp_path.iterdir())) == MOST
    assert not tallies()


def test_so_is_an_actor_of_ray_data(tmp_path):
    local_ray.settle_data()
    kind = dying(deaths=99, marks=tmp_path)
    with pytest.raises(Exception, match="a thing") as caught:
        list(ray.data.from_items([1]).map_batches(kind, concurrency=1, batch_format="pyarrow").iter_batches())
    assert own_sentence(caught.value).startswith(ENDED)


def test_what_raises_while_it_starts_is_raised_and_not_counted():
    @ray.remote
    class Raising:
        def __init__(self):
            with starting("a thing"):
                raise KeyError("no such weight")

        def answer(self):
            return None

    with pytest.raises(ray.exceptions.RayActorError) as caught:
        ray.get(Raising.remote().answer.remote(), timeout=60)
    assert own_sentence(caught.value) == "a fault of mralign, not of your input: KeyError: 'no such weight'"
    assert not tallies()


def test_outside_an_actor_nothing_is_counted():
    with starting("a thing"):
        assert not tallies()


def test_a_full_disk_only_means_that_nothing_is_counted(monkeypatch, tmp_path):
    monkeypatch.setattr("mralign.run.starts._tally", lambda: tmp_path / "no-such-directory" / "tally")
    with starting("a thing"):
        pass


def test_a_tally_that_cannot_be_read_counts_as_none(monkeypatch, tmp_path):
    tally = tmp_path / "tally"
    tally.write_text("torn\0")
    monkeypatch.setattr("mralign.run.starts._tally", lambda: tally)
    with starting("a thing"):
        assert tally.read_text() == "1"
    tally.write_text(str(MOST))
    with pytest.raises(MachineFault, match="a thing"), starting("a thing"):
        pytest.fail("it was started")
    assert not tally.exists()
