"""The gain of asking against the error written out and differentiated by hand; what follows of it for the choice."""

from itertools import pairwise

import numpy as np
import pytest

from mralign.annotation.cascade import Foreseen, choose, gains

PRIOR = 0.5
L, K = 2, 4


def foreseen(name, *steps, polarity=1):
    """A trajectory of steps (probability of label 0, of label 1), one label each; the likelier one is chosen."""
    expected = np.array(steps, dtype=float)
    return Foreseen(name, polarity, expected, np.eye(L)[expected.argmax(axis=1)], 0.0)


def table(share_NL):
    """Expected transitions of one trajectory, step by step."""
    counts = np.zeros((K, K))
    states = [{0: 1.0}, *({1 + label: p for label, p in enumerate(step)} for step in share_NL.tolist()), {K - 1: 1.0}]
    for before, behind in pairwise(states):
        for a, p in before.items():
            for b, q in behind.items():
                counts[a, b] += p * q
    return counts


def squared_bias(pool, kept):
    """E without its variance, where trajectory i counts `kept[i]` times."""
    alpha = {sign: PRIOR + sum(table(one.expected_NL) for one in pool if one.polarity == sign) for sign in (1, -1, 0)}
    off = {sign: np.zeros((K, K)) for sign in (1, -1, 0)}
    for one, times in zip(pool, kept, strict=True):
        off[one.polarity] += times * (table(one.expected_NL) - table(one.chosen_NL))
    alpha["all"], off["all"] = sum(alpha.values()), sum(off.values())
    moved = {}
    for name in (1, -1, "all"):
        rows = off[name].sum(axis=1) / alpha[name].sum(axis=1)
        moved[name] = off[name] / alpha[name] - rows[:, None]
    return sum(((alpha[sign] - PRIOR) * (moved[sign] - moved["all"]) ** 2).sum() for sign in (1, -1))


def variance_gain(pool, place):
    alpha = {sign: PRIOR + sum(table(one.expected_NL) for one in pool if one.polarity == sign) for sign in (1, -1, 0)}
    whole, one = sum(alpha.values()), pool[place]
    unit = {0: (alpha[1] + alpha[-1]) / whole**2}
    for sign in (1, -1):
        unit[sign] = alpha[sign] * (1 / alpha[sign] - 1 / whole) ** 2 + alpha[-sign] / whole**2
    total = 0.0
    shares = np.zeros((len(one.expected_NL) + 2, K))
    shares[0, 0] = shares[-1, -1] = 1
    shares[1:-1, 1:-1] = one.expected_NL
    for before, behind in pairwise(shares):
        p = np.outer(before, behind)
        total += (unit[one.polarity] * p * (1 - p)).sum()
    return total


def a_pool(count=12, seed=0):
    rng = np.random.default_rng(seed)
    pool = []
    for number in range(count):
        first = rng.random(rng.integers(1, 4))
        steps = [(p, 1 - p) for p in first]
        pool.append(foreseen(f"t{number:02d}", *steps, polarity=int(rng.choice([1, -1, 0]))))
    return pool


def test_the_gain_is_the_derivative_of_the_error_and_the_variance():
    pool, h = a_pool(), 1e-4
    for place, gain in enumerate(gains(pool)):
        more, less = np.ones(len(pool)), np.ones(len(pool))
        more[place] += h
        less[place] -= h
        slope = (squared_bias(pool, more) - squared_bias(pool, less)) / (2 * h)
        assert gain == pytest.approx(slope + variance_gain(pool, place), rel=1e-5, abs=1e-9)


def test_where_the_labeller_is_sure_nothing_is_gained():
    pool = [foreseen(f"t{n}", (1.0, 0.0), (0.0, 1.0), polarity=(1, -1)[n % 2]) for n in range(6)]
    assert gains(pool) == pytest.approx(0, abs=1e-12)
    doubtful = foreseen("doubt", (0.6, 0.4), polarity=1)
    assert choose([*pool, doubtful], budget=1) == {"doubt"}


def test_rare_transitions_are_asked_about_before_frequent_ones():
    often = [foreseen(f"often{n}", (0.99, 0.01), polarity=1) for n in range(40)]
    often += [foreseen(f"other{n}", (1.0, 0.0), polarity=-1) for n in range(40)]
    known = [foreseen(f"known{n}", (0.0, 1.0), polarity=-1) for n in range(40)]
    rare = foreseen("rare", (0.45, 0.55), polarity=1)
    frequent = foreseen("frequent", (0.45, 0.55), polarity=-1)
    found = dict(zip(["rare", "frequent"], gains([*often, *known, rare, frequent])[-2:], strict=True))
    assert found["rare"] > 3 * abs(found["frequent"])


@pytest.mark.parametrize("budget", [0, 1, 5, 11, 12, 50])
def test_the_budget_is_spent_and_the_order_of_the_pool_does_not_matter(budget):
    pool = a_pool()
    found = choose(pool, budget=budget)
    assert len(found) == min(budget, 12)
    assert found == choose(pool[::-1], budget=budget)
    assert choose([], budget=budget) == frozenset()


def test_equal_trajectories_are_taken_by_their_ids():
    pool = [foreseen(name, (0.7, 0.3)) for name in ("c", "a", "b")]
    assert choose(pool, budget=2) == {"a", "b"}


def test_the_error_that_is_left_falls_faster_than_by_chance():
    pool, rng = a_pool(60, seed=3), np.random.default_rng(0)

    def left(asked):
        return squared_bias(pool, [one.row_id not in asked for one in pool])

    chance = np.mean([left({pool[n].row_id for n in rng.permutation(60)[:15]}) for _ in range(50)])
    assert left(choose(pool, budget=15)) < 0.6 * chance
