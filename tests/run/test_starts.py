"""An actor that dies while it starts, on a real Ray: two deaths are borne, a third ends the run with a reason."""

import os

import pytest
import ray
import ray.data

from mralign.run import local_ray
from mralign.run.faults import MachineFault, own_sentence, user_sentence
from mralign.run.starts import MOST, starting

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("local_ray")]

ENDED = f"the cluster failed: a process ended {MOST} times in a row while it started, and raised nothing: "


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


def tallies(home):
    return list(home.glob(f"mralign-starts-{os.getuid()}-*"))


def below(home):
    """Options of an actor whose tally lies in `home`, where no other test's is."""
    return {"max_restarts": -1, "max_task_retries": 9, "runtime_env": {"env_vars": {"TMPDIR": str(home)}}}


@pytest.fixture
def marks(tmp_path):
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def test_an_actor_that_dies_twice_while_it_starts_is_started_a_third_time(tmp_path, marks):
    actor = ray.remote(dying(deaths=MOST - 1, marks=marks)).options(**below(tmp_path)).remote()
    assert ray.get(actor.answer.remote(), timeout=180) == "started"
    assert len(list(marks.iterdir())) == MOST - 1
    assert not tallies(tmp_path)


def test_one_that_dies_a_third_time_is_told_and_not_started_again(tmp_path, marks):
    actor = ray.remote(dying(deaths=99, marks=marks)).options(**below(tmp_path)).remote()
    with pytest.raises(ray.exceptions.RayActorError) as caught:
        ray.get(actor.answer.remote(), timeout=180)
    assert user_sentence(caught.value) is None
    assert own_sentence(caught.value).startswith(ENDED)
    assert own_sentence(caught.value).endswith("run the same command: what was committed is kept")
    assert len(list(marks.iterdir())) == MOST
    assert not tallies(tmp_path)


def test_so_is_an_actor_of_ray_data(tmp_path, marks):
    local_ray.settle_data()
    given = {"concurrency": 1, "batch_format": "pyarrow", "runtime_env": below(tmp_path)["runtime_env"]}
    data = ray.data.from_items([1]).map_batches(dying(deaths=99, marks=marks), **given)
    with pytest.raises(Exception, match="a thing") as caught:
        list(data.iter_batches())
    assert own_sentence(caught.value).startswith(ENDED)


def test_what_raises_while_it_starts_is_raised_and_not_counted(tmp_path):
    @ray.remote
    class Raising:
        def __init__(self):
            with starting("a thing"):
                raise KeyError("no such weight")

        def answer(self):
            return None

    with pytest.raises(ray.exceptions.RayActorError) as caught:
        ray.get(Raising.options(**below(tmp_path)).remote().answer.remote(), timeout=180)
    assert own_sentence(caught.value) == "a fault of mralign, not of your input: KeyError: 'no such weight'"
    assert not tallies(tmp_path)


def test_an_old_tally_of_an_actor_that_was_ended_is_removed(tmp_path):
    old, young = (tmp_path / f"mralign-starts-{os.getuid()}-{name}" for name in ("old", "young"))
    for tally in (old, young):
        tally.write_text("2")
    os.utime(old, (0, 0))

    @ray.remote
    class Fine:
        def __init__(self):
            with starting("a thing"):
                pass

        def answer(self):
            return "started"

    assert ray.get(Fine.options(**below(tmp_path)).remote().answer.remote(), timeout=180) == "started"
    assert tallies(tmp_path) == [young]


def test_outside_an_actor_nothing_is_counted(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with starting("a thing"):
        assert not tallies(tmp_path)


def test_where_no_file_can_be_written_nothing_is_counted_and_what_is_raised_stays(monkeypatch, tmp_path):
    monkeypatch.setattr("mralign.run.starts._tally", lambda: tmp_path / "no-such-directory" / "tally")
    with starting("a thing"):
        pass
    (tmp_path / "tally").mkdir()  # which cannot be read, written or unlinked
    monkeypatch.setattr("mralign.run.starts._tally", lambda: tmp_path / "tally")
    with pytest.raises(KeyError, match="no such weight"), starting("a thing"):
        raise KeyError("no such weight")


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
