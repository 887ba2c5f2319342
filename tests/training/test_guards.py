import pytest
from tiny_policy import settings

from mralign.training.guards import TrainingStopped, check_first_step, check_moved, class_balance, not_finite
from mralign.training.objectives import find

KTO = find("kto")


def figures(*, loss=0.625, reward=0.0, tokens=200.0):
    return {"loss": loss, "reward_chosen": reward, "reward_rejected": 0.0, "tokens": tokens}


def test_balance_inside_ktos_advice_is_silent():
    assert class_balance(300, 150, settings=settings(), objective=KTO) is None  # 300 / 225 = 1.33
    assert class_balance(150, 100, settings=settings(), objective=KTO) is None  # 1, the bound
    assert class_balance(225, 100, settings=settings(), objective=KTO) is None  # 1.5, the bound


def test_balance_outside_is_told_with_numbers_that_would_do():
    text = class_balance(4830, 2143, settings=settings(lambda_rejected=1.0), objective=KTO)
    assert "1 x 4830 / (1 x 2143) = 2.25" in text
    assert "training.lambda_rejected between 1.50 and 2.25" in text
    assert class_balance(4830, 2143, settings=settings(lambda_rejected=1.5), objective=KTO) is not None  # 1.5026
    assert class_balance(4830, 2143, settings=settings(lambda_rejected=1.6), objective=KTO) is None


def test_a_side_that_is_empty_is_told_and_sft_has_only_one():
    assert "100 positive and 0 negative" in class_balance(100, 0, settings=settings(), objective=KTO)
    assert class_balance(100, 0, settings=settings(), objective=find("sft")) is None


def test_the_first_step_must_cost_half_of_lambda():
    check = {"polarities": [1, -1], "settings": settings(), "objective": KTO}
    check_first_step(figures(), **check)
    check_first_step(figures(reward=0.09), **check)  # 100 tokens a sequence: below 1e-3 a token
    with pytest.raises(TrainingStopped, match=r"mean reward is 0\.005 a token \(expected 0, allowed 0\.001\)"):
        check_first_step(figures(reward=0.5), **check)
    with pytest.raises(TrainingStopped, match=r"the loss 0\.75 \(expected 0\.625"):
        check_first_step(figures(loss=0.75), **check)
    check_first_step(figures(loss=3.0), **{**check, "objective": find("sft")})


def test_a_first_batch_of_one_class_is_judged_by_that_class():
    check = {"polarities": [-1, -1], "settings": settings(), "objective": KTO}
    only = {"loss": 0.75, "reward_rejected": 0.0, "tokens": 200.0}  # lambda_r / 2
    check_first_step(only, **check)
    with pytest.raises(TrainingStopped, match=r"mean reward is 0\.005 a token"):
        check_first_step({**only, "reward_rejected": -0.5}, **check)


def test_a_step_that_moves_nothing_is_caught():
    check_moved(1.0, 1.0000001, rate=1e-6, dtype="float32")
    with pytest.raises(TrainingStopped, match=r"\(learning rate 1e-30, bfloat16\) moved no trainable parameter"):
        check_moved(1.0, 1.0, rate=1e-30, dtype="bfloat16")


def test_examples_without_a_finite_loss_are_named_a_few():
    text = str(not_finite([f"q{n}" for n in range(12)], step=7, what="loss"))
    assert "at step 7 the loss is not finite; examples: q0, q1, q10" in text
    assert "and 4 more" in text
