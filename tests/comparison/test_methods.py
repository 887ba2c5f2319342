"""Methods are files: each another configuration, and one of one's own is a path."""

import pytest

from mralign.comparison.methods import ORDER, configured, names
from mralign.config import parse

CONFIG = parse({"questions": {"train": [{"name": "a", "path": "a"}]}})


def test_every_method_is_a_configuration_of_its_own():
    configs = [configured(CONFIG, name) for name in names()]
    assert set(ORDER) <= set(names())
    assert all(a != b for i, a in enumerate(configs) for b in configs[:i])


def test_a_file_of_ones_own_is_a_method(tmp_path):
    path = tmp_path / "gentle.yaml"
    path.write_text("training: {beta: 0.02}\nweights: {clip_max: 1.5}\n")
    changed = configured(CONFIG, str(path))
    assert (changed.training.beta, changed.weights.clip_max, changed.training.method) == (0.02, 1.5, "mralign")


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="no method 'kot'; allowed are"):
        configured(CONFIG, "kot")
