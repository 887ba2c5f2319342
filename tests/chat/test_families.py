"""Each family from the question to the answer: its prompts in both modes, and outputs as its models write them.

The chat templates are imitations that switch as the published ones do; they are read by the real template engine.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from smollm2 import MISSING, find_gguf

from mralign.chat.families import FAMILIES, find_family
from mralign.chat.prompts import chat_prompt, check_modes
from mralign.chat.thought import split_thinking
from mralign.config import Model, ThinkMode, parse
from mralign.evaluation import responses_stage
from mralign.rows.subjects import Subject
from mralign.run.store import StageDir
from mralign.serving.requests import trained_in

MODEL = Path(__file__).parents[2] / "mralign" / "miniworld" / "data" / "model"
TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
ASSISTANT = "{% if add_generation_prompt %}<assistant>{% endif %}"
R1 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}{% elif m.role == 'assistant' %}"
    "{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] }}{% endif %}{% endfor %}"
)
TEMPLATES = {
    "qwen3": TURNS + ASSISTANT + "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}",
    "nemotron_3": "{% set enable_thinking = enable_thinking if enable_thinking is defined else true %}"
    + TURNS
    + "{% if add_generation_prompt %}<assistant>{{ '<think>\n' if enable_thinking else '<think></think>' }}{% endif %}",
    "deepseek_r1_old": R1 + "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}",
    "deepseek_r1_new": R1 + "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}",
    "nemotron": TURNS + ASSISTANT + "{# system: detailed thinking on #}",
    "nemotron_nano_v2": "{% set ns = namespace(enable_thinking=true) %}{% for m in messages %}"
    "{% if '/think' in m.content %}{% set ns.enable_thinking = true %}"
    "{% elif '/no_think' in m.content %}{% set ns.enable_thinking = false %}{% endif %}"
    "<{{ m.role }}>{{ m.content.replace('/think', '').replace('/no_think', '') }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{{ '<think>\n' if ns.enable_thinking else '<think></think>' }}{% endif %}",  # noqa: E501
    "nemotron_super_v1_5": "{% set enable_thinking = true %}{% if '/no_think' in messages[0].content %}"
    "{% set enable_thinking = false %}{% endif %}"
    + TURNS
    + ASSISTANT
    + "{% if add_generation_prompt and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}",
    "prompted": TURNS + ASSISTANT,
}
# What switches in another way, or not at all, though it looks like one of the families.
STRANGERS = {
    "deepseek_v3": R1.replace(".split('</think>')[-1]", "") + "{{ '<｜Assistant｜>' }}",
    "deepseek_v3_1": "{% if not thinking is defined %}{% set thinking = false %}{% endif %}"
    + R1
    + "{{ '<｜Assistant｜>' + ('<think>' if thinking else '</think>') }}",
    "gemma_4": "{% if enable_thinking %}<|think|>{% endif %}" + TURNS,
    "qwen3_instruct": TURNS + ASSISTANT,
}


@pytest.fixture
def tokenizer():
    """The mini model's, with the words by which families are switched: to an <unk> both modes would look the same."""
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(MODEL)
    found.add_tokens(["<｜User｜>", "<｜Assistant｜>", "/think", "/no_think", "on", "off", "<answer>"])
    return found


@pytest.fixture
def render(tokenizer):
    """(name of a template, mode) -> rendered prompt of a stand-in of that family, found by its template."""

    def rendered(name, mode, **model):
        tokenizer.chat_template = TEMPLATES[name]
        family = find_family(Model(**model), template=TEMPLATES[name], name="org/unnamed")
        check_modes(tokenizer, name=name, on=family.on, off=family.off)
        return chat_prompt(tokenizer, "who?", mode=getattr(family, mode))

    return rendered


@pytest.mark.parametrize(
    ("name", "on", "off", "opened"),
    [
        ("qwen3", "<user>who?<assistant>", "<user>who?<assistant><think>\n\n</think>\n\n", False),
        ("nemotron_3", "<user>who?<assistant><think>\n", "<user>who?<assistant><think></think>", True),
        (
            "nemotron",
            "<system>detailed thinking on<user>who?<assistant>",
            "<system>detailed thinking off<user>who?<assistant>",
            False,
        ),
        (
            "nemotron_nano_v2",
            "<system><user>who?<assistant><think>\n",
            "<system><user>who?<assistant><think></think>",
            True,
        ),
        (
            "nemotron_super_v1_5",
            "<system>/think<user>who?<assistant>",
            "<system>/no_think<user>who?<assistant><think>\n\n</think>\n\n",
            False,
        ),
        (
            "deepseek_r1_old",
            "<｜User｜>who?<｜Assistant｜><think>\n",
            "<｜User｜>who?<｜Assistant｜><think>\n\n</think>\n\n",
            True,
        ),
        (
            "deepseek_r1_new",
            "<｜User｜>who?<｜Assistant｜><think>\n",
            "<｜User｜>who?<｜Assistant｜><think>\n\n</think>\n\n",
            True,
        ),
    ],
)
def test_the_prompts_of_a_family_found_by_its_template(render, name, on, off, opened):
    thinking, silent = render(name, "on"), render(name, "off")
    assert (thinking.text, thinking.opened) == (on, opened)
    assert (silent.text, silent.opened) == (off, False)


def test_any_chat_model_can_be_asked_to_think(render):
    on, off = (render("prompted", mode, family="prompted") for mode in ("on", "off"))
    assert on.opened and on.text.endswith("Question: who?<assistant><think>\n")
    assert "between <think> and </think>" in on.text
    assert not off.opened and off.text.endswith("Question: who?<assistant><answer>")
    assert "<think>" not in off.text


@pytest.mark.skipif(find_gguf() is None, reason=MISSING)
def test_smollm2_is_prompted():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(find_gguf().parent, gguf_file=find_gguf().name)
    name = "HuggingFaceTB/SmolLM2-135M-Instruct"
    with pytest.raises(ValueError, match="how HuggingFaceTB/SmolLM2-135M-Instruct switches thinking is not known"):
        find_family(Model(), template=tokenizer.chat_template, name=name)
    family = find_family(Model(family="prompted"), template=tokenizer.chat_template, name=name)
    check_modes(tokenizer, name=name, on=family.on, off=family.off)
    on, off = (chat_prompt(tokenizer, "who?", mode=mode) for mode in (family.on, family.off))
    assert (on.opened, off.opened) == (True, False)
    assert on.text.endswith("who?<|im_end|>\n<|im_start|>assistant\n<think>\n")
    assert off.text.endswith("who?<|im_end|>\n<|im_start|>assistant\n<answer>")
    assert (tokenizer.decode(on.token_ids), tokenizer.decode(off.token_ids)) == (on.text, off.text)
    bare = chat_prompt(tokenizer, "who?", mode=ThinkMode())
    conversation = [{"role": "user", "content": "who?"}]
    rendered = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=True, return_dict=True)
    assert list(bare.token_ids) == rendered["input_ids"]


@pytest.mark.parametrize(
    ("name", "mode", "output", "thought", "answer"),
    [
        ("qwen3", "on", "<think>\nHm.\n\nYes.\n</think>\n\nParis<|im_end|>", "\nHm.\n\nYes.\n", "Paris"),
        ("qwen3", "off", "Paris<|im_end|>", None, "Paris"),
        ("nemotron_3", "on", "Hm.\n</think>\nParis<|im_end|>", "Hm.\n", "Paris"),
        ("deepseek_r1_old", "on", "Hm.\n</think>\n\n**Answer**: Paris", "Hm.\n", "Paris"),
        ("deepseek_r1_new", "on", "Hm.\n</think>\n\nParis<｜end▁of▁sentence｜>", "Hm.\n", "Paris"),
        ("deepseek_r1_new", "on", "<think>\nHm.\n</think>\n\nParis", "\nHm.\n", "Paris"),
        ("deepseek_r1_new", "off", "**Answer:** Paris", None, "Paris"),
        ("deepseek_r1_old", "off", "\n</think>\n\nParis", None, "Paris"),
        ("nemotron", "on", "<think>\nHm.\n</think>\n\nAnswer: Paris<|eot_id|>", "\nHm.\n", "Paris"),
        ("nemotron", "off", "<think>\n</think>\nParis", None, "Paris"),
        ("nemotron_nano_v2", "on", "Hm.\n</think>\nParis\n<SPECIAL_12>", "Hm.\n", "Paris"),
        ("nemotron_nano_v2", "off", "Paris\n<SPECIAL_12>\n", None, "Paris"),
        ("nemotron_super_v1_5", "on", "<think>\nHm.\n</think>\n\nParis<|eot_id|>", "\nHm.\n", "Paris"),
        ("prompted", "on", "Hm.</think><answer>Paris</answer><|im_end|>", "Hm.", "Paris"),
        ("prompted", "on", "Hm.</think>\n<answer>Paris", "Hm.", "Paris"),
        ("prompted", "off", "Paris</answer>\nand so on", None, "Paris"),
        ("prompted", "off", "Paris</answer>\nQuestion: where?\n<answer>Rome</answer>", None, "Paris"),
        ("prompted", "off", "Paris", None, "Paris"),
    ],
)
def test_an_output_of_a_family_splits(render, name, mode, output, thought, answer):
    prompt = render(name, mode, family="prompted" if name == "prompted" else "auto")
    split = split_thinking(output, mode=mode, opened=prompt.opened)
    assert (split.answer, split.invalid) == (answer, None)
    assert (output[split.thought_start : split.thought_end] if split.thought_start >= 0 else None) == thought


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Qwen/Qwen3-8B", "qwen3"),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B", "qwen3"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "deepseek_r1"),
        ("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", "deepseek_r1"),
        ("nvidia/Llama-3.1-Nemotron-Nano-8B-v1", "nemotron"),
        ("nvidia/Llama-3_3-Nemotron-Super-49B-v1", "nemotron"),
        ("nvidia/Llama-3_3-Nemotron-Super-49B-v1_5", "nemotron_nano_v2"),
        ("nvidia/NVIDIA-Nemotron-Nano-9B-v2", "nemotron_nano_v2"),
    ],
)
def test_a_hub_name_shows_its_family(name, family):
    assert find_family(Model(path=name), template=None, name=name).name == family


@pytest.mark.parametrize(
    "name",
    [
        "Qwen/Qwen3-4B-Instruct-2507",
        "Qwen/Qwen3-4B-Thinking-2507",
        "nvidia/Llama-3.1-Nemotron-70B-Instruct-HF",
        "nvidia/OpenReasoning-Nemotron-7B",
        "meta-llama/Llama-3.1-8B-Instruct",
    ],
)
def test_a_hub_name_of_a_model_without_a_switch_shows_none(name):
    with pytest.raises(ValueError, match="switches thinking is not known"):
        find_family(Model(path=name), template=None, name=name)


@pytest.mark.parametrize("name", STRANGERS)
def test_a_template_that_only_looks_like_a_familys_is_not_taken_for_it(name):
    with pytest.raises(ValueError, match="switches thinking is not known"):
        find_family(Model(), template=STRANGERS[name], name="org/unnamed")


@pytest.mark.parametrize(
    ("template", "family", "message"),
    [
        ("prompted", "qwen3", r"the same prompt for org/x: .* neither \{'template': \{'enable_thinking': True\}\}"),
        ("deepseek_r1_new", "nemotron", "the same prompt for org/x"),  # this imitation drops the system message
        ("deepseek_r1_new", "prompted", r"off ends inside an open <think> for org/x.*model\.family=deepseek_r1"),
    ],
)
def test_a_family_that_does_not_fit_the_template_is_refused(tokenizer, template, family, message):
    tokenizer.chat_template = TEMPLATES[template]
    wrong = find_family(Model(family=family), template=TEMPLATES[template], name="org/x")
    with pytest.raises(ValueError, match=message):
        check_modes(tokenizer, name="org/x", on=wrong.on, off=wrong.off)


def test_a_template_without_system_messages_refuses_in_words_of_ours(tokenizer):
    tokenizer.chat_template = (
        "{{ raise_exception('System role not supported') if messages[0].role == 'system' }}" + TURNS
    )
    family = find_family(Model(family="nemotron"), template=None, name="org/x")
    with pytest.raises(ValueError, match=r"org/x refuses .* System role not supported; give model\.think_on"):
        check_modes(tokenizer, name="org/x", on=family.on, off=family.off)


def test_an_unknown_family_asks_for_two_lines():
    with pytest.raises(ValueError, match="how org/some-chat-7b switches thinking is not known") as error:
        find_family(Model(), template=TEMPLATES["prompted"], name="org/some-chat-7b")
    lines = [line.strip() for line in str(error.value).splitlines() if line.strip().startswith("model.")]
    assert [line.partition("=")[0] for line in lines] == ["model.think_on", "model.think_off"]
    assert "model.family=prompted" in str(error.value)


def test_the_two_lines_that_are_asked_for_are_enough(tmp_path):
    from mralign.config import load

    with pytest.raises(ValueError, match="not known") as error:
        find_family(Model(), template="", name="x")
    lines = [line.strip() for line in str(error.value).splitlines() if line.strip().startswith("model.")]
    preset = tmp_path / "p.yaml"
    preset.write_text(json.dumps({"questions": {"train": [{"name": "a", "path": "a.jsonl"}]}}))
    model = load(str(preset), overrides=lines).model
    family = find_family(model, template="", name="x")
    assert (family.name, family.on.system, family.off.system) == (
        "custom",
        "detailed thinking on",
        "detailed thinking off",
    )


@pytest.mark.parametrize(
    ("name", "template", "told", "found"),
    [
        ("Llama-3.1-Nemotron-Nano-8B-v1", TURNS, "nemotron", "nemotron"),  # by its name alone
        ("DeepSeek-R1-0528-Qwen3-8B", None, "deepseek_r1", "deepseek_r1"),
        ("Qwen3-8B", TEMPLATES["qwen3"], "auto", "qwen3"),
        ("nemotron-ultra-mine", TEMPLATES["qwen3"], "auto", "qwen3"),
    ],
)
def test_trained_weights_are_spoken_to_as_the_model_that_they_come_from(tmp_path, name, template, told, found):
    base = tmp_path / name
    base.mkdir()
    if template is not None:
        (base / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    trained = trained_in("/run/training/0123/model", model=Model(path=str(base)))
    assert (trained.path, trained.family) == ("/run/training/0123/model", told)
    assert find_family(trained, template=template, name=trained.path).name == found


@pytest.mark.parametrize(
    "lines",
    [{"family": "prompted"}, {"think_on": ThinkMode(system="on"), "think_off": ThinkMode(system="off")}],
)
def test_trained_weights_keep_what_the_user_said(tmp_path, lines):
    given = Model(path=str(tmp_path / "Qwen3-8B"), adapter="/adapter", **lines)
    assert trained_in("/model", model=given) == given.model_copy(update={"path": "/model", "adapter": None})


def test_the_trained_model_is_asked_as_the_untrained_one(tmp_path, monkeypatch):
    """The stage of the trained model, where only the name of the untrained one tells its family."""
    asked = []
    monkeypatch.setattr(responses_stage, "_ask", lambda context, *, model, **_: asked.append(model))
    model = {"path": str(tmp_path / "Llama-3.1-Nemotron-Nano-8B-v1")}
    config = parse({"model": model, "questions": {"test": [{"name": "a", "path": "a.jsonl"}]}})
    training = StageDir(str(tmp_path / "training" / "0123"), stage="training", fingerprint="0123")
    context = SimpleNamespace(config=config, upstream={"training": training})
    responses_stage._run(context, subject=Subject.TRAINED)
    assert [(model.family, model.path) for model in asked] == [("nemotron", f"{training.uri}/model")]


def test_lines_of_the_user_go_before_what_the_template_shows():
    model = Model(think_on=ThinkMode(prefill="<think>"), think_off=ThinkMode(), family="qwen3")
    assert find_family(model, template=TEMPLATES["qwen3"], name="x").on.prefill == "<think>"
    named = find_family(Model(family="nemotron"), template=TEMPLATES["qwen3"], name="x")
    assert named.name == "nemotron"
    with pytest.raises(
        ValueError, match=r"model\.family='gpt' is not known; allowed are auto, qwen3, nemotron_nano_v2"
    ):
        find_family(Model(family="gpt"), template=None, name="x")
    with pytest.raises(ValueError, match="they must differ"):
        find_family(Model(think_on=ThinkMode(), think_off=ThinkMode()), template=None, name="x")
    with pytest.raises(ValueError, match="go together"):
        Model(think_on=ThinkMode())


def test_every_family_thinks_in_one_mode_and_not_in_the_other():
    assert all(family.on != family.off for family in FAMILIES)
