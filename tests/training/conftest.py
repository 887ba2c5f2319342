import pytest
from tiny_policy import make_task, save_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    save_model(directory)
    return str(directory)


@pytest.fixture(scope="session")
def task(tmp_path_factory, tiny_model):
    """The tiny task with its reference, batches of 6."""
    return make_task(tmp_path_factory.mktemp("task"), tiny_model)
