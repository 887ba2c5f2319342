"""A local Ray for the tests that ask for one, and a sign that pytest came to its end.

Ray's core can end its driver, here pytest, without a word. `.ci/run` then finds no `.pytest_cache/ended`, and shows
what Ray has logged.
"""

import logging
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Times say little on a machine that is shared: an example that takes long is no fault.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

# A script that starts pytest in its background, or under nohup, makes it and all that it starts deaf to these.
for _number, _heard in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _heard)

ENDED = Path(__file__).parents[1] / ".pytest_cache" / "ended"


def pytest_collection_modifyitems(items):
    """What takes longest begins first: two processes then end at about the same time."""
    items.sort(key=lambda item: item.get_closest_marker("integration") is None)


def pytest_sessionstart(session):
    if hasattr(session.config, "workerinput"):  # one of several processes: the sign is the first one's
        return
    ENDED.parent.mkdir(exist_ok=True)
    ENDED.unlink(missing_ok=True)


def pytest_sessionfinish(session, exitstatus):
    if hasattr(session.config, "workerinput"):
        return
    ENDED.write_text(f"{int(exitstatus)}\n")


@pytest.fixture(scope="module")
def local_ray():
    """Two logical CPUs in this process's own Ray, which `.ci/run` finds by the name of its directory."""
    import ray

    directory = tempfile.mkdtemp(prefix="mralign-ray-", dir="/tmp")  # Ray's sockets need a short path
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=100 * 2**20,
            include_dashboard=False,
            _temp_dir=directory,
            logging_level=logging.ERROR,
        )
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        yield
        ray.shutdown()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def bucket(monkeypatch):
    """S3 on loopback; s3://bucket/... leads there."""
    import loopback_s3

    with loopback_s3.serve() as (store, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield store


@pytest.fixture
def google_bucket(monkeypatch):
    """Google's object store on loopback; loopback_gcs.HOME leads there."""
    import loopback_gcs

    with loopback_gcs.serve() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield
