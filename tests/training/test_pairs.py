import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mralign.training.pairs import Plan, derange, spread

OWNERS = st.lists(st.integers(0, 6), min_size=2, max_size=40)


def plan(questions, **changes):
    return Plan(np.array(questions), **{"seed": 1, "epochs": 2, "batch_size": 16, **changes})


def batches(one):
    return [one.batch(step) for step in range(len(one))]


@given(OWNERS, st.integers(0, 1000))
def test_no_place_meets_its_own_question_and_none_is_used_twice(owners, seed):
    partners = derange(owners, rng=np.random.default_rng(seed))
    used = [j for j in partners if j >= 0]
    assert all(owners[i] != owners[j] for i, j in enumerate(partners) if j >= 0)
    assert len(set(used)) == len(used)
    if max(owners.count(o) for o in owners) <= len(owners) / 2:
        assert len(used) == len(owners)


def test_one_question_alone_has_no_partner():
    assert derange([5, 5, 5], rng=np.random.default_rng(0)).tolist() == [-1, -1, -1]


def test_the_rotation_is_not_the_same_in_every_batch():
    found = {tuple(derange(range(8), rng=np.random.default_rng(seed))) for seed in range(20)}
    assert len(found) > 10


def test_every_example_once_an_epoch_and_epochs_differ():
    found = batches(plan([i // 3 for i in range(50)]))
    orders = [np.concatenate([b.examples for b in found if b.epoch == epoch]) for epoch in (0, 1)]
    assert [sorted(order) for order in orders] == [list(range(50))] * 2
    assert orders[0].tolist() != orders[1].tolist()
    assert [len(b.examples) for b in found if b.epoch == 0] == [16, 16, 18]  # a rest of 2 joins the batch before


def test_partners_are_of_the_batch_and_anew_in_every_epoch():
    questions = [i // 3 for i in range(48)]
    found = batches(plan(questions, epochs=3))
    for batch in found:
        assert set(batch.partners) <= set(batch.examples)
        assert all(questions[i] != questions[j] for i, j in zip(batch.examples, batch.partners, strict=True))
    planned = [(b.epoch, i, j) for b in found for i, j in zip(b.examples, b.partners, strict=True)]
    pairs = [{(i, j) for epoch, i, j in planned if epoch == e} for e in (0, 1)]
    assert len(pairs[0] & pairs[1]) < 6  # of 48; by chance about 1


def test_a_longer_run_begins_like_a_shorter_one_block_by_block():
    short, long = (plan(range(40), seed=5, epochs=e, batch_size=8) for e in (2, 4))
    for a, b in zip(batches(short), batches(long), strict=False):
        assert a.examples.tolist() == b.examples.tolist()
        assert a.partners.tolist() == b.partners.tolist()
    assert short.blocks() == long.blocks()[: len(short.blocks())]
    for block in short.blocks():
        assert short.steps_with_pairs(block) == long.steps_with_pairs(block)


def test_only_every_so_many_th_step_has_pairs():
    found = plan(range(64), kl_every=3)
    assert [step for step, b in enumerate(batches(found)) if (b.partners >= 0).any()] == [0, 3, 6]
    assert [step for block in found.blocks() for step in found.steps_with_pairs(block)] == [0, 3, 6]
    assert plan(range(64), pairs="none").blocks() == []


def test_blocks_end_with_their_epoch_and_steps_know_their_place():
    found = plan(range(5000), batch_size=100)  # 50 steps an epoch, five a block
    assert found.blocks()[:3] == ["0-000000", "0-000005", "0-000010"]
    assert found.block_of(52) == ("1-000000", 2)
    assert found.steps_with_pairs("1-000000") == [50, 51, 52, 53, 54]
    for step in range(len(found)):
        block, within = found.block_of(step)
        assert found.steps_with_pairs(block)[within] == step
    short = plan(range(5000), batch_size=100, max_steps=52)
    assert short.steps_with_pairs("1-000000") == [50, 51]
    assert short.blocks()[-1] == "1-000000"


def test_trls_pairs_are_fixed_rotations_in_the_order_of_the_index():
    found = batches(plan([0, 0, 1, 2, 3, 4, 5, 6], batch_size=4, pairs="trl"))
    for epoch in (0, 1):
        first, second = (b for b in found if b.epoch == epoch)
        assert (first.examples.tolist(), first.partners.tolist()) == ([0, 1, 2, 3], [3, 0, 1, 2])
        assert (second.examples.tolist(), second.partners.tolist()) == ([4, 5, 6, 7], [7, 4, 5, 6])


def test_no_example_is_refused_and_steps_are_bounded():
    with pytest.raises(ValueError, match="no example to train on"):
        plan([])
    assert len(plan(range(64), max_steps=3)) == 3
    assert len(plan(range(64), epochs=2)) == 8


class Points:
    """A generator whose only number is given."""

    def __init__(self, number):
        self.number = number

    def random(self):
        return self.number


@pytest.mark.parametrize(("size", "count"), [(7, 3), (16, 4), (64, 10), (5, 5), (5, 9)])
def test_every_pair_is_chosen_equally_often(size, count):
    """Over all starts, taken from the middles of a fine grid of the unit interval."""
    starts = (np.arange(size * count * 20) + 0.5) / (size * count * 20)
    chosen = [spread(np.arange(size), count=count, rng=Points(start)) for start in starts]
    assert all(len(set(one.tolist())) == min(size, count) for one in chosen)
    often = np.bincount(np.concatenate(chosen), minlength=size) / len(starts)
    np.testing.assert_allclose(often, min(1.0, count / size), atol=1e-12)


def test_among_like_neighbours_the_mean_varies_less_than_by_chance():
    values = np.sort(np.random.default_rng(0).normal(size=64))
    rng = np.random.default_rng(1)
    spread_out = [values[spread(np.arange(64), count=16, rng=rng)].mean() for _ in range(4000)]
    by_chance = [rng.choice(values, 16, replace=False).mean() for _ in range(4000)]
    assert np.mean(spread_out) == pytest.approx(values.mean(), abs=4 * np.std(spread_out) / 4000**0.5)
    assert np.var(spread_out) < np.var(by_chance) / 5


def test_fewer_pairs_are_some_of_the_same_pairs_of_the_same_batches():
    questions = [i // 2 for i in range(64)]
    kinds = np.random.default_rng(0).permutation(64)
    whole, few = plan(questions), plan(questions, kl_pairs=4, kind_N=kinds)
    for batch, thinned in zip(batches(whole), batches(few), strict=True):
        assert batch.examples.tolist() == thinned.examples.tolist()
        kept = thinned.partners >= 0
        assert kept.sum() == 4
        assert thinned.partners[kept].tolist() == batch.partners[kept].tolist()
    assert whole.blocks() == few.blocks()
