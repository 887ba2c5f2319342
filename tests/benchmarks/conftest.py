"""What tests of benchmarks share."""

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def benchmark():
    """A benchmark as a module, by its name; its directory, which holds a `rollouts.py`, must not stay on the path."""

    def load(name):
        before = list(sys.path)
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # its dataclasses look it up
        spec.loader.exec_module(module)
        sys.path[:] = before
        return module

    return load
