"""The files of a model beside its weights: loaded one way everywhere, dated as the run is, taken along by a merge."""

import datetime
import json
import pickle

import pytest
from dated_model import DATED, MINIWORLD, copy_of
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from mralign.chat.model_files import (
    copy_companions,
    load_tokenizer,
    model_path,
    template_text,
    tokenizer_path,
    weight_files,
    writes_date,
)
from mralign.chat.prompts import chat_prompt
from mralign.config import Model, RunConfig, ThinkMode, counted
from mralign.serving.adapter import load_merged
from mralign.serving.requests import check_model
from mralign.serving.vllm import own_format


def dated(directory, day):
    return Model(path=str(directory), dtype="float32", template_date=day)


def rendered(tokenizer):
    return chat_prompt(tokenizer, "who ?", mode=ThinkMode()).text


def test_a_template_writes_the_day_of_the_run_and_not_today(tmp_path):
    directory = copy_of(MINIWORLD, tmp_path / "model", template=DATED)
    free = rendered(AutoTokenizer.from_pretrained(directory))
    assert datetime.date.today().strftime("%Y") in free  # so the template does ask what day it is
    for day, written in ((datetime.date(2031, 5, 7), "07 May 2031"), (datetime.date(1999, 12, 31), "31 Dec 1999")):
        tokenizer = load_tokenizer(str(directory), model=dated(directory, day))
        assert rendered(tokenizer) == f"Today Date: {written} who ?"
        mode = ThinkMode(template={"date_string": "a day of mine"})
        assert chat_prompt(tokenizer, "who ?", mode=mode).text == "Today Date: a day of mine who ?"


def test_a_template_with_a_date_is_never_rendered_without_a_day(tmp_path):
    directory = copy_of(MINIWORLD, tmp_path / "model", template=DATED)
    with pytest.raises(ValueError, match=r"writes today's date.*model\.template_date=YYYY-MM-DD"):
        load_tokenizer(str(directory), model=dated(directory, None))
    plain = load_tokenizer(str(MINIWORLD), model=Model(path=str(MINIWORLD)))
    assert rendered(plain) == rendered(AutoTokenizer.from_pretrained(MINIWORLD))


def test_a_date_is_found_wherever_a_template_lies(tmp_path):
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": DATED}]
    for name, value in (("one", DATED), ("several", named)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
        assert writes_date(template_text(str(tmp_path / name)))
        assert writes_date(template_text((tmp_path / name).as_uri()))
    assert not writes_date(template_text(str(MINIWORLD)))
    assert template_text("nobody/no-such-model") is None


def test_without_a_date_nothing_of_the_model_changes_and_no_fingerprint():
    assert "template_date" not in counted({"model": Model()})["model"]
    assert len(Model(adapter="mine").inputs()) == 2
    assert counted({"model": Model(template_date="2026-01-02")})["model"]["template_date"] == "2026-01-02"
    values = RunConfig(questions={"train": [{"name": "a", "path": "a"}]}).model_dump(mode="json")
    assert "template_date" not in json.dumps(values)


def changed(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def tekken(directory):
    """Mistral's own tokenizer beside that of transformers, as several models on the hub have it."""
    changed(directory / "config.json", model_type="mistral")
    vocabulary = [{"rank": n, "token_bytes": "YQ==", "token_str": "a"} for n in range(256)]
    config = {"pattern": ".", "num_vocab_tokens": 256, "default_vocab_size": 300, "default_num_special_tokens": 44,
              "version": "v3"}  # fmt: skip
    (directory / "tekken.json").write_text(json.dumps({"config": config, "vocab": vocabulary, "multimodal": None}))
    return directory


@pytest.mark.parametrize("named", [False, True])
def test_a_tokenizer_of_mistrals_own_form_beside_the_ordinary_one_changes_nothing(tmp_path, named):
    directory = tekken(copy_of(MINIWORLD, tmp_path / "model"))
    if named:
        changed(directory / "tokenizer_config.json", tokenizer_class="MistralCommonBackend")
    with pytest.raises(AssertionError):  # of mistral-common, which transformers asks to read tekken.json
        AutoTokenizer.from_pretrained(directory)
    model = Model(path=str(directory), dtype="float32", family="qwen3")
    ours, plain = load_tokenizer(str(directory), model=model), AutoTokenizer.from_pretrained(MINIWORLD)
    assert type(ours).__name__ != "MistralCommonBackend"
    assert ours("who was born in ?").input_ids == plain("who was born in ?").input_ids
    assert rendered(ours) == rendered(plain)
    check_model(model)


def test_vllm_reads_a_model_in_transformers_form_whatever_lies_beside_it(tmp_path):
    directory = tekken(copy_of(MINIWORLD, tmp_path / "model"))
    assert own_format(str(directory)) == {"tokenizer_mode": "hf", "config_format": "hf"}
    (directory / "consolidated.safetensors").write_bytes(b"")
    assert own_format(str(directory))["load_format"] == "hf"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer.json", "{", "the tokenizer of .* cannot be loaded"),
        ("tokenizer.json", None, "the tokenizer of .* cannot be loaded"),
        ("config.json", '{"model_type": "nobody_knows"}', "configuration of the model .* cannot be loaded"),
    ],
)
def test_what_a_run_could_not_load_the_plan_refuses(tmp_path, name, text, message):
    directory = copy_of(MINIWORLD, tmp_path / "model")
    (directory / name).unlink() if text is None else (directory / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        check_model(Model(path=str(directory), dtype="float32", family="qwen3"))


def test_a_merge_takes_along_data_and_text_and_nothing_that_runs_or_misleads(tmp_path):
    base, target = tmp_path / "base", tmp_path / "target"
    target.mkdir()
    taken = {
        *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "vocab.txt"),
        *("chat_template.json", "generation_config.json", "tokenizer.model", "LICENSE", "tekken.json"),
        *("additional_chat_templates/tool_use.jinja", "sentence/config.json"),
    }
    left = {
        *("model-00001-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "optimizer.pt"),
        *("params.json", "adapter_config.json", "scheduler.pkl", "run.sh", ".git/config", ".gitattributes"),
        *("original/params.json", "original/consolidated.00.pth", "onnx/model.onnx", "onnx/config.json"),
    }
    for name in taken | left | {"modeling_own.py", "config.json"}:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(pickle.dumps(name) if name.endswith(".pkl") else b"{}")
    (target / "config.json").write_text("rewritten")
    assert set(copy_companions(str(base), target=target, trust_remote_code=False)) == taken
    assert (target / "config.json").read_text() == "rewritten"
    assert copy_companions(str(base), target=target, trust_remote_code=True) == ["modeling_own.py"]


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4976698672\n"


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda whole: POINTER, r"model\.safetensors is missing or no safetensors file; .*git lfs pull"),
        (lambda whole: b"", "no safetensors file"),
        (lambda whole: whole[:5], "no safetensors file"),
        (lambda whole: whole[:500], "no safetensors file"),
        (lambda whole: whole[:-1], r"has [\d,]+ bytes of [\d,]+; copy or download it again"),
        (lambda whole: (2).to_bytes(8, "little") + b"[]", "no safetensors file"),
    ],
)
def test_weights_that_are_not_there_or_cut_short_are_refused_by_the_plan(tmp_path, broken, message):
    directory = copy_of(MINIWORLD, tmp_path / "model")
    weights = directory / "model.safetensors"
    weights.write_bytes(broken(weights.read_bytes()))
    with pytest.raises(ValueError, match=message):
        check_model(Model(path=str(directory), dtype="float32"))


def test_weights_are_those_that_the_index_names(tmp_path):
    directory = copy_of(MINIWORLD, tmp_path / "model")
    whole = directory / "model.safetensors"
    (directory / "consolidated.safetensors").write_bytes(whole.read_bytes())  # the same in Mistral's own format
    assert weight_files(str(directory)) == [whole]
    whole.rename(directory / "model-00001-of-00002.safetensors")
    parts = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = {"weight_map": {"a": parts[0], "b": parts[1], "c": parts[0]}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [file.name for file in weight_files(str(directory))] == parts
    with pytest.raises(ValueError, match=r"model-00002-of-00002\.safetensors is missing"):
        check_model(Model(path=str(directory), dtype="float32"))
    (directory / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ValueError, match=r"index\.json cannot be read"):
        check_model(Model(path=str(directory), dtype="float32"))


def test_an_adapter_among_the_files_of_a_model_is_refused_by_the_plan(tmp_path):
    directory = copy_of(MINIWORLD, tmp_path / "model")
    (directory / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds an adapter_config\.json.*give that as model\.adapter"):
        check_model(Model(path=str(directory), dtype="float32"))


def test_weights_that_are_missing_are_not_made_up(tmp_path):
    directory = copy_of(MINIWORLD, tmp_path / "model")
    weights = load_file(directory / "model.safetensors")
    gone = weights.pop("model.layers.1.mlp.up_proj.weight")
    assert gone.numel()
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lack 1 that a Qwen3ForCausalLM has, such as model\.layers\.1\.mlp\.up_proj"):
        load_merged(str(directory), adapters=[], dtype="float32")


def test_a_tokenizer_in_a_store_is_loaded_without_the_weights_beside_it(bucket):
    for file in MINIWORLD.iterdir():
        bucket.objects[f"tokenizer/{file.name}"] = file.read_bytes()
    model = Model(path="s3://bucket/tokenizer", dtype="float32")
    place = tokenizer_path(model)
    assert load_tokenizer(model.path, model=model).get_vocab() == load_tokenizer(place, model=model).get_vocab()
    assert weight_files(place) == []
    fetched = [key for method, key, _ in bucket.calls if method == "GET" and key]
    assert "tokenizer/tokenizer.json" in fetched and len(fetched) == len(set(fetched))  # once, though asked for twice
    assert not [key for key in fetched if key.endswith(".safetensors")]
    assert [file.name for file in weight_files(model_path(model))] == ["model.safetensors"]
