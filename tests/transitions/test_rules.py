"""Rules other than the paper's: each by hand, on a simulation whose truth is known, and all of them together."""

import math
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from simulated_walks import LABELS, STATES, annotations, chain, corpus_table, with_edge

from mralign.config import parse
from mralign.rows.schema import COUNTS
from mralign.transitions.bootstrap import count_replicated
from mralign.transitions.counts import UNLABELLED, Counts, count, count_pairs, select, stop_code
from mralign.transitions.edges import WeightRule
from mralign.transitions.em import estimate, settings_of
from mralign.transitions.matrices import fit
from mralign.transitions.rules.held_out_edges import HeldOutRule, gains, held_out_gain
from mralign.transitions.rules.normalised import with_mean_one
from mralign.transitions.rules.rule_by_settings import CorpusSources, bounds_of, mean_weights, rule_by_settings
from mralign.transitions.rules.second_order import add_preceded, backed_off, count_preceded, second_order_rule
from mralign.transitions.rules.shrunk import posterior_mean, prior_variance, shrunk_rule
from mralign.transitions.rules.zero_floor import with_zero_floor
from mralign.transitions.signal import design_of
from mralign.transitions.walks import corpus_of, walks
from mralign.transitions.weights import LabelledSteps, ratios, step_weights
from mralign.transitions.weights_by_settings import configured_weights, weights_in_memory

RULES = ("shrunk", "zero_floor", "normalised", "second_order", "held_out")
E = math.e
K = len(STATES)
POSITIVES = 40
SMALL = corpus_table(chain(seed=1), chain(seed=2), positives=POSITIVES, negatives=25, seed=3)


def config_of(*, transitions=None, **weights):
    given = {"questions": {"train": [{"name": "sim", "path": "sim.jsonl"}]}, "weights": weights}
    return parse({**given, "transitions": {"bootstrap": 20, **(transitions or {})}})


def weights_of(table, config):
    return weights_in_memory(table, states=STATES, config=config).column("step_weights").to_pylist()


def parts_of(config, table):
    """The matrices, and the rule of a whole table."""
    settings = config.transitions
    counted = count_replicated(table, states=STATES, replicates=settings.bootstrap, seed=config.run.seed)
    fitted = fit(counted, K=K, settings=settings_of(settings))
    sources = CorpusSources(
        counts=counted.select(COUNTS.names),
        preceded=lambda: count_preceded(table, states=STATES),
        corpus=lambda: corpus_of(table, states=STATES),
    )
    return fitted, rule_by_settings(config, fitted=fitted, states=STATES, sources=sources), sources


# --- all rules ---------------------------------------------------------------------------------------------------


def test_the_papers_rule_is_no_rule_and_its_weights_are_what_they_were():
    config = config_of()
    fitted, rule, _ = parts_of(config, SMALL)
    assert rule is None
    plain = step_weights(SMALL, matrices=fitted.P, states=STATES).column("step_weights").to_pylist()
    assert weights_of(SMALL, config) == plain  # to the last bit


@pytest.mark.parametrize("anchor", ["global", "opposite"])
@pytest.mark.parametrize("rule", ["paper", *RULES])
def test_polarities_that_do_not_differ_give_weight_one(rule, anchor):
    """Each trajectory stands once on either side; without a prior P+ = P- = P."""
    sides = [annotations(SAME, polarity=1), annotations(SAME, polarity=-1)]
    found = weights_of(pa.concat_tables(sides), config_of(transitions={"prior": 0}, rule=rule, anchor=anchor))
    assert [len(weights) for weights in found] == [len(steps) for steps in SAME] * 2
    assert np.concatenate(found) == pytest.approx(1.0, abs=1e-9)


SAME = [["a", "b", "c"], ["b", ["a", "d"], "c", "a"], ["a", "b", "d"], ["c"], ["d", "c", "b"], ["a", "b", "c", "b"]]


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_gives_other_weights_than_the_paper_and_controls_come_after_it(rule):
    plain, own = weights_of(SMALL, config_of()), weights_of(SMALL, config_of(rule=rule))
    assert plain != own
    shuffled = weights_of(SMALL, config_of(rule=rule, control="shuffle"))
    assert [sorted(weights) for weights in shuffled] == [sorted(weights) for weights in own]
    assert shuffled != own
    assert np.concatenate(weights_of(SMALL, config_of(rule=rule, control="uniform"))).tolist() == [1.0] * sum(
        map(len, own)
    )


@pytest.mark.parametrize("anchor", ["global", "opposite"])
@pytest.mark.parametrize("rule", RULES)
def test_parts_give_what_the_whole_gives_and_its_means_come_from_counts(rule, anchor):
    config = config_of(rule=rule, anchor=anchor)
    fitted, made, sources = parts_of(config, SMALL)
    halves = [SMALL.slice(0, 8), SMALL.slice(8)]
    found = []
    for half in halves:
        table = configured_weights(half, fitted=fitted, states=STATES, config=config, rule=made)
        found += table.column("step_weights").to_pylist()
    whole = weights_of(SMALL, config)
    assert found == whole
    table = sources.preceded() if rule == "second_order" else sources.counts
    means = mean_weights(made, table=table, matrices=fitted.P, states=STATES, bounds=bounds_of(config))
    for polarity, mine in ((1, whole[:POSITIVES]), (-1, whole[POSITIVES:])):
        assert means[polarity] == pytest.approx(np.concatenate(mine).mean(), rel=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_unlabelled_steps_weigh_one(rule):
    table = annotations([["a", [], "b"], ["a", "c"]], polarity=[1, -1])
    assert weights_of(table, config_of(rule=rule))[0][1] == 1.0


# --- zero_floor --------------------------------------------------------------------------------------------------


def test_only_negatives_below_one_reach_down_to_zero():
    """With m = 1/2 and M = 2: a ratio of 3/4 lies half way between 1 and m."""
    ratio, polarity = np.array([0.2, 0.2, 0.75, 0.75, 0.5, 1.0, 9.0]), np.array([1, -1, 1, -1, -1, -1, -1])
    got = with_zero_floor(ratio, polarity_T=polarity, bounds=WeightRule(clip_min=0.5, clip_max=2.0))
    assert got.tolist() == [0.5, 0.0, 0.75, 0.5, 0.0, 1.0, 2.0]
    paper = with_zero_floor(ratio, polarity_T=polarity, bounds=WeightRule(clip_min=0.0, clip_max=2.0))
    assert paper == pytest.approx([0.2, 0.2, 0.75, 0.75, 0.5, 1.0, 2.0])  # a floor of 0 is one already
    fixed = with_zero_floor(ratio, polarity_T=polarity, bounds=WeightRule(clip_min=1.0, clip_max=2.0))
    assert fixed.tolist() == [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0]


# --- normalised --------------------------------------------------------------------------------------------------


def test_the_mean_is_one_and_proportions_stay():
    got = with_mean_one(np.array([1.0, 3.0, 2.0, 0.5, 0.5]), row_T=np.array([0, 0, 2, 3, 3]))
    assert got.tolist() == [0.5, 1.5, 1.0, 1.0, 1.0]


def test_every_trajectory_has_the_mean_one():
    plain, own = weights_of(SMALL, config_of()), weights_of(SMALL, config_of(rule="normalised"))
    for before, after in zip(plain, own, strict=True):
        assert np.mean(after) == pytest.approx(1.0)
        assert np.array(after) * np.mean(before) == pytest.approx(np.array(before))


# --- shrunk ------------------------------------------------------------------------------------------------------


def test_the_variance_of_two_edges_by_hand():
    """Errors of 1 and log ratios of 2 and -2: 8 / (v + 1) = 2 gives 3, so three quarters of each remain."""
    log, error = np.array([2.0, -2.0]), np.ones(2)
    assert prior_variance(log, error_E=error) == pytest.approx(3.0)
    assert posterior_mean(log, error_E=error) == pytest.approx([1.5, -1.5])
    assert prior_variance(np.array([0.5, -0.5]), error_E=error) == 0.0  # less than noise alone
    assert posterior_mean(np.array([2.0, -2.0, 1.0, 1.0]), error_E=np.array([1, 1, 0, np.nan])) == pytest.approx(
        [1.5, -1.5, 1.0, 0.0]
    )


def test_shrinking_comes_as_near_to_the_truth_as_theory_says():
    rng = np.random.default_rng(0)
    truth, error = rng.normal(0, 0.5, size=40_000), rng.uniform(0.1, 1.5, size=40_000)
    seen = truth + error * rng.normal(size=40_000)
    assert prior_variance(seen, error_E=error) == pytest.approx(0.25, rel=0.05)
    squares = ((posterior_mean(seen, error_E=error) - truth) ** 2).mean()
    assert squares == pytest.approx((0.25 * error**2 / (0.25 + error**2)).mean(), rel=0.05)
    assert squares < 0.25 * ((seen - truth) ** 2).mean()


def visits(P):
    """How often a trajectory of a chain is in each state before it stops: the first row of (I - Q)^-1."""
    return np.append(np.linalg.inv(np.eye(K - 1) - P[: K - 1, : K - 1])[0], 0.0)


def true_log_ratios(P_positive, P_negative, counts):
    """log P±/P of single-label transitions of two chains with as many trajectories."""
    source, target = counts.source_sets // (K + 1), counts.target_sets // (K + 1)
    own = P_positive if counts.polarities == (1,) else P_negative
    often, other = visits(P_positive)[source], visits(P_negative)[source]
    pooled = (often * P_positive[source, target] + other * P_negative[source, target]) / (often + other)
    return np.log(own[source, target] / pooled)


def test_shrunk_weights_lie_nearer_to_the_truth_than_the_papers():
    P = chain(seed=5)
    other = with_edge(P, "a", "b", to=0.5)
    errors = {"paper": 0.0, "shrunk": 0.0}
    for seed in range(5):
        table = corpus_table(P, other, positives=20, negatives=20, seed=seed)
        counted = count_replicated(table, states=STATES, replicates=50, seed=seed)
        fitted = fit(counted, K=K, settings=settings_of(config_of().transitions))
        wide = WeightRule(clip_min=0, clip_max=math.inf)
        rule = shrunk_rule(counted.select(COUNTS.names), fitted=fitted, states=STATES, bounds=wide)
        for polarity in (1, -1):
            counts = select(counted, polarities=(polarity,))
            step = counts.target_sets != stop_code(K)
            counts = Counts(counts.source_sets[step], counts.target_sets[step], counts.n[step], (polarity,))
            truth = true_log_ratios(P, other, counts)
            sign = np.full(truth.size, polarity)
            given = {"matrices": fitted.P, "states": STATES, "anchor": "global"}
            ratio = ratios(counts.source_sets, counts.target_sets, polarity=sign, **given)
            none = np.full(truth.size, UNLABELLED)
            steps = LabelledSteps(np.arange(truth.size), sign, none, counts.source_sets, counts.target_sets, ratio)
            errors["paper"] += float(counts.n @ (np.log(ratio) - truth) ** 2)
            errors["shrunk"] += float(counts.n @ (np.log(rule(steps)) - truth) ** 2)
    assert errors["shrunk"] < 0.6 * errors["paper"]


def test_without_a_bootstrap_there_is_nothing_to_shrink_by():
    with pytest.raises(ValueError, match=r"shrunk needs the standard errors .* give transitions\.bootstrap=50"):
        config_of(rule="shrunk", transitions={"bootstrap": 0})


# --- second_order ------------------------------------------------------------------------------------------------


def code(*labels):
    places = sorted(STATES.index(name) for name in labels)
    return places[0] * K + places[-1]


def test_triples_are_counted_by_hand():
    table = annotations([["a", [], "b", ["c", "d"]], ["a"], ["a", "b"]], polarity=[1, 1, -1])
    got = {tuple(row.values())[:4]: row["count"] for row in count_preceded(table, states=STATES).to_pylist()}
    start, a, b, cd, stop = code("<start>"), code("a"), code("b"), code("c", "d"), stop_code(K)
    assert got == {
        (1, UNLABELLED, start, a): 2,
        (1, start, a, b): 1,
        (1, a, b, cd): 1,
        (1, b, cd, stop): 1,
        (1, start, a, stop): 1,
        (-1, UNLABELLED, start, a): 1,
        (-1, start, a, b): 1,
        (-1, a, b, stop): 1,
    }
    halves = [count_preceded(table.slice(place, 1), states=STATES) for place in (2, 0, 1)]
    assert add_preceded(halves).equals(count_preceded(table, states=STATES))


def test_the_ratio_of_both_orders_by_hand():
    """10 of 15 in this polarity, 12 of 36 in all: ratio 2, and 15 / (15 + 5) of it; then contexts seen 0 times."""
    arrays = {"own_T": [10, 0, 0], "own_context_T": [15, 0, 5], "all_T": [12, 12, 5], "all_context_T": [36, 36, 10]}
    got = backed_off(np.array([1.2, 1.2, 1.2]), **{name: np.array(value, float) for name, value in arrays.items()})
    assert got == pytest.approx([0.75 * 2 + 0.25 * 1.2, 1.2, 0.5 * 0 + 0.5 * 1.2])


def second_order_walks(*, number, polarity, seed):
    """x → probe → next, where the next label is that of x's side in one polarity and the other one in the other."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(number):
        lead = int(rng.integers(2))
        rows.append([LABELS[lead], "c", "d" if (lead == 0) == (polarity > 0) else "a", "c"])
    return annotations(rows, polarity=polarity)


def test_a_cause_of_second_order_is_seen_by_this_rule_alone():
    table = pa.concat_tables([second_order_walks(number=100, polarity=p, seed=p + 1) for p in (1, -1)])
    plain, own = (np.array(weights_of(table, config_of(rule=rule))) for rule in ("paper", "second_order"))
    assert np.abs(np.log(plain[:, 2])).max() < 0.3  # a → c → d and b → c → a of positives: c → d as often in both
    assert (own[:, 2] > 1.6).all()  # their truth is 2
    assert own[:, 0] == pytest.approx(plain[:, 0])  # nothing stands before the start


SIDES = {"+": slice(0, 2000), "-": slice(2000, 4000)}


def test_many_occurrences_give_second_order_frequencies_and_none_the_papers():
    table = pa.concat_tables([second_order_walks(number=2000, polarity=p, seed=p + 1) for p in (1, -1)])
    own = np.array(weights_of(table, config_of(rule="second_order")))
    leads = np.array([row["steps"][0]["labels"][0] for row in table.to_pylist()])
    number = {(lead, side): (leads[rows] == lead).sum() for lead in "ab" for side, rows in SIDES.items()}
    for lead, side in number:  # 1 / (own / both)
        both = number[lead, "+"] + number[lead, "-"]
        got = own[SIDES[side]][leads[SIDES[side]] == lead][:, 2]
        assert got == pytest.approx(both / number[lead, side], rel=0.01)
    config = config_of(rule="second_order")
    fitted, _, _ = parts_of(config, SMALL)
    empty = count_preceded(SMALL.slice(0, 0), states=STATES)
    unseen = second_order_rule(empty, matrices=fitted.P, states=STATES, bounds=WeightRule())
    got = configured_weights(SMALL, fitted=fitted, states=STATES, config=config, rule=unseen)
    assert np.concatenate(got.column("step_weights").to_pylist()) == pytest.approx(
        np.concatenate(weights_of(SMALL, config_of())), rel=1e-12
    )


# --- held_out ----------------------------------------------------------------------------------------------------


def literal_gain(table, *, design, settings):
    """The gain of every transition in a plain loop over folds."""
    rows = [[step["labels"] for step in row["steps"]] for row in table.to_pylist()]
    gain = {}
    for fold in range(design.folds):
        kept = [place for place in range(len(rows)) if design.fold_N[place] != fold]
        P = {}
        for name, sides in (("all", (True, False)), ("positive", (True,)), ("negative", (False,))):
            pairs = [pair for place in kept if design.positive_N[place] in sides for pair in transitions(rows[place])]
            sources, targets = (np.array(codes) for codes in zip(*pairs, strict=True))
            given = {"max_iter": settings.max_iter, "damping": settings.damping, "prior": settings.prior}
            P[name] = estimate(count_pairs(sources, targets, K=K), K=K, **given).P
        for place in set(range(len(rows))) - set(kept):
            own = P["positive" if design.positive_N[place] else "negative"]
            for source, target in transitions(rows[place]):
                one, other = source // (K + 1), target // (K + 1)
                found = math.log(own[one, other] / P["all"][one, other])
                gain[source, target] = gain.get((source, target), 0.0) + found
    return gain


def transitions(steps):
    return list(pairwise([code("<start>"), *(code(*labels) for labels in steps), stop_code(K)]))


def test_the_gain_is_that_of_a_plain_loop():
    corpus = corpus_of(SMALL, states=STATES)
    walk, design = walks(corpus), design_of(corpus, folds=3, seed=0)
    settings = settings_of(config_of().transitions)
    got = held_out_gain(walk, design=design, settings=settings)
    expected = literal_gain(SMALL, design=design, settings=settings)
    keys = list(zip(walk.source_G.tolist(), walk.target_G.tolist(), strict=True))
    assert set(keys) == set(expected)
    assert got == pytest.approx([expected[key] for key in keys])


def test_a_true_difference_keeps_its_weight_and_chance_seldom_does():
    P = chain(seed=5)
    settings = settings_of(config_of().transitions)
    kept = {"true": [], "chance": []}
    for seed in range(6):
        for name, other in (("true", with_edge(P, "a", "b", to=0.8)), ("chance", P)):
            table = corpus_table(P, other, positives=60, negatives=60, seed=seed)
            rule = HeldOutRule(gains(corpus_of(table, states=STATES), settings=settings, seed=seed), WeightRule())
            counts = select(count(table, states=STATES), polarities=(-1,))
            edge = counts.source_sets == code("a") if name == "true" else counts.target_sets != stop_code(K)
            edge &= counts.target_sets == code("b") if name == "true" else counts.n > 0
            size = int(edge.sum())
            two = np.full(size, 2.0)
            none = np.full(size, UNLABELLED)
            steps = LabelledSteps(
                np.arange(size), np.full(size, -1), none, counts.source_sets[edge], counts.target_sets[edge], two
            )
            kept[name] += (rule(steps) == 2.0).tolist()
    assert np.mean(kept["true"]) == 1.0
    assert np.mean(kept["chance"]) < 0.5


def test_one_question_of_a_polarity_holds_nothing_out():
    table = annotations([["a", "b"], ["b", "a"], ["c"]], polarity=[1, 1, -1])
    assert np.concatenate(weights_of(table, config_of(rule="held_out"))).tolist() == [1.0] * 5
