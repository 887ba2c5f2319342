"""How far positions reach, and whether server and trainer agree, from configuration files alone."""

import pytest
from tiny_families import DYNAMIC, config_of, longrope

from mralign.config import Model, Training, parse
from mralign.training.examples import too_long
from mralign.training.reference import model_mark
from mralign.training.rope import check_positions, local_config, original_length, positions_of

ALIBI = {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4}


@pytest.mark.parametrize(
    ("name", "changes", "positions"),
    [
        ("qwen3", {"max_position_embeddings": 40960}, 40960),
        ("gpt2", {"n_positions": 1024, "n_embd": 32, "n_head": 4, "n_layer": 2, "head_dim": None}, 1024),
        ("bloom", ALIBI, None),
        ("llama", {"rope_parameters": DYNAMIC}, 512),  # four times the length
        ("phi3", longrope(64), 128),  # has the scaled length already
        ("gemma3", {"text_config": {"max_position_embeddings": 131072}}, 131072),
    ],
)
def test_positions_of_a_configuration(name, changes, positions):
    assert positions_of(config_of(name, **changes)) == positions


def test_only_longrope_has_an_original_length():
    assert original_length(config_of("phi3", **longrope(64))) == 64
    assert original_length(config_of("llama", rope_parameters=DYNAMIC)) is None


def run_on(path, **sections):
    questions = {"train": [{"name": "q", "path": "a"}], "test": [{"name": "q", "path": "b"}]}
    return parse({"questions": questions, "model": {"path": str(path)}, **sections})


@pytest.fixture
def directory(tmp_path):
    def saved(name, **changes):
        config_of(name, **changes).save_pretrained(tmp_path)
        return tmp_path

    return saved


def test_a_server_beyond_the_models_positions_is_refused_in_the_plan(directory):
    path = directory("qwen3", max_position_embeddings=2048)
    check_positions(run_on(path, engine={"max_model_len": 2048}))
    with pytest.raises(ValueError, match=r"engine\.max_model_len=8192, but the model has positions for 2048 tokens"):
        check_positions(run_on(path))


@pytest.mark.parametrize(
    ("served", "longest", "rope_length", "message"),
    [
        (64, 64, None, None),  # short factors on both sides
        (64, 32, 64, None),
        (128, 64, 128, None),  # long factors on both sides
        (128, 128, 128, None),
        (128, 64, None, r"exceeds the model's original length of 64.*Give training\.rope_length=128, or engine"),
        (128, 128, None, r"Give training\.rope_length=128"),
        (128, 64, 64, r"Give training\.rope_length=128"),
        (
            64,
            128,
            None,
            r"examples\.max_length=128 would have training take the long ones; give examples\.max_length=64",
        ),
        (64, 32, 100, r"training\.rope_length=100 would have training take the long ones"),
    ],
)
def test_server_and_trainer_take_the_same_factors(directory, served, longest, rope_length, message):
    path = directory("phi3", **longrope(64))
    config = run_on(
        path,
        engine={"max_model_len": served},
        examples={"max_length": longest},
        training={} if rope_length is None else {"rope_length": rope_length},
    )
    if message is None:
        check_positions(config)
        return
    with pytest.raises(ValueError, match=message):
        check_positions(config)


def test_what_is_not_here_is_not_judged(tmp_path):
    assert local_config(Model(path="nobody/such-a-model")) is None
    check_positions(run_on("nobody/such-a-model"))
    with pytest.raises(ValueError, match="model_type"):
        local_config(Model(path=str(tmp_path)))


def test_a_row_beyond_the_models_positions_is_a_reject_with_that_reason():
    row = {"row_id": "a", "prompt_token_ids": [1, 2, 3], "token_ids": [4, 5], "text": "x"}
    assert too_long(row, max_length=100, positions=5) is None
    reject = too_long(row, max_length=100, positions=4)
    assert (reject.reason, reject.detail) == ("too_long", "5 tokens, the model has positions for 4")
    assert too_long(row, max_length=4, positions=100).detail == "5 tokens, examples.max_length is 4"


def test_a_rope_length_changes_no_fingerprint_where_it_is_not_given():
    assert "rope_length" not in Training().model_dump(mode="json")
    assert Training(rope_length=64).model_dump(mode="json")["rope_length"] == 64
    read = [model_mark(Model(), Training(rope_length=length)) for length in (None, 64, 65)]
    assert len(set(read)) == 3
