"""Whether an engine serves what was trained, judged from numbers alone."""

import json

import numpy as np
import pytest

from mralign.config import Model
from mralign.serving.probe import TOLERANCE, fault, mean_difference, probe_beside, read_probe

RNG = np.random.default_rng(0)
LENGTHS = (7, 12, 3, 30)
OLD = [RNG.uniform(-6, 0, length) for length in LENGTHS]


def moved(by):
    """The log-probabilities after a training that moved each by about `by`, this way or that."""
    rng = np.random.default_rng(1)
    return [values + by * rng.choice([-1.0, 1.0], len(values)) for values in OLD]


def noisy(rows, size):
    """The same model by another implementation: every value off by up to 2 x `size`, by `size` in the mean."""
    rng = np.random.default_rng(2)
    return [values + rng.uniform(-2 * size, 2 * size, len(values)) for values in rows]


def probe(logps, *, before=OLD):
    befores = [None] * len(logps) if before is None else before
    return [
        {"logps": list(row), "before": None if b is None else list(b)} for row, b in zip(logps, befores, strict=True)
    ]


def test_mean_difference_is_over_tokens_not_over_rows():
    served = [np.array([-1.0, -2.0, -3.0]), np.array([-1.0])]
    assert mean_difference(served, [[-1.0, -2.0, -3.0], [-1.0]]) == 0.0
    assert mean_difference(served, [[-1.5, -2.0, -2.5], [-5.0]]) == pytest.approx((0.5 + 0 + 0.5 + 4) / 4)


def test_rows_of_another_length_are_no_comparison():
    with pytest.raises(AssertionError):
        mean_difference([np.array([-1.0])], [[-1.0, -1.0]])  # numpy would stretch the one
    with pytest.raises(ValueError, match="zip"):
        mean_difference([np.array([-1.0])], [])


@pytest.mark.parametrize(("dtype", "noise"), [("float32", 3e-5), ("float16", 0.01), ("bfloat16", 0.05)])
def test_an_engine_that_serves_what_was_trained_passes(dtype, noise):
    for by in (0.0, 1e-4, 0.02, 0.5, 3.0):
        assert fault(noisy(moved(by), noise), probe(moved(by)), dtype=dtype) is None, by


@pytest.mark.parametrize(("dtype", "noise"), [("float32", 3e-5), ("float16", 0.01), ("bfloat16", 0.05)])
def test_an_engine_that_serves_the_old_model_is_told_so(dtype, noise):
    text = fault(noisy(OLD, noise), probe(moved(0.5)), dtype=dtype)
    assert text.startswith("the engine serves the model from before the training")
    assert "and from the trained one's by 0.5" in text
    assert "The adapter is not applied" in text


def test_an_old_model_is_told_from_a_new_one_below_the_tolerance_too():
    """A movement that rounding could make is still one if the engine is that close to the model from before."""
    for dtype, by in (("float32", 5e-4), ("bfloat16", 0.02)):
        assert by < TOLERANCE[dtype]
        assert "from before the training" in fault(noisy(OLD, 1e-5), probe(moved(by)), dtype=dtype)
        assert fault(noisy(moved(by), 1e-5), probe(moved(by)), dtype=dtype) is None


def test_what_moved_less_than_two_implementations_differ_is_not_judged():
    assert fault(noisy(OLD, 0.0), probe(moved(0.0)), dtype="float32") is None
    for served in (noisy(OLD, 0.02), noisy(moved(0.005), 0.02)):
        assert fault(served, probe(moved(0.005)), dtype="bfloat16") is None


@pytest.mark.parametrize("before", [OLD, None])
def test_an_engine_that_serves_something_else_is_told_so(before):
    other = [np.random.default_rng(9).uniform(-6, 0, length) for length in LENGTHS]
    text = fault(other, probe(moved(0.5), before=before), dtype="bfloat16")
    assert "it does not serve what was trained" in text
    assert "(allowed for bfloat16: 0.08)" in text


def test_without_values_from_before_the_old_model_is_only_another_one():
    text = fault(OLD, probe(moved(0.5), before=None), dtype="float32")
    assert "differ from the trainer's by 0.5 a token (allowed for float32: 0.001)" in text
    assert fault(OLD, probe(moved(5e-4), before=None), dtype="float32") is None


def test_the_tolerance_is_that_of_the_engines_dtype():
    off = [values + 0.05 for values in moved(0.5)]
    assert fault(off, probe(moved(0.5)), dtype="bfloat16") is None
    assert "allowed for float16: 0.03" in fault(off, probe(moved(0.5)), dtype="float16")
    assert "allowed for float32: 0.001" in fault(off, probe(moved(0.5)), dtype="float32")
    assert fault([values + 0.09 for values in moved(0.5)], probe(moved(0.5)), dtype="bfloat16") is not None


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("before", [OLD, None])
def test_an_engine_whose_numbers_are_none_does_not_pass(value, before):
    served = moved(0.5)
    served[1][4] = value
    assert "it does not serve what was trained" in fault(served, probe(moved(0.5), before=before), dtype="float32")


def test_rows_longer_than_the_engine_are_left_out(tmp_path):
    """The engine makes one token more than it scores."""
    rows = [
        {"prompt_ids": [1] * prompt, "completion_ids": [2] * completion, "logps": [-1.0] * completion, "before": None}
        for prompt, completion in ((4, 4), (5, 4), (5, 5), (20, 1))
    ]
    (tmp_path / "probe.json").write_text(json.dumps(rows))
    assert read_probe(str(tmp_path), longest=10) == rows[:2]
    assert read_probe(str(tmp_path), longest=100) == rows
    assert read_probe(f"file://{tmp_path}", longest=9) == rows[:1]
    assert read_probe(str(tmp_path), longest=8) == []


def test_no_file_is_no_rows(tmp_path):
    assert read_probe(str(tmp_path), longest=100) == []
    assert read_probe(str(tmp_path / "nowhere"), longest=100) == []


def test_the_probe_of_a_model_of_ours_lies_beside_it(tmp_path):
    (tmp_path / "model").mkdir()
    assert probe_beside(Model(path=str(tmp_path / "model"))) == ""
    (tmp_path / "probe.json").write_text("[]")
    assert probe_beside(Model(path=str(tmp_path / "model"))) == str(tmp_path)
    assert probe_beside(Model(path=str(tmp_path / "other"))) == ""
    assert probe_beside(Model(path=str(tmp_path / "model"), adapter="a")) == ""  # what is served is another model
    assert probe_beside(Model(path="owner/model")) == ""
