"""From a question to the request that an engine gets, and from its text back to a row; no engine is started."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from mralign.chat.model_files import local_copy
from mralign.chat.prompts import (
    Prompt,
    chat_prompt,
    chat_template,
    check_model_directory,
    control_tokens,
    question_fault,
)
from mralign.config import Decoding, Engine, Model, ThinkMode
from mralign.rows import Request
from mralign.rows.schema import QUESTIONS, REQUESTS
from mralign.run.rejects import Reject
from mralign.serving.requests import Renderer, Sampling, build_requests, family_of
from mralign.serving.vllm import worker_environment

MODEL = Path(__file__).parents[2] / "mralign" / "miniworld" / "data" / "model"


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture
def model(tmp_path):
    """A copy of the mini model that a test may spoil."""
    return Path(shutil.copytree(MODEL, tmp_path / "model"))


def questions(*names):
    rows = [
        {"question_id": f"d/{n}", "dataset": "d", "split": "train", "question": f"q{n}", "answers": [n], "extra": "{}"}
        for n in names
    ]
    return pa.Table.from_pylist(rows, schema=QUESTIONS)


def renderer(tokenizer, *, prompt="{question}", length=256, max_tokens=200):
    model = Model()
    sampling = Sampling(
        model=model, engine=Engine(max_model_len=length), decoding=Decoding(max_tokens=max_tokens), prompt=prompt
    )
    return Renderer(sampling, tokenizer=tokenizer, family=family_of(model, path=str(MODEL)))


def request(question, mode="on"):
    return Request(f"d/1/{mode}/0", "d/1", "d", question, ["a"], None, mode, 0, 0)


def test_the_prompt_of_each_mode_is_the_rendered_template(tokenizer):
    question = "name the capital of totibar"
    on, off = (renderer(tokenizer).prepare(request(question, mode)) for mode in ("on", "off"))
    words = ["<|im_start|>", "▁user", "▁name", "▁the", "▁capital", "▁of", "▁totibar", "<|im_end|>"]
    assert tokenizer.convert_ids_to_tokens(on.token_ids) == [*words, "<|im_start|>", "▁assistant"]
    assert off.token_ids[: len(on.token_ids)] == on.token_ids
    assert tokenizer.convert_ids_to_tokens(off.token_ids[len(on.token_ids) :]) == [
        "<think>",
        "\n\n",
        "</think>",
        "\n\n",
    ]
    assert (on.opened, off.opened) == (False, False)
    for prompt, thinks in ((on, True), (off, False)):  # what transformers gives for the same conversation
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            enable_thinking=thinks,
        )
        assert list(prompt.token_ids) == rendered["input_ids"]


def test_a_prefill_is_part_of_the_prompt_and_may_open_the_thought(tokenizer):
    mode = ThinkMode(prefill="<think>")
    prompt = chat_prompt(tokenizer, "name totibar", mode=mode)
    assert tokenizer.convert_ids_to_tokens(prompt.token_ids)[-2:] == ["▁assistant", "<think>"]
    assert prompt.opened
    assert prompt.text.endswith("<think>")


@pytest.mark.parametrize(
    ("prefill", "opened"),
    [
        ("", False),
        ("<think>\n", True),
        ("<think>\nLet me see", True),  # the tag need not be the last word
        ("<think>\n\n</think>\n\n", False),
        ("<think>a</think><think>b", True),
        ("<answer>", False),
    ],
)
@pytest.mark.parametrize("wrap", ["{question}", "Open <think> and think: {question}", "<think> to </think> {question}"])
def test_only_the_models_own_turn_says_whether_a_thought_is_open(tokenizer, wrap, prefill, opened):
    assert chat_prompt(tokenizer, "name it", mode=ThinkMode(prompt=wrap, prefill=prefill)).opened is opened


@pytest.mark.parametrize("written", ["<think>", "<think>\n", "<think>\n\n"])
@pytest.mark.parametrize("prefill", ["<think>\n", "<think>\n\n</think>\n\n"])
def test_a_block_that_the_template_opened_is_not_opened_twice(tokenizer, written, prefill, monkeypatch):
    shown = tokenizer.chat_template + "{% if add_generation_prompt %}{{ " + repr(written) + " }}{% endif %}"
    monkeypatch.setattr(tokenizer, "chat_template", shown)
    prompt = chat_prompt(tokenizer, "name it", mode=ThinkMode(prefill=prefill))
    assert prompt.text == "<|im_start|>user name it<|im_end|><|im_start|>assistant" + prefill
    assert tuple(tokenizer(prompt.text, add_special_tokens=False)["input_ids"]) == prompt.token_ids


def test_a_template_that_always_begins_the_models_turn_still_shows_an_open_thought(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", "{{ messages[0].content + '<｜Assistant｜><think>\n' }}")
    assert chat_prompt(tokenizer, "name it", mode=ThinkMode()).opened
    monkeypatch.setattr(tokenizer, "chat_template", "{{ messages[0].content + '<｜Assistant｜>' }}")
    assert not chat_prompt(tokenizer, "name <think> it", mode=ThinkMode()).opened


def test_control_tokens_are_what_frames_a_chat(tokenizer):
    frame = {"<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|unk|>", "<think>", "</think>"}
    assert {mark for mark in control_tokens(tokenizer) if mark.strip()} == frame


def test_tokens_that_the_template_writes_are_control_tokens_though_not_special():
    from transformers import AutoTokenizer

    other = AutoTokenizer.from_pretrained(MODEL)
    other.add_tokens(["<｜User｜>", "<table>"])
    other.chat_template = "{{ '<｜User｜>' + messages[0].content }}"
    assert "<｜User｜>" not in other.all_special_tokens  # as in the R1 distills
    assert control_tokens(other) >= {"<｜User｜>", "<|im_end|>"}
    assert "<table>" not in control_tokens(other)
    assert not {"/think", "/no_think"} & control_tokens(other)
    other.chat_template = "{% if '/no_think' in messages[0].content %}<think></think>{% endif %}"
    assert control_tokens(other) >= {"/think", "/no_think"}
    assert question_fault("who? <｜User｜>", special_tokens=["<｜User｜>"]) == ("control_tokens", "<｜User｜>")


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("", "empty_question"),
        (" \u00a0\n", "empty_question"),
        ("name\x00 it", "control_characters"),
        ("name \x1b[2J it", "control_characters"),
        ("name <|im_end|> it", "control_tokens"),
        ("is <think> a tag?", "control_tokens"),
        ("who? /no_think", "control_tokens"),
        ("name\x85 it", "control_characters"),
        ("what does </answer> end?", "control_tokens"),
    ],
)
def test_a_question_that_would_break_the_frame_is_rejected(tokenizer, question, reason):
    found = renderer(tokenizer).prepare(request(question))
    assert isinstance(found, Reject)
    assert (found.row_id, found.reason, found.raw) == ("d/1/on/0", reason, question)


def test_tabs_line_breaks_and_angle_brackets_are_no_fault():
    assert question_fault("a\tb\r\nc < d > e", special_tokens=["<s>", ""]) is None
    assert question_fault("reading/thinking, \u00e9\u200b\u4e2d \U0001f600", special_tokens=["\n\n"]) is None


def test_a_prompt_must_leave_room_for_one_token(tokenizer):
    asked = request("name the capital of totibar " + "it " * 16)
    prompt = renderer(tokenizer).prepare(asked)
    size = len(prompt.token_ids)
    assert renderer(tokenizer, length=size + 1).prepare(asked) == prompt
    assert renderer(tokenizer).max_tokens(prompt) == 200
    assert renderer(tokenizer, length=size + 7).max_tokens(prompt) == 7
    tight = renderer(tokenizer, length=size).prepare(asked)
    assert (tight.reason, tight.detail) == ("prompt_too_long", f"{size} tokens, model length {size}")


def test_the_shipped_model_and_a_hub_name_pass():
    check_model_directory(str(MODEL))
    check_model_directory("Qwen/Qwen3-8B")
    assert chat_template("Qwen/Qwen3-8B") is None


@pytest.mark.parametrize("path", ["/nowhere/model", "./nowhere", "~/no-such-model"])
def test_a_path_that_is_not_there_is_no_hub_name(path):
    with pytest.raises(ValueError, match=r"model\.path='.*' does not exist; give a model directory or a hub name"):
        check_model_directory(path)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", r"has no config\.json; save it with"),
        ("model.safetensors", r"has no \*\.safetensors; save it with"),
        ("chat_template.jinja", "has no chat template: neither .* Use a chat model"),
    ],
)
def test_what_a_model_directory_lacks_is_named(model, file, message):
    (model / file).unlink()
    with pytest.raises(ValueError, match=message) as error:
        check_model_directory(str(model))
    assert str(model) in str(error.value)


def test_a_template_may_stand_in_the_tokenizer_configuration(model):
    (model / "chat_template.jinja").unlink()
    path = model / "tokenizer_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "chat_template": "{% if enable_thinking %}{% endif %}"}))
    check_model_directory(str(model))
    assert chat_template(str(model)) == "{% if enable_thinking %}{% endif %}"
    path.write_text(json.dumps({**values, "chat_template": "{{ messages }}"}))
    check_model_directory(str(model))
    several = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "{{ '<｜Assistant｜>' }}"}]
    path.write_text(json.dumps({**values, "chat_template": several}))
    check_model_directory(str(model))
    assert chat_template(str(model)) == "{{ '<｜Assistant｜>' }}"
    path.write_text(json.dumps({**values, "chat_template": several[:1]}))  # a chat without tools could not be rendered
    with pytest.raises(ValueError, match="has no chat template"):
        check_model_directory(str(model))


def test_there_is_one_request_for_each_question_mode_and_draw():
    requests = build_requests(questions("a", "b"), modes=("on", "off"), draws=2, seed=0)
    assert requests.schema == REQUESTS
    assert requests.column("row_id").to_pylist() == [
        *("d/a/on/0", "d/a/on/1", "d/a/off/0", "d/a/off/1"),
        *("d/b/on/0", "d/b/on/1", "d/b/off/0", "d/b/off/1"),
    ]
    row = requests.to_pylist()[5]
    assert {**row, "seed": 0} == {
        "row_id": "d/b/on/1",
        "question_id": "d/b",
        "dataset": "d",
        "question": "qb",
        "answers": ["b"],
        "choices": None,
        "mode": "on",
        "draw": 1,
        "seed": 0,
    }
    assert build_requests(questions(), modes=("on",), draws=2, seed=0).num_rows == 0


def seeds(*names, modes=("on", "off"), draws=3, seed=0):
    requests = build_requests(questions(*names), modes=modes, draws=draws, seed=seed)
    return dict(zip(requests.column("row_id").to_pylist(), requests.column("seed").to_pylist(), strict=True))


def test_a_seed_depends_on_the_run_and_the_row_alone():
    many = seeds(*map(str, range(200)))
    assert len(set(many.values())) == len(many) == 1200
    assert all(0 <= seed < 2**31 for seed in many.values())
    few = seeds("7", "3", modes=("off",), draws=1)
    assert few == {row: many[row] for row in ("d/7/off/0", "d/3/off/0")}  # whatever else is asked
    other = seeds(*map(str, range(200)), seed=1)
    assert not [row for row in many if many[row] == other[row]]
    # First 4 bytes of SHA-256 of "0:d/7/off/0", halved: a resumed run must draw what the first one would have.
    assert many["d/7/off/0"] == 481600829


JUDGED = ("completion_tokens", "thought_start", "thought_end", "answer", "thought_tokens", "invalid")


def judged(tokenizer, *, text, mode, ended, opened, token_ids):
    """What the row of a completion says of its text."""
    asked = request("q", mode)
    prompt = Prompt((1,), "", opened)
    made = renderer(tokenizer).row(asked, prompt, text=text, token_ids=token_ids, finish_reason=ended)
    assert (made.row_id, made.seed, made.prompt_token_ids, made.finish_reason) == (asked.row_id, 0, [1], ended)
    return tuple(getattr(made, name) for name in JUDGED)


def test_a_thought_is_found_measured_and_answered(tokenizer):
    text = "<think>so pemidir\n\nso totibar</think>\n\npemidir"
    found = judged(tokenizer, text=text, mode="on", ended="stop", opened=False, token_ids=[1] * 9)
    # Its thought is five tokens long: so pemidir \n\n so totibar
    assert found == (9, 7, text.index("</think>"), "pemidir", 5, None)


@pytest.mark.parametrize(
    ("row", "opened", "expected"),
    [
        (("pemidir", "off", "stop"), False, (-1, -1, "pemidir", 0, None)),
        (("so</think>pemidir", "on", "stop"), True, (0, 2, "pemidir", 1, None)),
        (("pemidir", "on", "stop"), False, (-1, -1, None, 0, "no_thought")),
        (("<think>so totibar", "on", "length"), False, (7, 17, None, 2, "truncated")),
        (("<think>so</think>pemidir", "off", "stop"), False, (7, 9, None, 1, "unexpected_thought")),
        (("<think></think>", "on", "stop"), False, (7, 7, "", 0, None)),
    ],
)
def test_what_cannot_be_judged_keeps_its_reason(tokenizer, row, opened, expected):
    text, mode, ended = row
    found = judged(tokenizer, text=text, mode=mode, ended=ended, opened=opened, token_ids=[1, 2])
    assert found == (2, *expected)


def test_an_engine_without_a_gpu_runs_in_its_actor():
    cpu = worker_environment(Engine(gpus_per_replica=0, cpu_kv_cache_gib=3))
    assert cpu["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert (cpu["VLLM_CPU_KVCACHE_SPACE"], cpu["CUDA_VISIBLE_DEVICES"]) == ("3", "")
    gpu = worker_environment(Engine(gpus_per_replica=0.5))
    assert not {"VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_CPU_KVCACHE_SPACE", "CUDA_VISIBLE_DEVICES"} & set(gpu)
    assert gpu["VLLM_NO_USAGE_STATS"] == cpu["VLLM_NO_USAGE_STATS"] == "1"


def test_the_question_stands_in_the_prompt_and_other_braces_stay(tokenizer):
    asked = renderer(tokenizer, prompt="Use {json}. Question: {question}").prepare(request("who {is} it?"))
    assert "Use {json}. Question: who {is} it?" in asked.text


def test_a_model_on_another_file_system_is_copied_and_a_local_one_is_not(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert local_copy(str(tmp_path / "model")) == str(tmp_path / "model")
    copied = Path(local_copy((tmp_path / "model").as_uri()))
    assert copied != tmp_path / "model"
    assert (copied / "config.json").read_text() == "{}"
