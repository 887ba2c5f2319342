"""Each family from the question to the answer: its prompts in both modes, and outputs as its models write them.

The chat templates are imitations that switch as the published ones do; they are read by the real template engine.
"""

import json
import shutil
from pathlib import Path

import pytest

from mralign.config import Model, ThinkMode
from mralign.engines.chat import chat_prompt
from mralign.engines.families import FAMILIES, find_family
from mralign.engines.thinking import split_thinking

MODEL = Path(__file__).parents[2] / "mralign" / "miniworld" / "data" / "model"
TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
TEMPLATES = {
    "qwen3": TURNS + "<assistant>{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}",
    "deepseek_r1_old": TURNS + "{# <｜Assistant｜> #}<assistant>",
    "deepseek_r1_new": TURNS + "{# <｜Assistant｜> #}<assistant><think>\n",
    "nemotron": TURNS + "{# system: detailed thinking on #}<assistant>",
    "prompted": TURNS + "<assistant>",
}


@pytest.fixture
def render(tmp_path):
    """(family, mode) -> rendered prompt, with the template of a stand-in of that family."""
    from transformers import AutoTokenizer

    def rendered(name, mode, **model):
        directory = Path(shutil.copytree(MODEL, tmp_path / name, dirs_exist_ok=True))
        (directory / "chat_template.jinja").write_text(TEMPLATES[name])
        family = find_family(Model(**model), template=TEMPLATES[name], name="org/unnamed")
        return chat_prompt(AutoTokenizer.from_pretrained(directory), "who?", mode=getattr(family, mode))

    return rendered


@pytest.mark.parametrize(
    ("name", "on", "off", "opened"),
    [
        ("qwen3", "<user>who?<assistant>", "<user>who?<assistant><think>\n\n</think>\n\n", False),
        (
            "nemotron",
            "<system>detailed thinking on<user>who?<assistant>",
            "<system>detailed thinking off<user>who?<assistant>",
            False,
        ),
        ("deepseek_r1_old", "<user>who?<assistant><think>\n", "<user>who?<assistant><think>\n\n</think>\n\n", True),
        ("deepseek_r1_new", "<user>who?<assistant><think>\n", "<user>who?<assistant><think>\n\n</think>\n\n", True),
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


@pytest.mark.parametrize(
    ("name", "mode", "output", "thought", "answer"),
    [
        ("qwen3", "on", "<think>\nHm.\n\nYes.\n</think>\n\nParis<|im_end|>", "\nHm.\n\nYes.\n", "Paris"),
        ("qwen3", "off", "Paris<|im_end|>", None, "Paris"),
        ("deepseek_r1_new", "on", "Hm.\n</think>\n\nParis<｜end▁of▁sentence｜>", "Hm.\n", "Paris"),
        ("deepseek_r1_new", "off", "**Answer:** Paris", None, "Paris"),
        ("nemotron", "on", "<think>\nHm.\n</think>\n\nAnswer: Paris<|eot_id|>", "\nHm.\n", "Paris"),
        ("nemotron", "off", "<think>\n</think>\nParis", None, "Paris"),
        ("prompted", "on", "Hm.</think><answer>Paris</answer><|im_end|>", "Hm.", "Paris"),
        ("prompted", "on", "Hm.</think>\n<answer>Paris", "Hm.", "Paris"),
        ("prompted", "off", "Paris</answer>\nand so on", None, "Paris"),
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
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "deepseek_r1"),
        ("nvidia/Llama-3.1-Nemotron-Nano-8B-v1", "nemotron"),
        ("nvidia/NVIDIA-Nemotron-Nano-9B-v2", "nemotron_nano_v2"),
    ],
)
def test_a_hub_name_shows_its_family(name, family):
    assert find_family(Model(path=name), template=None, name=name).name == family


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
