"""A labeller is read as it was written; a damaged or hostile directory is refused in a sentence."""

import hashlib
import json
import pickle

import numpy as np
import pytest
from planted import planted
from safetensors.numpy import save
from taught_panel import random_labeller

from mralign.annotation.labeller_file import MANIFEST, WEIGHTS, read_labeller, write_labeller


@pytest.fixture
def written(tmp_path):
    write_labeller(tmp_path / "own", random_labeller(("x", "y")), report={"trajectories": 3})
    return tmp_path / "own"


def edit(directory, **changes):
    manifest = json.loads((directory / MANIFEST).read_text())
    (directory / MANIFEST).write_text(json.dumps(manifest | changes))


def reseal(directory, weights):
    """Other weights under a manifest that names them."""
    (directory / WEIGHTS).write_bytes(weights)
    edit(directory, sha256=hashlib.sha256(weights).hexdigest())


def test_a_labeller_is_read_as_it_was_written(written):
    given, found = random_labeller(("x", "y")), read_labeller(str(written))
    assert np.array_equal(found.weight_CH, given.weight_CH) and np.array_equal(found.intercept_H, given.intercept_H)
    assert (found.labels, found.calibration) == (given.labels, given.calibration)
    assert len(found.digest) == 64
    segments = ["ask alba eins", "look beno zwei"]
    assert found.annotate(segments) == given.annotate(segments)


def test_other_weights_than_those_of_the_manifest_are_refused(written):
    weights = bytearray((written / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (written / WEIGHTS).write_bytes(weights)
    with pytest.raises(ValueError, match=r"is not the file that labeller\.json was written with"):
        read_labeller(str(written))


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS])
def test_a_missing_file_is_named(written, name):
    (written / name).unlink()
    with pytest.raises(ValueError, match=f"holds no {name}, so no labeller; give a directory"):
        read_labeller(str(written))


def test_a_pickle_is_never_loaded(written, tmp_path):
    mark = tmp_path / "ran"
    reseal(written, planted(mark))
    with pytest.raises(ValueError, match="is not safetensors"):
        read_labeller(str(written))
    (written / MANIFEST).write_bytes(pickle.dumps({"format": "x"}))
    with pytest.raises(ValueError, match=r"labeller\.json is no labeller's"):
        read_labeller(str(written))
    assert not mark.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "mralign labeller 2"},
        {"labels": []},
        {"labels": ["x", "x"]},
        {"labels": ["<start>", "y"]},
        {"labels": [str(number) for number in range(65)]},
        {"labels": "xy"},
        {"calibration": {"slope": 0, "none": 0.0, "pair": 0.0}},
        {"calibration": {"slope": float("nan"), "none": 0.0, "pair": 0.0}},
        {"calibration": {"slope": 1.0, "none": 0.0}},
        {"code": "import os"},
    ],
    ids=str,
)
def test_a_manifest_that_does_not_fit_is_refused(written, changes):
    edit(written, **changes)
    with pytest.raises(ValueError, match=r"labeller\.json is no labeller's .*; give a directory that"):
        read_labeller(str(written))


@pytest.mark.parametrize("text", ["", "[]", "null", '{"format"', "[" * 100_000, "\x00" * 9])
def test_anything_else_than_a_manifest_is_refused(written, text):
    (written / MANIFEST).write_text(text)
    with pytest.raises(ValueError, match=r"labeller\.json is no labeller's"):
        read_labeller(str(written))


def test_a_file_too_large_is_not_read(written):
    with (written / MANIFEST).open("a") as file:
        file.write(" " * (1 << 20))
    with pytest.raises(ValueError, match="a labeller's has at most 1048576"):
        read_labeller(str(written))


@pytest.mark.parametrize("fault", ["shape", "type", "name", "more", "nan", "inf"])
def test_weights_that_do_not_fit_are_refused(written, fault):
    given = random_labeller(("x", "y"))
    arrays = {"weight": given.weight_CH.copy(), "intercept": given.intercept_H.copy()}
    if fault == "shape":
        arrays["weight"] = arrays["weight"][:-1]
    elif fault == "type":
        arrays["weight"] = arrays["weight"].astype(np.float16)
    elif fault == "name":
        arrays["bias"] = arrays.pop("intercept")
    elif fault == "more":
        arrays["extra"] = np.zeros(1, np.float32)
    else:
        arrays["weight"][5, 1] = float(fault)
    reseal(written, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
    wanted = "not finite" if fault in ("nan", "inf") else "allowed are float32 of"
    with pytest.raises(ValueError, match=wanted):
        read_labeller(str(written))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_manifest_that_was_written_in_part_is_refused(written, share):
    whole = (written / MANIFEST).read_bytes()
    (written / MANIFEST).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"labeller\.json is no labeller's"):
        read_labeller(str(written))


INTERVAL = [0.5, 0.4, 0.6]
AGREEMENT = dict.fromkeys(("strict", "entail", "kappa_strict", "kappa_entail"), INTERVAL)
REPORT = {
    "questions": 30,
    "trajectories": 40,
    "agreement": [{"pair": ["labeller", "panel"], "steps": 3, **AGREEMENT, "kappa_strict": [float("nan")] * 3}],
    "weights": {"mean_change": [1, 0, 2], "largest_change": None},
}


def test_what_a_report_says_is_repeated_as_far_as_it_is_one(tmp_path):
    write_labeller(tmp_path, random_labeller(("x", "y")), report=REPORT)
    told = {**AGREEMENT, "pair": ["labeller", "panel"], "kappa_strict": None, "mean_l1": None}
    assert read_labeller(str(tmp_path)).report == {
        "trajectories": 40,
        "questions": 30,
        "agreement": [told],
        "weight_change": [1, 0, 2],
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"trajectories": "40"},
        {"trajectories": -1},
        {"agreement": []},
        {"agreement": [{"pair": ["a", "b"]}]},
        {"agreement": [{"pair": ["a", "b", "c"], **AGREEMENT}]},
        {"weights": {"mean_change": "<script>"}},
        {"weights": {}},
    ],
)
def test_a_report_of_another_form_is_not_repeated(tmp_path, changes):
    write_labeller(tmp_path, random_labeller(("x", "y")), report=REPORT | changes)
    assert read_labeller(str(tmp_path)).report == {}
