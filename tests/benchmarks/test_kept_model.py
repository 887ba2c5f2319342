"""The model and examples that three benchmarks share in a directory that stays."""

from dataclasses import replace
from functools import partial

import pytest

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
SIZES |= {"head_dim": 16, "intermediate_size": 16}


def test_it_is_made_once_made_anew_where_it_was_only_begun_and_not_taken_for_another(tmp_path, benchmark):
    training, kept = benchmark("training"), tmp_path / "kept"
    tiny = replace(training.QUICK, save=partial(training.save_qwen3, **SIZES), vocabulary=64, scale=0.05)
    weights = kept / "model" / "model.safetensors"

    def prepare(shape=tiny):
        with training.prepared(shape, kept=kept) as (home, tokens, parameters):
            assert home == kept
            return tokens, parameters, weights.stat().st_mtime_ns

    first = prepare()
    assert prepare() == first
    (kept / "prepared.json").unlink()  # as if the first call had been ended
    assert prepare()[:2] == first[:2] and prepare()[2] > first[2]
    with pytest.raises(SystemExit, match=r"holds 64 words, .* 8 samples, not .* 16 samples"):
        prepare(replace(tiny, samples=16))
