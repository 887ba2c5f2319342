import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mralign.training.pairs import derange, plan

OWNERS = st.lists(st.sampled_from("abcdefg"), min_size=2, max_size=40)


@given(OWNERS, st.integers(0, 1000))
def test_no_place_meets_its_own_question_and_none_is_used_twice(owners, seed):
    partners = derange(owners, rng=np.random.default_rng(seed))
    used = [j for j in partners if j >= 0]
    assert all(owners[i] != owners[j] for i, j in enumerate(partners) if j >= 0)
    assert len(set(used)) == len(used)
    if max(owners.count(o) for o in owners) <= len(owners) / 2:
        assert len(used) == len(owners)


def test_one_question_alone_has_no_partner():
    assert derange(["a", "a", "a"], rng=np.random.default_rng(0)).tolist() == [-1, -1, -1]


def test_the_rotation_is_not_the_same_in_every_batch():
    owners = list("abcdefgh")
    found = {tuple(derange(owners, rng=np.random.default_rng(seed))) for seed in range(20)}
    assert len(found) > 10


def test_every_example_once_an_epoch_and_epochs_differ():
    owners = [f"q{i // 3}" for i in range(50)]
    batches = plan(owners, seed=1, epochs=2, batch_size=16)
    orders = [np.concatenate([b.examples for b in batches if b.epoch == epoch]) for epoch in (0, 1)]
    assert [sorted(order) for order in orders] == [list(range(50))] * 2
    assert orders[0].tolist() != orders[1].tolist()
    assert [len(b.examples) for b in batches if b.epoch == 0] == [16, 16, 18]  # a rest of 2 joins the batch before


def test_a_longer_run_begins_like_a_shorter_one():
    owners = [f"q{i}" for i in range(40)]
    short, long = (plan(owners, seed=5, epochs=e, batch_size=8) for e in (2, 4))
    for a, b in zip(short, long, strict=False):
        assert a.examples.tolist() == b.examples.tolist()
        assert a.partners.tolist() == b.partners.tolist()


def test_no_example_is_refused():
    with pytest.raises(ValueError, match="no example to train on"):
        plan([], seed=0, epochs=1, batch_size=4)
