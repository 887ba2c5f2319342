"""Held-out scores against the plain-list interface fold by fold, and against simulations whose truth is known."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from simulated_walks import LABELS, STATES, annotations, chain, corpus_table, walk, with_edge

from mralign.transitions import count, estimate
from mralign.transitions.auc import auc
from mralign.transitions.em import Settings
from mralign.transitions.signal import (
    Design,
    chance,
    design_of,
    null_settings,
    oriented,
    permutations,
    permuted,
    scores,
    shuffles,
    transitions_auc,
)
from mralign.transitions.walks import corpus_of, join, walks, with_tokens

PAPER = Settings()


def corpus(table, **more):
    return corpus_of(table, states=STATES, **more).signed()


# --- folds ---------------------------------------------------------------------------------------------------------


def test_a_question_lies_in_one_fold_and_every_fold_has_its_share_of_both_polarities():
    one = corpus(corpus_table(chain(), chain(), positives=57, negatives=34, seed=0, draws=2))
    design = design_of(one, folds=5, seed=3)
    folds_of = {}
    for question, fold in zip(one.question_ids.to_pylist(), design.fold_N.tolist(), strict=True):
        folds_of.setdefault(question, set()).add(fold)
    assert all(len(folds) == 1 for folds in folds_of.values())
    for sign in ("+1", "-1"):
        per_fold = np.bincount([next(iter(f)) for q, f in folds_of.items() if q.endswith(sign)], minlength=5)
        assert per_fold.max() - per_fold.min() <= 1
    assert (design.fold_N == design_of(one, folds=5, seed=3).fold_N).all()
    assert (design.fold_N != design_of(one, folds=5, seed=4).fold_N).any()


def test_a_permutation_moves_whole_questions_and_leaves_every_fold_its_polarities():
    one = corpus(corpus_table(chain(), chain(), positives=30, negatives=20, seed=0, draws=2))
    design = design_of(one, folds=5, seed=0)
    other = permuted(design, question_N=one.question_N, rng=np.random.default_rng(0))
    cells = [sorted(zip(d.positive_N.tolist(), d.fold_N.tolist(), strict=True)) for d in (design, other)]
    assert cells[0] == cells[1]
    assert (other.positive_N != design.positive_N).any()
    for question in range(one.question_N.max() + 1):
        own = one.question_N == question
        assert len({*zip(other.positive_N[own].tolist(), other.fold_N[own].tolist(), strict=True)}) == 1


# --- scores --------------------------------------------------------------------------------------------------------


def test_the_scores_are_those_of_matrices_from_the_other_folds():
    rng = np.random.default_rng(7)
    pairs = [["a", "b"], ["b", "c"], ["a", "d"]]
    steps = [[pairs[rng.integers(3)] if rng.random() < 0.3 else s for s in walk(chain(), rng=rng)] for _ in range(24)]
    sides = [1] * 14 + [-1] * 10
    one = corpus(annotations(steps, polarity=sides))
    design = design_of(one, folds=3, seed=0)
    found = scores(one, design=design, settings=PAPER)

    def members(step):
        return [step] if isinstance(step, str) else step

    def log_ratio(matrices, source, target):
        ratio = 1.0
        for name, power in (("positive", 1), ("negative", -1)):
            P = matrices.P[name]
            edges = [P[STATES.index(x), STATES.index(y)] for x in members(source) for y in members(target)]
            ratio *= sum(edges) ** power
        return np.log(ratio)

    for row, path in enumerate(steps):
        rest = [n for n in range(24) if design.fold_N[n] != design.fold_N[row]]
        helped = [steps[n] for n in rest if sides[n] > 0]
        hurt = [steps[n] for n in rest if sides[n] < 0]
        moves = [*pairwise(["<start>", *path, "<stop>"])]
        matrices = estimate(count(helped, negative=hurt, labels=LABELS))
        expected = [log_ratio(matrices, *move) for move in moves]
        assert found.transitions[row] == pytest.approx(np.mean(expected), abs=1e-12)
        assert found.transitions_sum[row] == pytest.approx(np.sum(expected), abs=1e-12)
        first_only = estimate(
            count(
                [[step] for one_path in helped for step in one_path],
                negative=[[step] for one_path in hurt for step in one_path],
                labels=LABELS,
            )
        )
        expected = [log_ratio(first_only, "<start>", step) for step in path]
        assert found.frequencies[row] == pytest.approx(np.mean(expected), abs=1e-12)


def test_the_length_has_the_sign_that_the_other_folds_give_it():
    positive_N = np.array([True, True, True, False, False, False])
    design = Design(positive_N, fold_N=np.array([0, 1, 2, 0, 1, 2]), folds=3)
    shorter = np.array([1.0, 2.0, 3.0, 7.0, 8.0, 9.0])  # positives are shorter in every fold
    assert oriented(shorter, design=design).tolist() == (-shorter).tolist()
    mixed = np.array([9.0, 1.0, 2.0, 0.0, 8.0, 7.0])  # only in fold 0 they are longer: the others say shorter
    # Without fold 0: negatives longer. Without 1: 9, 2 against 0, 7: half of the pairs, which counts as longer.
    assert oriented(mixed, design=design).tolist() == [-9.0, 1.0, 2.0, -0.0, 8.0, 7.0]


def test_what_is_left_out_and_whose_tokens_are_not_known():
    table = annotations([["a"], ["b"], [[], []], ["c"], ["d"]], polarity=[1, -1, 1, 1, 0])
    mixed = table.set_column(1, "question_id", pa.array(["x", "y", "z", "y", "w"]))
    tokens = pa.table({"row_id": mixed.column("row_id"), "thought_tokens": pa.array([5, 6, 7, 8, 9], pa.int32())})
    whole = corpus_of(mixed, states=STATES, tokens=tokens)
    assert whole.question_ids.to_pylist() == ["x", "w"]  # z has no label, y is both positive and negative
    assert whole.tokens_N.tolist() == [5, 9]
    assert whole.signed().question_ids.to_pylist() == ["x"]
    assert corpus_of(mixed, states=STATES, tokens=tokens.slice(1)).tokens_N is None
    assert corpus_of(mixed.slice(0, 0), states=STATES).row_ids.to_pylist() == []


def test_parts_joined_are_the_whole():
    steps = [["a"], ["b", "c"], [[], []], ["c"], ["d", "a"], ["b"], [[]], ["a", "d"]]
    table = annotations(steps, polarity=[1, -1, 1, 1, 0, -1, 1, 1])
    questions = pa.array(["x", "x", "y", "z", "z", "v", "w", "w"])
    table = table.set_column(1, "question_id", questions).set_column(
        3, "polarity", pa.array([1, 1, 1, -1, -1, 0, 1, 1])
    )
    tokens = pa.table({"row_id": table.column("row_id"), "thought_tokens": pa.array(range(8), pa.int32())})
    whole = corpus_of(table, states=STATES, tokens=tokens)
    parts = [table.slice(0, 2), table.slice(2, 1), table.slice(2, 0), table.slice(3, 3), table.slice(6)]
    joined = with_tokens(join([corpus_of(part, states=STATES) for part in parts]), tokens)
    assert joined.tokens_N.tolist() == [0, 1, 3, 4, 5, 7]  # without the two that have no label
    for name, value in vars(whole).items():
        found = getattr(joined, name)
        if name == "question_N":  # codes: the same trajectories share one
            assert [[a == b for b in found] for a in found] == [[a == b for b in value] for a in value]
        elif name != "K":
            assert found.tolist() == value.tolist()


# --- simulations with known truth ----------------------------------------------------------------------------------


def true_auc(P_positive, P_negative, *, size, seed):
    """The AUC of the mean log-ratio under the true matrices, by Monte Carlo."""
    rng, means = np.random.default_rng(seed), {}
    for name, P in (("positive", P_positive), ("negative", P_negative)):
        means[name] = []
        for _ in range(size):
            path = [STATES.index(state) for state in ("<start>", *walk(P, rng=rng), "<stop>")]
            means[name].append(np.mean([np.log(P_positive[a, b] / P_negative[a, b]) for a, b in pairwise(path)]))
    score = np.array(means["positive"] + means["negative"])
    return auc(score, positive_N=np.arange(2 * size) < size)


def test_two_chains_that_differ_by_an_edge_are_told_apart_as_well_as_the_truth_can():
    P = chain(seed=1)
    other = with_edge(P, "a", "b", to=0.5)
    truth = true_auc(other, P, size=3000, seed=2)
    one = corpus(corpus_table(other, P, positives=1200, negatives=1200, seed=3))
    found = transitions_auc(walks(one), design=design_of(one, folds=10, seed=0), settings=PAPER)
    assert 0.6 < truth < 0.8
    assert found == pytest.approx(truth, abs=0.03)


def test_order_alone_is_seen_by_transitions_and_not_by_frequencies_or_random_order():
    rng = np.random.default_rng(4)
    first, second = [["a", "a", "b", "b", "c"], ["c", "a", "a", "b", "b"]], [["a", "b", "a", "b", "c"], ["c", *"abab"]]
    picks = rng.integers(2, size=80)
    one = corpus(
        annotations([(first if n < 40 else second)[picks[n]] for n in range(80)], polarity=[1] * 40 + [-1] * 40)
    )
    design = design_of(one, folds=5, seed=0)
    found = scores(one, design=design, settings=PAPER)
    assert auc(found.transitions, positive_N=one.positive_N) == 1.0
    assert auc(found.frequencies, positive_N=one.positive_N) == pytest.approx(0.5, abs=0.15)
    drawn = shuffles(one, design=design, settings=PAPER, seed=0, draws=39)
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.08)
    assert chance(1.0, drawn=drawn).p == 1 / 40


def test_frequencies_alone_are_seen_in_any_order():
    rng = np.random.default_rng(5)
    shares = ([0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25])
    paths = [list(rng.choice(LABELS, size=10, p=shares[n >= 100])) for n in range(200)]
    one = corpus(annotations(paths, polarity=[1] * 100 + [-1] * 100))
    design = design_of(one, folds=10, seed=0)
    found = transitions_auc(walks(one), design=design, settings=PAPER)
    drawn = shuffles(one, design=design, settings=PAPER, seed=0, draws=39)
    assert found > 0.65
    assert chance(found, drawn=drawn).p > 0.05


def test_the_sum_measures_the_length_where_the_polarities_are_not_as_frequent_and_the_mean_does_not():
    correlation = {"transitions": [], "transitions_sum": []}
    for seed in range(20):
        one = corpus(corpus_table(chain(), chain(), positives=100, negatives=15, seed=seed))
        found = scores(one, design=design_of(one, folds=5, seed=0), settings=PAPER)
        for name, values in correlation.items():
            values.append(np.corrcoef(vars(found)[name], one.segments_N)[0, 1])
    assert np.mean(correlation["transitions_sum"]) > 0.2
    assert abs(np.mean(correlation["transitions"])) < 0.1


def test_identical_chains_give_a_false_alarm_at_five_percent():
    alarms, data_sets, settings = 0, 200, replace(PAPER, estimator="frequency")
    for seed in range(data_sets):
        one = corpus(corpus_table(chain(), chain(), positives=24, negatives=16, seed=seed, draws=2))
        design = design_of(one, folds=4, seed=seed)
        value = transitions_auc(walks(one), design=design, settings=settings)
        drawn = permutations(one, design=design, settings=settings, seed=seed, draws=19)
        alarms += chance(value, drawn=drawn).p <= 0.05
    print("false alarms", alarms / data_sets)
    assert 2 <= alarms <= 20  # binomial(200, 5 %): outside in 0.2 % of all series


# --- the random ones -----------------------------------------------------------------------------------------------


def test_a_p_value_counts_the_figure_itself():
    assert chance(0.7, drawn=[0.5, 0.6, 0.4]).p == 1 / 4
    assert chance(0.7, drawn=[0.5, 0.7, 0.9]).p == 3 / 4
    assert chance(0.3, drawn=[0.5, 0.7, 0.9]).p == 1
    assert chance(0.7, drawn=[0.2, 0.4]).mean == pytest.approx(0.3)


def test_the_random_ones_are_estimated_by_frequencies_only_where_em_takes_long():
    assert null_settings(PAPER) == PAPER
    slow = replace(PAPER, max_iter=1000, tol=1e-9, damping=1.0)
    assert null_settings(slow) == replace(slow, estimator="frequency")
