"""The results of an evaluation in the cards of the model that it measured."""

import json
from dataclasses import dataclass

import yaml
from huggingface_hub import ModelCard
from tiny_export import FIGURES, configured

from mralign.plan.model_cards import complete_cards
from mralign.run.store import Manifest, StageDir
from mralign.training.card import model_card


@dataclass(frozen=True)
class Named:
    name: str


@dataclass(frozen=True)
class Standing:
    """A stage as a plan has it."""

    stage: Named
    out: StageDir
    manifest: Manifest | None = None


def figures(acc, mis):
    """As a benchmark of short answers writes them."""
    interval = {"acc_ci": [acc - 0.1, acc + 0.1], "mis_ci": None if mis is None else [mis - 0.1, mis + 0.1]}
    return {"tiny": {"kind": "short_answer", "acc": acc, "mis": mis, "n": 10, "draws": 10, **interval}}


def stage(home, name, *, metrics=None, sealed=True):
    out = StageDir(f"{home}/{name}/ff", stage=name, fingerprint="ff")
    if metrics is not None:
        out.write_text("metrics.json", json.dumps(metrics))
    if sealed:
        out.seal(Manifest(name, "ff", {}, {}, {}, 1, 1, {}, 1.0, {}))
    return Standing(Named(name), out)


def test_both_cards_get_the_table_with_intervals_and_an_index_of_the_models_own_results(tmp_path):
    config = configured()
    base = stage(tmp_path, "evaluation_base", metrics={"base_think_on": figures(0.5, 0.3)})
    training = stage(tmp_path, "training")
    given = {"data": {}, "figures": FIGURES, "fingerprint": "ff"}
    for name in ("adapter", "model"):
        training.out.write_text(f"{name}/README.md", model_card(config, adapter=name == "adapter", **given))
    complete_cards(config, [training, base, stage(tmp_path, "evaluation", metrics={}, sealed=False)])
    assert "Not measured yet" in training.out.read_text("model/README.md")
    trained = stage(tmp_path, "evaluation", metrics={"mralign": figures(0.75, 0.2)})
    complete_cards(config, [training, base, trained])
    for name in ("adapter", "model"):
        text = training.out.read_text(f"{name}/README.md")
        assert "| base_think_on | 50.0 [40.0, 60.0] | **" not in text
        assert "50.0 [40.0, 60.0]" in text and "**75.0** [65.0, 85.0]" in text
        acc, mis = ModelCard(text, ignore_metadata_errors=False).data.eval_results
        assert (acc.metric_name, acc.metric_value) == ("Acc, 95 % interval [0.650, 0.850]", 0.75)
        assert (mis.metric_value, mis.dataset_name, mis.task_name) == (0.2, "tiny", "mralign")
        assert yaml.safe_load(text.split("---\n")[1])["model-index"][0]["name"] == "mralign on Qwen/Qwen3-8B"
