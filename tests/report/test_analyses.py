"""Where thoughts hold the answer, where training gained, and how the ways of thinking changed, as the page tells it."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest
from report.page_words import blocks, passages, plain
from report.test_report import STATES, Item, Named, make_run, page_of, seal

from mralign.report import publish
from mralign.report.analyses import change_of, top_edges
from mralign.report.blocks import Arc
from mralign.report.findings import Chain
from mralign.report.trajectory_records import Found, training_record
from mralign.rows.schema import MATRICES
from mralign.run.part_names import part_name
from mralign.run.store import StageDir

NO_HIT = {"mean": None, "histogram": [0] * 20}
POSITIONS = {
    "right": {
        "thoughts": 50,
        "without_hit": 2,
        "first": {"mean": 0.25, "histogram": [12, 36, *([0] * 18)]},
        "last": {"mean": 0.75, "histogram": [*([0] * 18), 48, 0]},
    },
    "wrong": {"thoughts": 1070, "without_hit": 1070, "first": NO_HIT, "last": NO_HIT},
    "invalid": 3,
}
GAIN = {"acc": 0.125, "acc_ci": [0.0625, 0.1875], "mis": -0.25, "mis_ci": [-0.5, 0.0], "n": 1200}
EMPTY = {"acc": None, "acc_ci": None, "mis": None, "mis_ci": None, "n": 0}
STRATA = {"both_correct": EMPTY, "both_wrong": GAIN, "inconsistent": GAIN | {"mis": None, "mis_ci": None}}


def chain(P, *, visits=10.0, replicates=()):
    P = np.array(P, dtype=float)
    drawn = np.array(replicates, dtype=float).reshape(len(replicates), *P.shape)
    states = tuple("abcdef"[: len(P)])
    return Chain(states, P, np.broadcast_to(np.array(visits, dtype=float).reshape(-1, 1), P.shape) * P, drawn)


def test_the_change_is_after_minus_before_with_the_error_of_paired_replicates():
    before = chain([[0.5, 0.5], [0.25, 0.75]], replicates=[[[0.4, 0.6], [0.2, 0.8]], [[0.6, 0.4], [0.3, 0.7]]])
    after = chain([[0.75, 0.25], [0.25, 0.75]], replicates=[[[0.65, 0.35], [0.3, 0.7]], [[0.85, 0.15], [0.2, 0.8]]])
    found = change_of(before, after)
    assert found.difference_KK == pytest.approx(np.array([[0.25, -0.25], [0.0, 0.0]]))
    # a -> a: +0.25 in both replicates, though either swings; b -> a: +0.1 and -0.1
    assert found.error_KK == pytest.approx(np.array([[0.0, 0.0], [math.sqrt(0.02), math.sqrt(0.02)]]), abs=1e-12)
    assert found.support_KK[0] == pytest.approx([12.5, 7.5])


def test_states_that_one_model_hardly_visits_are_left_out():
    before, after = chain([[0.0, 1.0], [1.0, 0.0]], visits=[4.9, 50]), chain([[1.0, 0.0], [0.5, 0.5]], visits=[50, 5.0])
    found = change_of(before, after)
    assert np.isnan(found.difference_KK[0]).all()
    assert found.difference_KK[1] == pytest.approx([-0.5, 0.5])
    assert np.isnan(found.error_KK).all()
    more, less = top_edges(found)
    assert more == [Arc("b", "b", 0.5, None, 2.5)]
    assert less == [Arc("b", "a", -0.5, None, 52.5)]


def test_the_largest_changes_come_first_and_none_is_shown_twice():
    rng = np.random.default_rng(0)
    before, after = (chain(rng.dirichlet(np.ones(6), size=6), visits=100) for _ in range(2))
    found = change_of(before, after)
    more, less = top_edges(found)
    flat = np.sort((after.P_KK - before.P_KK).ravel())
    assert [edge.difference for edge in less] == pytest.approx(flat[:10])
    assert [edge.difference for edge in more] == pytest.approx(flat[::-1][:10])
    for edge in (*more, *less):
        place = found.states.index(edge.source), found.states.index(edge.target)
        assert edge.difference == pytest.approx((after.P_KK - before.P_KK)[place])


def fill_matrix(home, name, P):
    """Stage `name`; its rows are committed in another order than that of a square."""
    out = StageDir(f"{home}/{name}/0", stage=name, fingerprint="0")
    K = len(STATES)
    rows = [
        {"matrix": "all", "source": STATES[i], "target": STATES[j], "probability": P[i, j]}
        | {"responsibility": 40 * P[i, j], "standard_error": 0.5, "replicates": [P[i, j] - 0.125, P[i, j] + 0.125 * j]}
        for j in range(K)
        for i in range(K)
    ]
    out.commit(part_name("all"), pa.Table.from_pylist(rows, schema=MATRICES), schema=MATRICES)
    seal(Item(Named(name), out))
    return Item(Named(name), out)


def test_the_page_shows_the_change_the_positions_and_the_strata(tmp_path):
    config, planned = make_run(tmp_path)
    for item in planned:
        if item.stage.name in ("evaluation_base", "evaluation"):
            method = "base_think_on" if item.stage.name == "evaluation_base" else "mralign"
            item.out.write_text("positions.json", json.dumps({"nq_open": {method: POSITIONS}}))
        if item.stage.name == "evaluation":
            strata = {"n": dict.fromkeys(STRATA, 1200), "methods": {"mralign": STRATA}}
            item.out.write_text("strata.json", json.dumps({"nq_open": strata}))
    P = np.full((len(STATES), len(STATES)), 1 / len(STATES))
    moved = P.copy()
    moved[2, 1], moved[2, 3] = 0.325, 0.075  # retrieval -> framing, retrieval -> backtracking
    matrices = [
        fill_matrix(tmp_path, "thoughts_matrices_base", P),
        fill_matrix(tmp_path, "thoughts_matrices", moved),
    ]
    publish(config, [*planned, *matrices])
    page = page_of(tmp_path)
    words = plain(page)
    for passage in (
        "nq_open base_think_on right 50 2 0.250 0.750 nq_open base_think_on wrong 1\u2009070 1\u2009070 – –",
        "nq_open, mralign: last hit",
        "nq_open mralign both correct 0 – – nq_open mralign both wrong 1\u2009200 +12.5 [+6.2, +18.8]",
        "−25.0 [−50.0, +0.0]",
        "nq_open mralign inconsistent 1\u2009200 +12.5 [+6.2, +18.8] –",
        "More often than before From To Difference retrieval framing +0.125 ± 0.000 Less",
        "Less often than before From To Difference retrieval backtracking −0.125 ± 0.000",
    ):
        assert " ".join(passage.split()) in words
    more, less = blocks(page, "change", "graph")
    assert [(edge["source"], edge["target"], edge["error"]) for edge in more["edges"]] == [
        ("retrieval", "framing", 0.0)
    ]
    assert more["edges"][0]["difference"] == pytest.approx(0.125)
    assert more["edges"][0]["support"] == pytest.approx(40 * (0.2 + 0.325))
    assert [(edge["source"], edge["target"]) for edge in less["edges"]] == [("retrieval", "backtracking")]
    drawn = blocks(page, "positions", "histogram")
    assert [one["title"].rpartition(": ")[2] for one in drawn] == ["first hit", "last hit"] * 2
    assert [one["name"] for one in drawn[0]["series"]] == ["right"]  # the wrong ones have no hit
    assert drawn[0]["series"][0]["counts"][:2] == [12, 36] and drawn[0]["series"][0]["mean"] == 0.25
    assert {"change", "positions", "strata"} <= set(passages(page))


def test_the_answer_of_a_trajectory_is_shown_without_the_tag_that_ends_its_thought():
    text = "[THINK]It is far.\n\nNo.[/THINK]Vienna"
    row = {
        "row_id": "s/1/on/0",
        "dataset": "s",
        "polarity": 1,
        "question": "q",
        "answers": ["Vienna"],
        "text": text,
        "thought_end": text.index("[/THINK]"),
        "segment_start": [7],
        "segment_end": [text.index("[/THINK]")],
    }
    row |= {"thought_start": 7, "em_thought": False, "em_answer": True}
    record = training_record(row, found=Found(), names=(), closing="[/THINK]")
    assert record.sides[0].answer == ["", "Vienna", ""]
