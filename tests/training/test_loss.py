import math

import numpy as np
import pytest
import torch

from mralign.training.examples import segment_steps, token_weights, too_long
from mralign.training.loss import KtoSettings, kl_estimate, kto_loss, reward, sft_loss

PAPER = KtoSettings(beta=0.1, lambda_chosen=1.0, lambda_rejected=1.5)


def test_each_completion_token_has_its_steps_weight_and_the_answer_one():
    assert token_weights([0, 0, 1, 2, -1, -1], [0.5, 2.0, 1.25]).tolist() == [0.5, 0.5, 2.0, 1.25, 1.0, 1.0]


def test_a_step_without_weight_is_refused():
    with pytest.raises(ValueError, match="step 2, but there are weights for 2"):
        token_weights([0, 2], [1.0, 1.0])


def test_segments_find_their_steps():
    steps = [{"first_segment": 0, "last_segment": 1}, {"first_segment": 2, "last_segment": 2}]
    assert segment_steps(steps, segments=3) == [0, 0, 1]
    with pytest.raises(ValueError, match="segment 3 of 4"):
        segment_steps(steps, segments=4)


def test_a_long_sequence_is_put_aside_and_one_at_the_limit_is_kept():
    row = {"row_id": "a", "prompt_token_ids": [1, 2], "token_ids": [3, 4, 5], "text": "t"}
    assert too_long(row, max_length=5) is None
    reject = too_long(row, max_length=4)
    assert reject is not None
    assert (reject.reason, reject.detail) == ("too_long", "5 tokens, examples.max_length is 4")


def test_reward_is_a_weighted_sum():
    logp, reference = torch.tensor([[-1.0, -2.0, -3.0]]), torch.tensor([[-2.0, -2.5, -1.0]])
    weights = torch.tensor([[2.0, 0.5, 1.0]])
    assert reward(logp, reference_BT=reference, weights_BT=weights).tolist() == [2.0 * 1 + 0.5 * 0.5 - 2.0]


def test_kto_loss_by_hand():
    loss = kto_loss(
        torch.tensor([4.0, -3.0]), polarity_B=torch.tensor([1.0, -1.0]), z0=torch.tensor(2.0), settings=PAPER
    )
    expected = [1.0 - 1 / (1 + math.exp(-0.1 * (4 - 2))), 1.5 - 1.5 / (1 + math.exp(-0.1 * (2 + 3)))]
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-6)


def test_zero_reward_costs_half_of_lambda():
    loss = kto_loss(torch.zeros(2), polarity_B=torch.tensor([1.0, -1.0]), z0=torch.tensor(0.0), settings=PAPER)
    assert loss.tolist() == [0.5, 0.75]


def test_kl_is_a_clamped_mean_and_may_be_smoothed():
    assert kl_estimate(6.0, 4, previous=None, ema=0.0) == 1.5
    assert kl_estimate(-6.0, 4, previous=None, ema=0.0) == 0.0
    assert kl_estimate(0.0, 0, previous=None, ema=0.0) == 0.0
    assert kl_estimate(6.0, 4, previous=0.5, ema=0.75) == pytest.approx(0.75 * 0.5 + 0.25 * 1.5)


def test_sft_is_summed_cross_entropy():
    assert sft_loss(torch.tensor([[-1.0, -0.5], [-2.0, 0.0]])).tolist() == [1.5, 2.0]
