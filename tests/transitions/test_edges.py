"""The table behind the weights (method.md §4, §6): counts, ratios, standard errors, clips and bands."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mralign.rows.schema import COUNTS, EDGES
from mralign.transitions.edges import WeightRule, bands, edges

STATES = ("<start>", "x", "y", "<stop>")  # K = 4
NAMES = ("all", "positive", "negative")
UNIFORM = np.array([[0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 3]]) / 3


def counted(*rows: tuple[int, int, int, int]) -> pa.Table:
    """COUNTS of (polarity, source code, target code, count)."""
    names = COUNTS.names[1:]
    return pa.Table.from_pylist([{"dataset": "d"} | dict(zip(names, row, strict=True)) for row in rows], schema=COUNTS)


COUNTED = counted(
    (1, 0, 5, 8), (1, 5, 6, 3), (1, 6, 15, 3), (-1, 0, 10, 4), (0, 0, 5, 9)
)  # 5 x, 6 {x, y}, 10 y, 15 stop


def behind(**change: Any) -> dict[tuple[str, int, str, str], dict[str, Any]]:
    own = UNIFORM.copy()
    own[0, 1], own[0, 2] = 0.9, 0.05
    values: dict[str, Any] = {
        "matrices": {"all": UNIFORM, "positive": own, "negative": UNIFORM},
        "support": {name: np.array([[0, 7.5, 0.5, 0], [0, 0, 2, 1], [0, 0, 0, 0], [0, 0, 0, 0]]) for name in NAMES},
        "replicates": {name: np.zeros((0, 4, 4)) for name in NAMES},
        "rule": WeightRule(),
    }
    found = edges(COUNTED, states=STATES, **values | change)
    assert found.schema == EDGES
    return {tuple(row[key] for key in ("level", "polarity", "source", "target")): row for row in found.to_pylist()}


def test_edges_by_hand() -> None:
    found = behind()
    assert [key for key in found if key[0] == "sets"] == [
        ("sets", 1, "<start>", "x"),
        ("sets", 1, "x", "x+y"),
        ("sets", -1, "<start>", "y"),
    ]
    first = found["sets", 1, "<start>", "x"]
    assert (first["count"], first["ratio"], first["weight"]) == (8, pytest.approx(2.7), pytest.approx(2.7))
    assert (first["clipped"], first["band"]) == (False, "high")
    assert first["ratio_standard_error"] is first["weight_standard_error"] is None
    assert [key[2:] for key in found if key[:2] == ("states", 1)] == [("<start>", "x"), ("x", "y"), ("<start>", "y")]
    rare = found["states", 1, "<start>", "y"]
    assert (rare["count"], rare["ratio"], rare["band"]) == (0.5, pytest.approx(0.15), "none")
    assert (rare["clipped"], rare["weight"]) == (True, pytest.approx(1 / math.e))


def test_the_anchor_and_the_clip_are_the_weights_own() -> None:
    other = UNIFORM.copy()
    other[0, 1] = 0.1
    matrices = {"all": UNIFORM, "positive": UNIFORM, "negative": other}
    found = behind(matrices=matrices, rule=WeightRule("opposite", 0.5, 2.0))
    row = found["sets", 1, "<start>", "x"]
    assert (row["ratio"], row["weight"], row["clipped"]) == (pytest.approx(10 / 3), 2.0, True)


def test_standard_errors_come_from_ratios_of_the_same_replicate() -> None:
    own, base = (np.tile(UNIFORM, (3, 1, 1)) for _ in range(2))
    own[:, 0, 1], base[:, 0, 1] = (0.2, 0.4, 0.6), (0.2, 0.4, 0.3)
    drawn = {"all": base, "positive": own, "negative": base}
    row = behind(replicates=drawn, rule=WeightRule(clip_max=1.5))["sets", 1, "<start>", "x"]
    assert row["ratio_standard_error"] == pytest.approx(np.std([1, 1, 2], ddof=1))
    assert row["weight_standard_error"] == pytest.approx(np.std([1, 1, 1.5], ddof=1))
    base[1, 0, 1] = 0
    row = behind(replicates=drawn)["sets", 1, "<start>", "x"]
    assert row["ratio_standard_error"] is row["weight_standard_error"] is None


def test_bands_are_the_outer_fifteen_per_cent_of_what_has_support() -> None:
    ratio = np.array([0.1, *np.linspace(0.5, 1.5, 20), 9.0])
    count = np.array([4.9, *np.full(20, 5), 0.2])
    assert bands(ratio, count_T=count).tolist() == ["none", *["low"] * 3, *["none"] * 14, *["high"] * 3, "none"]
    assert bands(np.ones(20), count_T=np.full(20, 9)).tolist() == ["none"] * 20
    assert bands(np.array([1.2, 1.3]), count_T=np.full(2, 9)).tolist() == ["none", "high"]
    assert bands(np.zeros(0), count_T=np.zeros(0)).tolist() == []


def test_a_polarity_without_a_transition_has_no_edges() -> None:
    found = edges(
        counted((1, 0, 5, 1)),
        matrices=dict.fromkeys(NAMES[:2], UNIFORM),
        support={"positive": np.zeros((4, 4))},
        replicates={},
        states=STATES,
        rule=WeightRule(),
    )
    assert found.select(["level", "polarity", "source", "target"]).to_pylist() == [
        {"level": "sets", "polarity": 1, "source": "<start>", "target": "x"}
    ]
