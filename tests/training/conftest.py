import pytest
from tiny_policy import make_examples, save_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    save_model(directory)
    return str(directory)


@pytest.fixture(scope="session")
def examples():
    return make_examples()
