"""One writer: two drivers, killed drivers, other machines, object stores.

Drivers are real processes where a process matters. Another machine is a lease file that names one. The object stores
are S3 and Google's on loopback behind pyarrow's own clients, and fsspec's memory file system.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import loopback_gcs
import pytest
from pyarrow import fs

from mralign.run import lease
from mralign.run.store import Directory

ROOT = Path(__file__).parents[2]

DRIVER = """
import sys, time
from mralign.run import interruption
interruption.listen()  # before pyarrow starts threads
from mralign.run import lease
lease.RENEW_S = 0.2

def act():
    with lease.hold(sys.argv[1]):
        print("holds", flush=True)
        time.sleep(60)

sys.exit(interruption.guarded(act, explain=lambda e: str(e) if isinstance(e, ValueError) else None))
"""


def hold(place, **options):
    return lease.hold(str(place), **options)


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 0.1)
    monkeypatch.setattr(lease, "STALE_S", 1.0)
    monkeypatch.setattr(lease, "_LOOK_S", 0.05)
    monkeypatch.setattr(lease, "_SETTLE_S", 0.05)


@pytest.fixture(params=["path", "uri", "memory", "s3", "gcs"])
def place(request, tmp_path):
    if request.param == "s3":
        request.getfixturevalue("bucket")
    if request.param == "gcs":
        request.getfixturevalue("google_bucket")
    kinds = {"path": f"{tmp_path}/my run", "uri": f"file://{tmp_path}/run", "memory": f"memory://b{tmp_path}/run"}
    stores = {"s3": "s3://bucket/a/run", "gcs": f"{loopback_gcs.HOME}/a/run"}
    return (kinds | stores)[request.param]


@pytest.fixture
def start():
    """Starts a driver on a directory and returns it once it holds the lease."""
    started = []

    def driver(place):
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(place)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        started.append(process)
        assert process.stdout.readline() == "holds\n", process.communicate()[1]
        return process

    yield driver
    for process in started:
        process.kill()
        process.communicate()


def elsewhere(place, **changes):
    """The lease file of a driver on another machine."""
    values = {"state": "held", "job": "align.py", "host": "node-7", "pid": 41, "machine": "another", "began": 5}
    values |= {"token": "t", "taken": "2026-01-01T00:00:00+00:00", "renewed": "2026-01-01T00:00:00+00:00"}
    file = Path(place) / "lease" / "000004.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values | changes))
    return file


def files(place):
    return {file.name: json.loads(file.read_text()) for file in (Path(place) / "lease").iterdir()}


def test_a_second_driver_is_refused_with_host_pid_and_age_and_the_next_one_is_not(place):
    with hold(place):
        with pytest.raises(ValueError, match="another driver writes into") as refused, hold(place):
            pass
        time.sleep(0.5)  # several renewals
        with pytest.raises(ValueError, match="--take-over"), hold(place + "/"):
            pass
    holder = rf"on host {os.uname().nodename}, pid {os.getpid()}, lease \d s old, renewed \d s ago"
    assert re.search(holder, str(refused.value))
    for _ in range(2):
        with hold(place):
            pass


def test_a_directory_in_which_nothing_can_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="nothing can be written into"), hold(str(tmp_path / "file/run")):
        pass


def test_two_directories_have_two_leases(place):
    with hold(place), hold(place + "2"):
        pass


def test_one_directory_by_three_spellings_has_one_lease(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with hold(f"{tmp_path}/run"):
        for other in (f"file://{tmp_path}/run/", f"{tmp_path}/link", f"{tmp_path}/x/../run"):
            (tmp_path / "x").mkdir(exist_ok=True)
            with pytest.raises(ValueError, match="another driver"), hold(other):
                pass


def test_a_driver_in_another_process_is_told_of_and_what_it_leaves_after_a_signal_is_free(start, tmp_path):
    first = start(tmp_path)
    with pytest.raises(ValueError, match=rf"pid {first.pid}, lease \d+ s old, renewed \d s ago"), hold(tmp_path):
        pass
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=30) == 130
    assert [held["state"] for held in files(tmp_path).values()] == ["free"]
    with hold(tmp_path):
        pass


def test_after_kill_9_on_this_machine_the_directory_is_free_at_once(start, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "STALE_S", 3600.0)
    first = start(tmp_path)
    first.kill()  # not waited for: its parent has not asked for its status yet, and it is a zombie
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    with hold(tmp_path):
        assert [held["pid"] for held in files(tmp_path).values()] == [os.getpid()]


def test_another_process_with_the_pid_of_a_dead_driver_holds_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "STALE_S", 3600.0)
    with hold(tmp_path / "probe"):
        (ours,) = files(tmp_path / "probe").values()
    elsewhere(tmp_path, machine=ours["machine"], pid=os.getpid(), began=ours["began"] - 1)
    with hold(tmp_path):
        pass
    elsewhere(tmp_path / "alive", machine=ours["machine"], pid=os.getpid(), began=ours["began"])
    with pytest.raises(ValueError, match="another driver"), hold(tmp_path / "alive"):
        pass


def test_on_an_object_store_a_driver_in_another_process_is_told_of_and_its_kill_makes_room(start, bucket, monkeypatch):
    monkeypatch.setattr(lease, "STALE_S", 3600.0)
    first = start("s3://bucket/run")
    with pytest.raises(ValueError, match=rf"pid {first.pid}, lease \d+ s old"), hold("s3://bucket/run/"):
        pass
    first.kill()
    first.wait()
    second = start("s3://bucket/run")
    second.send_signal(signal.SIGTERM)
    assert second.wait(timeout=30) == 130
    with hold("s3://bucket/run"):
        (held,) = (json.loads(data) for key, data in bucket.objects.items() if key.endswith(".json"))
        assert (held["state"], held["pid"]) == ("held", os.getpid())


def test_a_suspended_driver_of_this_machine_still_holds(start, tmp_path):
    first = start(tmp_path)
    first.send_signal(signal.SIGSTOP)
    time.sleep(1.2)  # longer than a lease of another machine lasts
    with pytest.raises(ValueError, match="another driver"), hold(tmp_path):
        pass


def test_of_a_driver_elsewhere_that_renews_no_more_the_lease_is_taken_whatever_its_clock_says(tmp_path):
    for clock in ("2020-01-01", "2099-01-01"):
        elsewhere(tmp_path, renewed=f"{clock}T00:00:00+00:00")
        began = time.monotonic()
        with hold(tmp_path):
            assert time.monotonic() - began >= 1.0
            assert [held["host"] for held in files(tmp_path).values()] == [os.uname().nodename]
        (tmp_path / "lease" / "000005.json").unlink()


def test_a_driver_elsewhere_that_renews_is_found_alive_whatever_its_clock_says(tmp_path):
    file = elsewhere(tmp_path)
    ended = threading.Event()

    def renew():
        count = 0
        while not ended.wait(0.3):
            count += 1
            values = json.loads(file.read_text()) | {"renewed": f"1999-01-01T00:00:{count:02d}+00:00"}
            file.write_text(json.dumps(values))

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(ValueError, match="on host node-7, pid 41"), hold(tmp_path):
            pass
    finally:
        ended.set()
        thread.join()


def test_a_driver_elsewhere_that_ends_while_it_is_watched_makes_room(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "STALE_S", 3600.0)
    elsewhere(tmp_path)
    threading.Timer(0.5, lambda: elsewhere(tmp_path, state="free")).start()
    with hold(tmp_path):
        pass


def test_a_file_whose_writer_was_killed_before_it_wrote_keeps_nobody_out_for_long(tmp_path):
    (tmp_path / "lease").mkdir()
    (tmp_path / "lease" / "000001.json").touch()
    with hold(tmp_path):
        pass


def test_a_driver_whose_lease_is_taken_over_ends_first(start, tmp_path):
    first = start(tmp_path)
    with hold(tmp_path, take_over=True):
        # Its status is there before ours begins, or just after: it frees its lease as its last act but one.
        assert first.wait(timeout=10) == 130
        assert [held["pid"] for held in files(tmp_path).values()] == [os.getpid()]
    said = first.communicate()[1]
    assert (
        f"was taken from this run by {Path(sys.argv[0]).name} on host {os.uname().nodename}, pid {os.getpid()}" in said
    )


def test_a_driver_whose_lease_somebody_deletes_ends(start, tmp_path):
    first = start(tmp_path)
    (tmp_path / "lease" / "000001.json").unlink()
    assert first.wait(timeout=10) == 130
    assert "was taken from this run by somebody who deleted it" in first.communicate()[1]
    assert not list((tmp_path / "lease").iterdir())


def test_of_many_that_start_at_once_one_holds_at_a_time(place):
    count, together = 12, threading.Barrier(12)
    inside, most, outcomes = [], [], []

    def drive():
        together.wait()
        try:
            with hold(place):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.3)
                inside.pop()
            outcomes.append("held")
        except ValueError as error:
            outcomes.append("refused" if "another driver" in str(error) else str(error))

    threads = [threading.Thread(target=drive) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == count
    assert set(outcomes) <= {"held", "refused"}
    assert "held" in outcomes
    assert set(most) == {1}


def test_no_argument_of_the_command_is_written_down(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["jobs/align.py", "http.headers={Authorization: secret}"])
    with hold(tmp_path):
        (file,) = (tmp_path / "lease").iterdir()
        assert '"align.py"' in file.read_text()
        assert "secret" not in file.read_text()


@pytest.mark.parametrize(
    ("argv", "job"),
    [
        (["/usr/bin/mralign", "align", "http.headers={Authorization: secret}"], "mralign align"),
        (
            ["/site-packages/mralign/__main__.py", "evaluate", "http.headers={Authorization: secret}"],
            "mralign evaluate",
        ),
        (["/usr/bin/mralign", "http.headers={Authorization: secret}"], "mralign"),
        (["/usr/bin/mralign"], "mralign"),
    ],
)
def test_a_command_is_named_without_its_arguments(tmp_path, monkeypatch, argv, job):
    monkeypatch.setattr(sys, "argv", argv)
    with hold(tmp_path):
        (file,) = (tmp_path / "lease").iterdir()
        assert json.loads(file.read_text())["job"] == job
        assert "secret" not in file.read_text()
        (holder,) = lease.holders(str(tmp_path))
        assert (holder.job, holder.pid) == (job, os.getpid())
    assert lease.holders(str(tmp_path)) == []


ENDPOINT = '{base_url: "http://127.0.0.1:9/v1", model: m}'
JOBS = {
    "align.py": ["run.dir=RUN", "--until", "questions"],
    "evaluate.py": ["run.dir=RUN"],
    "ablate.py": ["--table", "main", "run.dir=RUN"],
    "taxonomy.py": ["run.dir=RUN", f"discovery.labeller={{name: chat, engine: http, http: {ENDPOINT}}}"],
    "compare.py": ["--out", "RUN", "--worlds", "0"],
}
JOBS["taxonomy.py"].append("discovery.embedding.gpu=true")  # nothing is looked for on this machine


def job(name, arguments, place):
    command = [sys.executable, f"jobs/{name}", *(argument.replace("RUN", str(place)) for argument in arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize("name", JOBS)
def test_every_job_that_writes_is_refused_before_it_has_written(tmp_path, name):
    with hold(tmp_path / "run"):
        done = job(name, JOBS[name], tmp_path / "run")
    assert done.returncode == 2, done.stderr
    assert f"another driver writes into {tmp_path}/run" in done.stderr
    assert f"pid {os.getpid()}" in done.stderr
    assert "Traceback" not in done.stderr
    assert [place.name for place in (tmp_path / "run").iterdir()] == ["lease"]


def test_a_comparison_is_refused_while_another_driver_writes_into_the_run_of_one_of_its_worlds(tmp_path):
    with hold(tmp_path / "world-1" / "run"):
        done = job("compare.py", ["--out", "RUN", "--worlds", "0,1"], tmp_path)
    assert done.returncode == 2, done.stderr
    assert f"another driver writes into {tmp_path}/world-1/run" in done.stderr


def test_a_dry_run_needs_no_lease(tmp_path):
    with hold(tmp_path / "run"):
        done = job("align.py", ["run.dir=RUN", "--dry-run"], tmp_path / "run")
    assert done.returncode == 0, done.stderr


def test_a_configuration_that_is_refused_leaves_no_lease(tmp_path):
    done = job("align.py", ["run.dir=RUN", "model.path=./gone"], tmp_path / "run")
    assert done.returncode == 2
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_made_while_it_is_looked_for_is_listed_again(tmp_path, monkeypatch):
    """pyarrow first finds no folder; it then looks whether there is one, and fails if another driver has made it."""
    looks = []

    class Racing(fs.LocalFileSystem):
        def get_file_info(self, asked):
            looks.append(asked)
            if len(looks) == 1:
                raise FileNotFoundError("Cannot list directory")
            return super().get_file_info(asked)

    directory = Directory(str(tmp_path))
    directory.write_text("lease/000001-a.json", "{}")
    monkeypatch.setitem(directory.__dict__, "_opened", (Racing(), str(tmp_path)))
    assert lease._names(directory) == ["000001-a.json"]
    assert len(looks) == 2
