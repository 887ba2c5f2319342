"""The option of `make test-cluster` by which only what has no result is run."""

import fault_results
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
