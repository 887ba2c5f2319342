import json
import shutil

import numpy as np
import pytest

from mralign.training.pairs import Batch
from mralign.training.reference import load_model, pairs_to_score


def test_only_planned_examples_are_scored_each_pair_once():
    batches = [
        Batch(0, np.array([0, 2]), np.array([2, 0])),
        Batch(1, np.array([2, 0]), np.array([0, -1])),
    ]
    assert pairs_to_score(["a", "b", "c"], batches) == [("a", "a"), ("c", "c"), ("a", "c"), ("c", "a")]


def test_a_model_that_changes_its_logits_is_refused(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "capped")
    config = json.loads((tmp_path / "capped" / "config.json").read_text())
    (tmp_path / "capped" / "config.json").write_text(json.dumps({**config, "final_logit_softcapping": 30.0}))
    with pytest.raises(ValueError, match=r"changes its logits after the head \(\{'final_logit_softcapping': 30.0\}\)"):
        load_model(str(tmp_path / "capped"), dtype="float32")


def test_a_policy_with_an_adapter_is_the_adapted_model(tiny_model, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    lora = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    adapted = get_peft_model(load_model(tiny_model, dtype="float32"), lora).eval()
    adapted.save_pretrained(tmp_path)
    ids = torch.tensor([[1, 5, 3, 2]])
    merged = load_model(tiny_model, dtype="float32", adapter=str(tmp_path))
    with torch.no_grad():
        wanted, found, base = (
            m(input_ids=ids).logits for m in (adapted, merged, load_model(tiny_model, dtype="float32"))
        )
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert (found - base).abs().max() > 1e-2
