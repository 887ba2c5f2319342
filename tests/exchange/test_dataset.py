"""A run as a data set: read by `datasets`, trained on by TRL's KTOTrainer, and read back as rollouts."""

import json
from pathlib import Path

import pytest
import small_run
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

import mralign
from mralign.cli import commands
from mralign.config import ImportFields, resolve_path
from mralign.exchange.dataset import export_dataset
from mralign.rollouts.imported import read_rollouts
from mralign.rows import Mode

trl = pytest.importorskip("trl", reason="trl is not installed: pip install --no-deps trl==1.16.0")
load_dataset = pytest.importorskip("datasets").load_dataset


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    home = tmp_path_factory.mktemp("exported")
    run = small_run.write(home / "run")
    return export_dataset(run, to=str(home / "set"))


def load(exported, name, split, tmp_path):
    return load_dataset(exported.uri, name, split=split, cache_dir=str(tmp_path))


def test_every_row_is_there_with_a_weight_a_token(exported, tmp_path):
    assert exported.rows == {"examples": 4, "candidates": 4, "annotations": 4, "rollouts/on": 4, "rollouts/off": 4}
    assert (exported.same_tokens, exported.weighted) == (4, True)
    tokenizer = AutoTokenizer.from_pretrained(resolve_path(small_run.MODEL))
    rows = load(exported, "examples", "train", tmp_path)
    assert rows["label"] == [True, True, False, False]
    for row, (first, second) in zip(rows, small_run.STEP_WEIGHTS, strict=True):
        assert len(row["weights"]) == len(row["completion_token_ids"]) == len(row["token_step"])
        by_step = {-1: 1.0, 0: first, 1: second}
        assert row["weights"] == pytest.approx([by_step[step] for step in row["token_step"]])
        assert set(row["token_step"]) == {-1, 0, 1}
        assert row["completion"].startswith("<think>recall")
        assert row["completion"].endswith("<|im_end|>")
        assert tokenizer(row["prompt"])["input_ids"] == row["prompt_token_ids"]


def test_the_other_parts_load_by_their_names(exported, tmp_path):
    steps = load(exported, "annotations", "train", tmp_path)[0]["steps"]
    assert [step["labels"] for step in steps] == [["retrieval"], ["summarization"]]
    assert load(exported, "candidates", "train", tmp_path)[0]["segment_start"][0] == len("<think>")
    assert load(exported, "rollouts", "off", tmp_path)["response"][0] == "sizanas"


def test_the_card_has_a_valid_head_and_no_path_of_a_machine(exported):
    from huggingface_hub import DatasetCard

    text = Path(exported.uri, "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert [one["config_name"] for one in head["configs"]] == ["examples", "candidates", "annotations", "rollouts"]
    assert head["source_datasets"] == ["someone/tiny"]
    assert "license" not in head
    assert "4 of 4 examples" in text
    assert str(Path(exported.uri).parent) not in text
    assert DatasetCard(text, ignore_metadata_errors=False).data.pretty_name.startswith("Meta-reasoning traces")


def test_trl_trains_on_it(exported, tmp_path):
    """TRL reads the texts, makes our own token ids of them, and takes two steps; the weights are left aside."""
    rows = load(exported, "examples", "train", tmp_path)
    expected = [(row["prompt_token_ids"], row["completion_token_ids"]) for row in rows]
    model = AutoModelForCausalLM.from_pretrained(resolve_path(small_run.MODEL), dtype=torch.float32)
    before = model.get_input_embeddings().weight.detach().clone()
    arguments = trl.KTOConfig(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=2,
        max_steps=2,
        learning_rate=1e-2,
        bf16=False,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        gradient_checkpointing=False,
    )
    tokenizer = AutoTokenizer.from_pretrained(resolve_path(small_run.MODEL))
    trainer = trl.KTOTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    ready = trainer.train_dataset
    assert [(row["prompt_ids"], row["completion_ids"]) for row in ready] == expected
    result = trainer.train()
    assert result.global_step == 2
    assert torch.isfinite(torch.tensor(result.training_loss))
    assert not torch.equal(before, model.get_input_embeddings().weight)


def test_its_rollouts_can_be_read_again(exported):
    """Ids, questions, texts and token ids are those of the run; the data set's name stands before the ids."""
    fields = ImportFields(id="id", question="question", answers="answers", response="response", draw="draw")
    for mode in Mode:
        path = f"{exported.uri}/rollouts/{mode}.parquet"
        config = small_run.config(".")
        table, rejects = read_rollouts(path, mode=mode, name="again", fields=fields, model=config.model, draws=1)
        assert rejects == []
        for number, row in enumerate(table.to_pylist()):
            made = small_run.generation(number, mode=mode)
            assert row["row_id"] == f"again/{made.row_id}"
            assert (row["text"], row["answers"], row["token_ids"]) == (made.text, made.answers, made.token_ids)


def test_without_weights_every_token_weighs_1(tmp_path):
    run = small_run.write(tmp_path / "run", weighted=False)
    found = export_dataset(run, to=str(tmp_path / "set"))
    rows = load_dataset(found.uri, "examples", split="train", cache_dir=str(tmp_path / "cache"))
    assert not found.weighted
    assert {weight for weights in rows["weights"] for weight in weights} == {1.0}
    assert "All `weights` are 1." in Path(found.uri, "README.md").read_text()


def test_the_command_says_what_it_wrote(tmp_path, capsys, caplog):
    run = small_run.write(tmp_path / "run")
    assert commands.run(["export", run, "--to", str(tmp_path / "set")]) == 0
    said = capsys.readouterr().out
    assert "rollouts/off         4 rows" in said
    assert "4 of 4 examples" in said
    assert commands.run(["export", run, "--to", str(tmp_path / "set")]) == 2
    assert "give a new or an empty directory" in caplog.text


def test_a_run_is_read_by_its_stages(tmp_path):
    run = mralign.read_run(small_run.write(tmp_path / "run"))
    assert list(run.stages) == ["rollouts", "candidates", "annotation", "examples", "weights"]
    assert run.config.questions.train[0].name == "tiny"
    assert run.table("weights").column("step_weights").to_pylist() == small_run.STEP_WEIGHTS
    assert run.table("rollouts", columns=["mode"]).column("mode").to_pylist() == ["on", "off"] * 4
    assert run.rejects("candidates").num_rows == 0
    assert run.figures == {}
    with pytest.raises(ValueError, match="the stage training is not finished; finished are rollouts, candidates"):
        run.table("training")


def test_what_cannot_be_exported_is_told(tmp_path):
    run = small_run.write(tmp_path / "run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    with pytest.raises(ValueError, match=r"holds mine\.txt already; give a new or an empty directory"):
        export_dataset(run, to=str(tmp_path / "full"))
    with pytest.raises(ValueError, match=r"there is no config\.yaml"):
        export_dataset(str(tmp_path / "nowhere"), to=str(tmp_path / "set"))
    stages = Path(run, "report", "stages.json")
    stages.write_text(json.dumps({"finished": False, "results": {"rollouts": "rollouts/0123"}}))
    with pytest.raises(ValueError, match="the stage candidates is not finished; finished are rollouts"):
        export_dataset(run, to=str(tmp_path / "set"))
