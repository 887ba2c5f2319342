"""Imported texts become the ids that the model itself would have written, with real tokenizers of many families.

The oracle is the tokenizer's own encoding of the whole conversation as its chat template renders it, or, where a
prefill stands in the prompt, of the prompt and the rest of the turn as one text.
"""

import json

import pytest
from tokenizers import decoders
from tokenizers_of_families import FAMILIES, build, sentencepiece_model
from transformers import AutoTokenizer

from mralign.chat.prompts import chat_prompt
from mralign.config import Decoding, Engine, ImportFields, Model, ThinkMode
from mralign.rollouts.imported import read_rollouts
from mralign.rows import Request
from mralign.serving.requests import Renderer, Sampling, family_of
from mralign.training.tokens import token_offsets

QUESTION = "What is the capital of France?"
THOUGHT = "Okay, so the question asks for a capital.\n\nHmm, it is Paris, not Rome.\n\nÜber 1234: “yes”."
ANSWER = "The capital is Paris."
# A way of asking without prefill that every template takes: the mode is said in the user's message.
ASKED = {"think_on": {"prompt": "{question} Think."}, "think_off": {"prompt": "{question}"}}
SPELT = [name for name in FAMILIES if name != "wordpiece"]  # whose tokenizers lose no text


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """name -> (directory, tokenizer), each built once."""
    built = {}

    def family(name):
        if name not in built:
            path = build(name, tmp_path_factory.mktemp("tokenizers"))
            built[name] = path, AutoTokenizer.from_pretrained(path)
        return built[name]

    return family


def imported(tmp_path, path, row, *, mode="off", model=None, **fields):
    """The rows and rejects of a file of one row."""
    file = tmp_path / "rollouts.jsonl"
    file.write_text(json.dumps({"id": 1, "question": QUESTION, "answer": "Paris", **row}))
    settings = Model(path=str(path), **(model or ASKED))
    given = ImportFields(**fields)
    table, rejects = read_rollouts(str(file), mode=mode, name="far", fields=given, model=settings, draws=1)
    return table.to_pylist(), rejects


def whole(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def conversation(tokenizer, *, asked, answer, **message):
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer, **message}]
    return tokenizer.apply_chat_template(turns, tokenize=False)


def up_to(ids, end_id):
    """The ids up to the last end token: the model writes nothing after it."""
    return ids[: len(ids) - ids[::-1].index(end_id)]


ENDS = {
    "qwen3": "<|im_end|>",
    "r1": "<｜end▁of▁sentence｜>",
    "llama3": "<|eot_id|>",
    "gpt_oss": "<|return|>",
    "phi3": "<|end|>",
    "llama2": "</s>",
    "vicuna": "</s>",
    "mistral": "</s>",
    "magistral": "</s>",
    "gemma": "<end_of_turn>",
    "unigram": "<|im_end|>",
}


@pytest.mark.parametrize("name", [name for name in ENDS if name not in ("r1", "gpt_oss")])
def test_prompt_and_answer_are_the_conversation_as_the_template_renders_it(families, tmp_path, name):
    path, tokenizer = families(name)
    ((row,), rejects) = imported(tmp_path, path, {"response": ANSWER})
    assert rejects == []
    rendered = whole(tokenizer, conversation(tokenizer, asked=QUESTION, answer=ANSWER))
    expected = up_to(rendered, tokenizer.convert_tokens_to_ids(ENDS[name]))
    assert row["prompt_token_ids"] + row["token_ids"] == expected
    assert (row["answer"], row["invalid"]) == (ANSWER, None)


@pytest.mark.parametrize("name", ["llama2", "phi3"])
def test_sentencepiece_itself_writes_the_same_ids(families, tmp_path, name):
    path, _ = families(name)
    ((row,), _) = imported(tmp_path, path, {"response": ANSWER})
    processor = sentencepiece_model()
    if name == "llama2":  # as Meta's code does: prompt and answer in one call
        text = f"[INST] {QUESTION} [/INST] {ANSWER} "
        said = processor.encode(text)
        assert row["prompt_token_ids"][1:] + row["token_ids"][:-1] == said
    assert processor.decode(row["token_ids"][:-1]).strip() == ANSWER


@pytest.mark.parametrize("name", ["qwen3", "unigram"])
def test_a_thought_in_its_own_field_is_written_as_the_template_writes_it(families, tmp_path, name):
    path, tokenizer = families(name)
    ((row,), rejects) = imported(
        tmp_path, path, {"response": ANSWER, "cot": THOUGHT}, mode="on", thought="cot", model=ASKED
    )
    assert rejects == []
    asked = QUESTION + " Think."
    rendered = whole(tokenizer, conversation(tokenizer, asked=asked, answer=ANSWER, reasoning_content=THOUGHT))
    assert row["prompt_token_ids"] + row["token_ids"] == up_to(rendered, tokenizer.convert_tokens_to_ids(ENDS[name]))
    assert row["text"][row["thought_start"] : row["thought_end"]].strip() == THOUGHT
    assert (row["answer"], row["invalid"]) == (ANSWER, None)


PREFILLED = {"think_on": {"prefill": "<think>\n"}, "think_off": {"prefill": "<think>\n\n</think>\n\n"}}


@pytest.mark.parametrize("name", SPELT)
@pytest.mark.parametrize("mode", ["on", "off"])
def test_what_the_prefill_wrote_is_not_written_twice(families, tmp_path, name, mode):
    path, tokenizer = families(name)
    block = f"<think>\n{THOUGHT}\n</think>\n\n" if mode == "on" else "<think>\n\n</think>\n\n"
    ((row,), rejects) = imported(tmp_path, path, {"response": block + ANSWER}, mode=mode, model=PREFILLED)
    assert rejects == []
    prompt = chat_prompt(tokenizer, QUESTION, mode=ThinkMode(**PREFILLED[f"think_{mode}"]))
    assert row["prompt_token_ids"] == list(prompt.token_ids)
    rest = (block + ANSWER).removeprefix(PREFILLED[f"think_{mode}"]["prefill"])
    assert row["text"].rstrip() == rest
    ids = prompt.token_ids + tuple(row["token_ids"])
    assert tokenizer.decode(ids).rstrip().startswith(tokenizer.decode(whole(tokenizer, prompt.text + rest)).rstrip())
    last = tokenizer.convert_ids_to_tokens(row["token_ids"][-1])
    assert last == ENDS.get(name, {"glm": "<|user|>", "endless": "<|endoftext|>"}.get(name))
    if name not in ("llama2", "vicuna"):  # whose white space before the end is the template's
        assert list(ids[:-1]) == whole(tokenizer, prompt.text + rest)
    assert (row["answer"], row["invalid"]) == (ANSWER, None)
    assert row["thought_start"] == (0 if mode == "on" else -1)


@pytest.mark.parametrize("name", [name for name in SPELT if name != "r1"])  # whose template always opens a thought
def test_the_text_is_what_an_engine_spells_and_tokens_find_their_characters(families, tmp_path, name):
    """vLLM spells a completion by a decode stream that knows the prompt; training follows tokens to segments in it."""
    path, tokenizer = families(name)
    response = f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"
    ((row,), _) = imported(tmp_path, path, {"response": response}, mode="on", model=ASKED)
    stream = decoders.DecodeStream(ids=row["prompt_token_ids"], skip_special_tokens=True)
    spelt = "".join(stream.step(tokenizer.backend_tokenizer, one) or "" for one in row["token_ids"][:-1])
    assert row["text"].lstrip() == spelt.lstrip()
    offsets = token_offsets(tokenizer, token_ids=row["token_ids"], text=row["text"])
    assert len(offsets) == len(row["token_ids"])
    assert offsets[0][0] == 0 and max(end for _, end in offsets) == len(row["text"])
    position = row["text"].index("Rome")
    (first, *_) = [n for n, (start, end) in enumerate(offsets) if start <= position < end]
    piece = tokenizer.decode(row["token_ids"][first : first + 4])
    assert "R" in piece


def test_sampled_ids_that_begin_with_a_blank_in_their_token_find_their_characters(families):
    """After `[/INST]` Llama 2 samples `▁The`; the engine's text begins with that blank, a decoder alone drops it."""
    _, tokenizer = families("llama2")
    prompt = whole(tokenizer, f"<s>[INST] {QUESTION} [/INST]")
    ids = whole(tokenizer, f"<s>[INST] {QUESTION} [/INST] {ANSWER}</s>")[len(prompt) :]
    stream = decoders.DecodeStream(ids=prompt, skip_special_tokens=True)
    text = "".join(stream.step(tokenizer.backend_tokenizer, one) or "" for one in ids[:-1])
    assert text == f" {ANSWER}"
    offsets = token_offsets(tokenizer, token_ids=ids, text=text)
    assert "".join(text[start:end] for start, end in offsets) == text
    assert offsets[-1] == (len(text), len(text))


def test_an_end_token_that_is_not_special_is_out_of_the_text_and_has_no_width(families):
    _, tokenizer = families("phi3")
    ids = whole(tokenizer, f"{ANSWER}<|end|>")
    assert "<|end|>" not in tokenizer.all_special_tokens
    offsets = token_offsets(tokenizer, token_ids=ids, text=ANSWER)
    assert offsets[-1] == (len(ANSWER), len(ANSWER))
    with pytest.raises(ValueError, match="do not spell"):  # an ordinary token too many is a fault
        token_offsets(tokenizer, token_ids=[*ids[:-1], ids[1]], text=ANSWER)


@pytest.mark.parametrize(
    ("name", "written", "end"),
    [
        ("gemma", "<end_of_turn>", "<end_of_turn>"),
        ("gemma", "<eos>", "<eos>"),  # what really ended the turn
        ("gemma", "<end_of_turn>\n<eos>", "<end_of_turn>"),
        ("gemma", "<|im_end|>", "<end_of_turn>"),  # another model's mark
        ("gemma", "", "<end_of_turn>"),
        ("llama3", "<|end_of_text|>", "<|end_of_text|>"),
        ("llama3", "<|some_mark|>", "<|eot_id|>"),
        ("qwen3", "<|endoftext|>", "<|endoftext|>"),
        ("qwen3", "</s><|im_end|>", "<|im_end|>"),
        ("glm", "", "<|user|>"),
        ("phi3", "<|endoftext|>", "<|endoftext|>"),
        ("endless", "", "<|endoftext|>"),
    ],
)
def test_the_texts_own_end_is_kept_and_else_the_models_own_is_written(families, tmp_path, name, written, end):
    path, tokenizer = families(name)
    ((row,), _) = imported(tmp_path, path, {"response": ANSWER + written})
    assert tokenizer.convert_ids_to_tokens(row["token_ids"][-1]) == end
    assert end not in tokenizer.convert_ids_to_tokens(row["token_ids"][:-1])
    assert row["text"].strip() == ANSWER


@pytest.mark.parametrize("name", ["gemma", "qwen3", "phi3", "llama3"])
def test_the_template_tells_the_end_where_no_generation_config_does(tmp_path, name):
    path = build(name, tmp_path, generation_config=False)
    tokenizer = AutoTokenizer.from_pretrained(path)
    ((row,), _) = imported(tmp_path, path, {"response": ANSWER})
    assert tokenizer.convert_ids_to_tokens(row["token_ids"][-1]) == ENDS[name]


def test_a_truncated_text_gets_no_end(families, tmp_path):
    path, tokenizer = families("gemma")
    ((row,), _) = imported(tmp_path, path, {"response": "The capital is", "finish_reason": "length"})
    assert tokenizer.decode(row["token_ids"]) == "The capital is"
    assert row["invalid"] == "truncated"


def test_a_text_that_does_not_go_on_from_the_prefill_is_a_reject(families, tmp_path):
    path, _ = families("qwen3")
    model = {"think_on": {"prefill": "<think>\nLet me see"}, "think_off": {}}
    response = f"<think>\nOkay.\n</think>\n\n{ANSWER}"
    (rows, (reject,)) = imported(tmp_path, path, {"response": response}, mode="on", model=model)
    assert (rows, reject.reason) == ([], "prefill_differs")
    assert "Let me see" in reject.detail and "Okay" in reject.detail
    ((row,), _) = imported(
        tmp_path, path, {"response": response.replace("Okay", "Let me see, Paris")}, mode="on", model=model
    )
    assert row["text"] == f", Paris.\n</think>\n\n{ANSWER}"


def test_composed_characters_become_what_the_tokenizer_writes(families, tmp_path):
    path, tokenizer = families("qwen3")  # which normalises to NFC
    ((row,), rejects) = imported(tmp_path, path, {"response": "U\u0308ber Paris"})
    assert rejects == []
    assert row["text"] == "Über Paris" == tokenizer.decode(row["token_ids"][:-1])


def test_a_tokenizer_that_loses_text_is_found_out_where_ids_are_trained_on(families, tmp_path):
    """WordPiece has no line breaks: a think-off text is judged by its text, a thought's ids are refused later."""
    path, tokenizer = families("wordpiece")
    ((row,), _) = imported(tmp_path, path, {"response": ANSWER})
    assert row["answer"] == ANSWER
    ((row,), _) = imported(tmp_path, path, {"response": f"<think>{THOUGHT}</think>{ANSWER}"}, mode="on")
    with pytest.raises(ValueError, match="do not spell"):
        token_offsets(tokenizer, token_ids=row["token_ids"], text=row["text"])


def test_the_tags_of_other_models_become_the_models_own(families, tmp_path):
    path, _ = families("qwen3")
    for tags in (
        ["<thinking>", "</thinking>"],
        ["[THINK]", "[/THINK]"],
        ["◁think▷", "◁/think▷"],
        ["<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"],
    ):
        response = f"{tags[0]}{THOUGHT}{tags[1]}{ANSWER}<|return|>"
        ((row,), rejects) = imported(tmp_path, path, {"response": response}, mode="on", tags=tags)
        assert rejects == []
        assert row["text"] == f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"
        assert (row["answer"], row["invalid"]) == (ANSWER, None)


def test_a_text_of_a_model_whose_prompt_opens_the_block_gets_its_opening_tag(families, tmp_path):
    for name, model in (("qwen3", ASKED), ("qwen3", PREFILLED)):
        path, tokenizer = families(name)
        response = f"{THOUGHT}\n</think>\n\n{ANSWER}"
        ((row,), rejects) = imported(tmp_path, path, {"response": response}, mode="on", model=model)
        assert (rejects, row["invalid"]) == ([], None)
        turn = tokenizer.decode(row["prompt_token_ids"]) + row["text"]
        assert turn.count("<think>") == turn.count("</think>") == 1
        assert turn.endswith(f"<|im_start|>assistant\n<think>\n{response}")


@pytest.mark.parametrize(
    ("name", "tags"),
    [
        ("magistral", ("[THINK]", "[/THINK]")),
        (
            "gpt_oss",
            ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
        ),
    ],
)
def test_a_model_with_tags_of_its_own_thinks_in_them(families, tmp_path, name, tags):
    path, tokenizer = families(name)
    text = f"{tags[0]}{THOUGHT}{tags[1]}{ANSWER}"
    model = {**ASKED, "thought_tags": tags}
    ((row,), rejects) = imported(tmp_path, path, {"response": text}, mode="on", model=model)
    assert rejects == []
    assert row["text"] == text
    assert row["text"][row["thought_start"] : row["thought_end"]] == THOUGHT
    assert (row["answer"], row["invalid"]) == (ANSWER, None)
    prompt = tokenizer.decode(row["prompt_token_ids"])
    assert row["prompt_token_ids"] + row["token_ids"] == whole(tokenizer, prompt + text + ENDS[name])
    offsets = token_offsets(tokenizer, token_ids=row["token_ids"], text=row["text"])
    assert max(end for _, end in offsets) == len(text)
    settings = Model(path=str(path), **model)
    sampling = Sampling(model=settings, engine=Engine(), decoding=Decoding())
    renderer = Renderer(sampling, tokenizer=tokenizer, family=family_of(settings, path=str(path)))
    assert renderer.special_tags  # an engine must leave them in its text
    fault = renderer.prepare(Request("a", "a", "d", f"what is {tags[0]}?", [], None, "on", 0, 0))
    assert fault.reason == "control_tokens"


def test_a_thought_of_gpt_oss_is_written_as_its_template_writes_it(families, tmp_path):
    path, tokenizer = families("gpt_oss")
    tags = ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>")
    model = {**ASKED, "thought_tags": tags}
    row = {"response": ANSWER, "cot": THOUGHT}
    ((row,), rejects) = imported(tmp_path, path, row, mode="on", thought="cot", model=model)
    assert rejects == []
    asked = QUESTION + " Think."
    rendered = whole(tokenizer, conversation(tokenizer, asked=asked, answer=ANSWER, thinking=THOUGHT))
    assert row["prompt_token_ids"] + row["token_ids"] == rendered


def test_a_prompted_model_is_asked_in_its_own_tags(families):
    path, tokenizer = families("magistral")
    model = Model(path=str(path), family="prompted", thought_tags=("[THINK]", "[/THINK]"))
    sampling = Sampling(model=model, engine=Engine(), decoding=Decoding())
    renderer = Renderer(sampling, tokenizer=tokenizer, family=family_of(model, path=str(path)))
    request = Request("a", "a", "d", QUESTION, ["Paris"], None, "on", 0, 0)
    prompt = renderer.prepare(request)
    assert prompt.opened and prompt.text.endswith("[/INST][THINK]\n")
    assert "between [THINK] and [/THINK]" in prompt.text and "<think>" not in prompt.text
    found = renderer.row(request, prompt, text=f"{THOUGHT}[/THINK]{ANSWER}", token_ids=[1], finish_reason="stop")
    assert (found.answer, found.thought_end) == (ANSWER, len(THOUGHT))


@pytest.mark.parametrize("name", ["llama2", "mistral"])
def test_replacement_characters_that_a_trace_holds_find_their_tokens(families, tmp_path, name):
    """Real traces hold U+FFFD; a decoder writes it for bytes that are none yet, too, so prefixes cannot tell it."""
    path, tokenizer = families(name)
    response = "<think>\n24.621 \ufffd\ufffd is it.\n\n亢金龙 (Kang).\n</think>\n\nParis"
    ((row,), rejects) = imported(tmp_path, path, {"response": response}, mode="on", model=PREFILLED)
    assert rejects == []
    offsets = token_offsets(tokenizer, token_ids=row["token_ids"], text=row["text"])
    assert {n for start, end in offsets for n in range(start, end)} == {*range(len(row["text"]))}
    for character in "\ufffd金":
        place = row["text"].index(character)
        own = [row["token_ids"][n] for n, (start, end) in enumerate(offsets) if start <= place < end]
        spelt = bytes(int(piece[1:-1], 16) for piece in tokenizer.convert_ids_to_tokens(own))
        assert spelt == character.encode()
