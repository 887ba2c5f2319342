import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_policy import settings

from mralign.training import objectives
from mralign.training.examples import segment_steps, too_long
from mralign.training.kl import kl_estimate
from mralign.training.objectives import find, names, source_digest
from mralign.training.objectives.objective import Sums


def sums(reward, polarity, *, z0=0.0, logp=None):
    r = torch.tensor(reward)
    return Sums(torch.tensor(logp or reward), r, r, torch.tensor(polarity), torch.tensor(z0))


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


@pytest.mark.parametrize("name", ["kto", "mralign"])
def test_kto_loss_by_hand(name):
    loss = find(name).losses(sums([4.0, -3.0], [1.0, -1.0], z0=2.0), settings())
    expected = [1.0 - 1 / (1 + math.exp(-0.1 * (4 - 2))), 1.5 - 1.5 / (1 + math.exp(-0.1 * (2 + 3)))]
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-6)


def test_apo_zero_by_hand():
    loss = find("apo_zero").losses(sums([4.0, -3.0], [1.0, -1.0], z0=99.0), settings())
    expected = [1.0 - 1 / (1 + math.exp(-0.4)), 1.5 / (1 + math.exp(0.3))]
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-6)


def test_sft_is_summed_cross_entropy():
    assert find("sft").losses(sums([0.0, 0.0], [1.0, 1.0], logp=[-1.5, -2.0]), settings()).tolist() == [1.5, 2.0]


@pytest.mark.parametrize("name", ["kto", "mralign", "apo_zero"])
def test_zero_reward_costs_what_the_objective_says(name):
    objective = find(name)
    loss = objective.losses(sums([0.0, 0.0], [1.0, -1.0]), settings())
    assert loss.tolist() == [objective.start(1, settings()), objective.start(-1, settings())] == [0.5, 0.75]


def test_only_mralign_differs_from_kto_by_its_weights():
    assert find("mralign") == replace(find("kto"), weights=True)


def test_unknown_objectives_are_refused_by_name():
    assert names() == ["apo_zero", "kto", "mralign", "sft"]
    with pytest.raises(ValueError, match=r"training.method='dpo' is no objective; allowed are \['apo_zero', 'kto'"):
        find("dpo")


def test_kl_is_a_clamped_mean_and_may_be_smoothed():
    assert kl_estimate(6.0, 4, previous=None, ema=0.0) == 1.5
    assert kl_estimate(-6.0, 4, previous=None, ema=0.0) == 0.0
    assert kl_estimate(0.0, 0, previous=None, ema=0.0) == 0.0
    assert kl_estimate(6.0, 4, previous=0.5, ema=0.75) == pytest.approx(0.75 * 0.5 + 0.25 * 1.5)


@pytest.fixture
def own_objectives(tmp_path, monkeypatch):
    """A copy of the objectives that a test may change."""
    shutil.copytree(Path(objectives.__file__).parent, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(objectives, "__path__", [str(tmp_path)])
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        "from mralign.training.objectives import kto",
        "from mralign.training.objectives.kto import OBJECTIVE",
        "import mralign.training.objectives.kto as base",
        "from . import kto",
        "from .kto import OBJECTIVE",
        "from mralign.training.objectives import mralign",  # which is built on kto
        "def late():\n    from .mralign import OBJECTIVE",
    ],
)
def test_an_objective_is_another_one_when_a_file_that_it_is_built_on_is_edited(own_objectives, line):
    (own_objectives / "mine.py").write_text(f"{line}\n")
    before = {name: source_digest(name) for name in ("mine", "mralign", "kto", "sft")}
    with (own_objectives / "kto.py").open("a") as stream:
        stream.write("# edited\n")
    after = {name: source_digest(name) for name in before}
    assert {name for name in before if before[name] != after[name]} == {"mine", "mralign", "kto"}


def test_an_objective_that_imports_itself_or_nothing_has_a_digest(own_objectives):
    (own_objectives / "mine.py").write_text("import math\nfrom . import mine, no_such_module\n")
    alone = source_digest("mine")
    with (own_objectives / "kto.py").open("a") as stream:
        stream.write("# edited\n")
    assert source_digest("mine") == alone
