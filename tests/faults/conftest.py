"""The options of the runs with faults, and the session that they share."""

import os
from pathlib import Path

import fault_results
import pytest
from cells import MIDDLE
from signal_moments import moments_of


def pytest_addoption(parser):
    parser.addoption("--left", action="store_true", help="run only what has no result yet")
    parser.addoption("--stages", default="", help="kill in these stages only, with commas between them")


def pytest_collection_modifyitems(config, items):
    """Leave out the stages of which everything ended as it should."""
    if not config.getoption("--left", default=False):
        return
    signalled = fault_results.done(fault_results.SIGNALS)
    done = {
        stage
        for stage in ("start", *MIDDLE, "report")
        if all(f"{stage}: {moment}" in signalled for moment in moments_of(stage))
    }
    gone = [item for item in items if hasattr(item, "callspec") and item.callspec.id in done]
    config.hook.pytest_deselected(items=gone)
    items[:] = [item for item in items if item not in gone]


@pytest.fixture(scope="session")
def session(tmp_path_factory):
    """Servers, nodes and the undisturbed run; FAULTS_HOME names a directory that keeps it."""
    from fault_session import Session

    home = Path(os.environ.get("FAULTS_HOME") or tmp_path_factory.mktemp("faults"))
    home.mkdir(parents=True, exist_ok=True)
    found = Session(home)
    yield found
    found.close()
