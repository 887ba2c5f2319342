import numpy as np
import pytest
import torch

from mralign.training.batches import padded
from mralign.training.objectives import find
from mralign.training.objectives.objective import Sums
from mralign.training.step_figures import Tally, figures_of, mfu, model_flops


def tally(rewards, plains, polarity):
    pairs = [(np.array([1, 2]), np.array([3, 4, 5])[: n + 1]) for n in range(len(rewards))]
    r, p = torch.tensor(rewards), torch.tensor(plains)
    sums = Sums(r, r, p, torch.tensor(polarity), torch.tensor(0.0))
    return Tally.of_micro(torch.ones(len(rewards)), sums, micro=padded(pairs), broken=0)


def test_means_by_class_do_not_depend_on_the_cut():
    whole = tally([4.0, -2.0, 1.0], [2.0, -1.0, 3.0], [1.0, -1.0, 1.0])
    cut = tally([4.0], [2.0], [1.0]) + tally([-2.0], [-1.0], [-1.0]) + tally([1.0], [3.0], [1.0])
    found, other = (
        figures_of(Tally(**{**vars(t), "divisor": 3.0}), z0=0.5, objective=find("kto")) for t in (whole, cut)
    )
    assert {k: v for k, v in found.items() if k != "tokens"} == {k: v for k, v in other.items() if k != "tokens"}
    assert found["loss"] == 1.0
    assert (found["reward_chosen"], found["reward_rejected"], found["margin"]) == (2.5, -2.0, 4.5)
    assert (found["plain_chosen"], found["plain_rejected"], found["plain_margin"]) == (2.5, -1.0, 3.5)
    assert found["z0"] == 0.5
    assert found["tokens"] == 1 + 2 + 3


def test_a_class_that_a_batch_lacks_has_no_figure():
    only = figures_of(tally([4.0, 2.0], [2.0, 4.0], [1.0, 1.0]), z0=0.5, objective=find("kto"))
    assert (only["reward_chosen"], only["plain_chosen"], only["z0"]) == (3.0, 3.0, 0.5)
    assert not {"reward_rejected", "plain_rejected", "margin", "plain_margin"} & only.keys()
    only = figures_of(tally([4.0], [2.0], [-1.0]), z0=None, objective=find("kto"))
    assert (only["reward_rejected"], only["plain_rejected"]) == (4.0, 2.0)
    assert not {"reward_chosen", "plain_chosen", "margin", "plain_margin", "z0"} & only.keys()


def test_sums_survive_the_way_through_a_tensor():
    whole = tally([4.0, -2.0], [2.0, -1.0], [1.0, -1.0])
    assert Tally.of(whole.tensor()) == whole


def test_flops_of_a_decoder_by_hand():
    class Config:
        num_hidden_layers, num_attention_heads, head_dim, hidden_size = 2, 4, 8, 32

    # 2 x 100 a token; QK and AV: 2 x (2 x width x 10 x 10 / 2) in each of two layers
    assert model_flops(Config, parameters=100, lengths=[10]) == 10 * 200 + 2 * 2 * 32 * 10 * 10
    assert model_flops(Config, parameters=100, lengths=[10, 10]) == 2 * model_flops(
        Config, parameters=100, lengths=[10]
    )


def test_the_used_share_of_a_gpu_is_told_where_its_peak_is_known():
    assert mfu(989e12, seconds=2.0, workers=1, device="NVIDIA H100 80GB HBM3") == pytest.approx(0.5)
    assert mfu(989e12, seconds=1.0, workers=4, device="NVIDIA H200") == pytest.approx(0.25)
    assert mfu(1e15, seconds=1.0, workers=1, device="Some other card") is None
