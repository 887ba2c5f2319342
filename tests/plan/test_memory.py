"""Memory by a model's shape, held against arithmetic by hand and against peaks that were measured on a GPU."""

import pytest
from transformers import Qwen3Config

from mralign.config import Engine, Training
from mralign.plan import memory
from mralign.plan.memory import GIB

EIGHT = {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32}
EIGHT |= {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}
PARAMETERS = 8_190_735_360  # Qwen3-8B, as its model card counts them: 8.2 B
ADAPTER = 87_293_952  # rank 32 on seven layers: 36 x 32 x (2 x 8192 + 2 x 5120 + 3 x 16384)
ON_GPU = {"gpu": True, "kernels": "liger", "workers": 1, "micro_batch_tokens": 12_288}


@pytest.fixture
def shape():
    return memory.shape_of(Qwen3Config(**EIGHT), parameters=PARAMETERS, trained=ADAPTER)


def test_keys_and_values_of_a_token_and_weights_by_hand(shape):
    assert memory.cache_of_a_token(shape, dtype="bfloat16", engine=Engine()) == 2 * 36 * 8 * 128 * 2  # 144 KiB
    split = Engine(tensor_parallel=2, gpus_per_replica=2)
    assert memory.cache_of_a_token(shape, dtype="float32", engine=split) == 2 * 36 * 8 * 128 * 4 / 2
    assert memory.weights(shape, dtype="bfloat16", engine=split) == PARAMETERS


@pytest.mark.parametrize(
    ("changes", "measured_gib"),
    [({}, 68.0), ({"gradient_checkpointing": True}, 21.9)],  # README: peaks of one H200, 2026-11-26
)
def test_the_estimate_of_a_training_lies_near_the_measured_peak_and_not_below(shape, changes, measured_gib):
    need = memory.training(shape, Training(**ON_GPU, **changes), longest=4096)
    assert measured_gib <= need.total / GIB <= 1.15 * measured_gib


def test_zero_cuts_what_it_cuts(shape):
    def parts(**changes):
        return memory.training(shape, Training(**{**ON_GPU, "workers": 4, **changes}), longest=1).parts

    one, two, three = parts(zero_stage=1), parts(zero_stage=2), parts(zero_stage=3)
    assert one["optimizer"] == two["optimizer"] == three["optimizer"] == ADAPTER * 12 / 4
    assert one["gradients"] == ADAPTER * 4
    assert two["gradients"] == three["gradients"] == ADAPTER
    assert two["weights"] == 4 * three["weights"] == 2 * (PARAMETERS + ADAPTER)
    assert parts(min_workers=2)["optimizer"] == 2 * two["optimizer"]  # when the fewest train
    assert parts(offload="optimizer")["optimizer"] == 0
    assert parts(tuning="qlora")["weights"] < two["weights"] / 3
    assert one["activations"] == three["activations"]


def test_what_attention_puts_out_is_little_beside_what_is_computed_again(shape):
    ways = (True, "selective", False)
    settings = [Training(**{**ON_GPU, "gradient_checkpointing": way}) for way in ways]
    whole, selective, plain = (memory.activations(shape, one, tokens=12_288) for one in settings)
    assert selective - whole == 12_288 * 36 * 4096 * 2  # tokens x layers x heads and their size x bytes
    assert whole < selective < plain / 4


def test_a_longer_example_counts_where_it_is_longer_than_a_micro_batch(shape):
    settings = Training(**{**ON_GPU, "micro_batch_tokens": 1000})
    short, long = (memory.training(shape, settings, longest=n).parts["activations"] for n in (500, 4000))
    assert long == 4 * short


def test_a_model_of_another_kind_has_no_shape():
    class State:
        hidden_size, num_hidden_layers = 64, 2

        def get_text_config(self):
            return self

    assert memory.shape_of(State(), parameters=1, trained=1) is None
