"""Chats behind an endpoint and behind an engine: what is sent, what is kept, who shares what."""

import asyncio

import pytest
from loopback_server import Fault, LoopbackServer

from mralign.asking.annotator import check_annotator, check_budgets, resolve
from mralign.asking.chats import EngineChat, open_chat
from mralign.config import Decoding, ThinkMode, parse
from mralign.serving.calls import Failure
from mralign.serving.chat_completions import chat_payload, read_chat, reply_body, say
from mralign.serving.conversation import ChatReply, ChatRequest, Message

SCHEMA = {"type": "object"}
MODEL = "pkg://mralign.miniworld/data/model"
REQUEST = ChatRequest("q/on/0", (Message("system", "be brief"), Message("user", "Who?")), SCHEMA)


def config_of(tmp_path, *annotators, **http):
    first, second, judge = (*annotators, *[{"rule_book": "x"}] * 3)[:3]
    return parse(
        {
            "run": {"dir": str(tmp_path / "run")},
            "questions": {"train": [{"name": "a", "path": "a"}]},
            "model": {"path": MODEL, "dtype": "float32"},
            "http": http,
            "annotation": {
                "annotators": [{"name": "A"} | first, {"name": "B"} | second],
                "adjudicator": {"name": "J"} | judge,
            },
        }
    )


def resolved(config):
    listed = (*config.annotation.annotators, config.annotation.adjudicator)
    return [resolve(annotator, config=config) for annotator in listed if annotator.engine != "cues"]


def payload(request=REQUEST, **changes):
    usual = {"model": "m", "decoding": Decoding(temperature=0), "mode": ThinkMode(), "structured": "json_schema"}
    return chat_payload(request, **usual | {"vllm_extras": False, "seed": 5} | changes)


def test_the_payload_is_what_openai_documents():
    assert payload() == {
        "model": "m",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "Who?"}],
        "max_tokens": 8192,
        "temperature": 0,
        "top_p": 0.9,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True},
        },
    }
    assert payload(structured="json_object")["response_format"] == {"type": "json_object"}
    assert "response_format" not in payload(structured="none")
    assert payload(decoding=Decoding(temperature=0.7))["seed"] == 5


def test_vllms_extras_carry_the_chat_template_and_others_refuse_them():
    mode = ThinkMode(template={"enable_thinking": False})
    assert payload(mode=mode, vllm_extras=True)["chat_template_kwargs"] == {"enable_thinking": False}
    with pytest.raises(ValueError, match=r"mode\.template=\{'enable_thinking': False\} cannot be asked"):
        payload(mode=mode)


def test_a_mode_goes_before_and_around_our_messages():
    mode = ThinkMode(system="detailed thinking off", prompt="{question} /no_think")
    assert say(REQUEST.messages, mode=mode) == (
        Message("system", "detailed thinking off\n\nbe brief"),
        Message("user", "Who? /no_think"),
    )
    assert say(REQUEST.messages[1:], mode=mode)[0] == Message("system", "detailed thinking off")


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ({"message": {"content": 5}}, "malformed_completion"),
        ({"text": "x"}, "malformed_completion"),
    ],
)
def test_a_body_that_is_no_chat_is_a_failure(choice, reason):
    assert read_chat({"choices": [choice]}, cached=False).reason == reason


@pytest.mark.parametrize(
    ("message", "text"), [({"refusal": "I must not", "content": None}, "I must not"), ({"content": None}, "")]
)
def test_what_was_paid_for_is_a_reply_even_if_it_says_nothing(message, text):
    body = {"choices": [{"message": message, "finish_reason": "length"}], "usage": {"completion_tokens": 9}}
    assert read_chat(body, cached=False) == ChatReply(text, "length", 0, 9)


def test_a_reply_of_our_engine_reads_back_as_it_was():
    reply = ChatReply("text", "stop", 10, 3, prefix_tokens=8)
    assert read_chat(reply_body(reply), cached=False) == reply
    assert read_chat({"choices": [{"message": {"content": "x"}}]}, cached=True) == ChatReply("x", "None", 0, 0, 0, True)


def test_an_endpoint_is_asked_once_and_its_reply_kept(tmp_path):
    with LoopbackServer() as server:
        config = config_of(tmp_path, {"engine": "http"}, base_url=server.base_url, model="m", vllm_extras=False)

        async def ask():
            async with open_chat(config.annotation.annotators[0], config=config) as chat:
                return await chat.reply(REQUEST)

        first, second = asyncio.run(ask()), asyncio.run(ask())
        assert (first.text, first.cached) == ("the answer to Who?, café ✓", False)
        assert (second.text, second.cached) == (first.text, True)
        assert sum(server.received.values()) == 1
    assert (tmp_path / "run" / "responses").is_dir()


def test_fields_are_put_into_and_taken_out_of_every_request(tmp_path):
    seen = []
    with LoopbackServer(lambda prompt, tries: Fault.NONE, prompt=lambda p: seen.append(p) or "x") as server:
        request = {"temperature": None, "reasoning_effort": "low"}
        config = config_of(tmp_path, {"engine": "http"}, base_url=server.base_url, model="m", request=request)

        async def ask():
            async with open_chat(config.annotation.annotators[0], config=config) as chat:
                return await chat.reply(REQUEST)

        asyncio.run(ask())
    assert seen[0]["reasoning_effort"] == "low"
    assert "temperature" not in seen[0]


def test_annotators_share_an_engine_where_nothing_about_it_differs(tmp_path):
    shared = config_of(tmp_path, {"engine": "vllm"}, {"engine": "vllm", "decoding": {"temperature": 1.0}})
    a, b = resolved(shared)
    assert a.engine_key == b.engine_key
    assert a.seed != b.seed
    apart = config_of(tmp_path, {"engine": "vllm"}, {"engine": "vllm", "serving": {"max_num_seqs": 3}})
    a, b = resolved(apart)
    assert a.engine_key != b.engine_key
    assert a.cache == b.cache  # the same model says the same, whoever serves it


def test_every_endpoint_has_a_budget_of_its_own(tmp_path):
    other = {"base_url": "http://127.0.0.1:1/v1", "model": "m"}
    config = config_of(
        tmp_path, {"engine": "http"}, {"engine": "http", "http": other}, {"engine": "http", "http": other}
    )
    a, b, j = resolved(config)
    assert a.cache.endswith("/run/responses")
    assert b.cache == j.cache != a.cache
    assert b.engine_key == j.engine_key != a.engine_key
    check_budgets([a, b, j])
    richer = other | {"budget": 9.0, "price_prompt": 1.0}
    apart = resolved(config_of(tmp_path, {"engine": "http", "http": other}, {"engine": "http", "http": richer}))
    assert apart[0].cache == apart[1].cache == b.cache  # a raised budget finds what was paid for
    with pytest.raises(ValueError, match=r"'A' and 'B' ask one model .* they share a purse"):
        check_budgets(apart)


def test_a_prefill_for_an_endpoint_is_refused(tmp_path):
    config = config_of(tmp_path, {"engine": "http", "mode": {"prefill": "{"}}, model="m")
    with pytest.raises(ValueError, match=r"annotator 'A': an endpoint cannot be given a prefill"):
        check_annotator(resolved(config)[0])


def test_the_text_of_a_trajectory_cannot_steer_an_engines_chat(tmp_path):
    from transformers import AutoTokenizer

    from mralign.config import resolve_path

    (annotator,) = resolved(config_of(tmp_path, {"engine": "vllm"}))
    tokenizer = AutoTokenizer.from_pretrained(resolve_path(MODEL))
    chat = EngineChat(annotator, engine=None, tokenizer=tokenizer)
    mark = tokenizer.eos_token
    said = asyncio.run(chat.reply(ChatRequest("r", (Message("user", f"hello {mark} there"),))))
    assert isinstance(said, Failure)
    assert said.reason == "control_tokens"
    assert mark in said.detail


def test_what_changes_an_engines_reply_changes_its_key(tmp_path):
    from transformers import AutoTokenizer

    from mralign.config import resolve_path

    tokenizer = AutoTokenizer.from_pretrained(resolve_path(MODEL))
    keys = set()
    for first in (
        {},
        {"mode": {"prefill": "{"}},
        {"serving": {"max_model_len": 64}},
        {"structured": "none"},
        {"decoding": {"temperature": 1.0}},
    ):
        (annotator,) = resolved(config_of(tmp_path, {"engine": "vllm"} | first))
        chat = EngineChat(annotator, engine=None, tokenizer=tokenizer)
        chat.cache = type("Cache", (), {"read": lambda self, key: keys.add(key), "write": None})()
        chat._ask = None
        with pytest.raises(TypeError):  # there is no engine to ask
            asyncio.run(chat.reply(REQUEST))
    assert len(keys) == 5


def test_a_family_that_asks_for_an_answer_does_not_ask_annotators_for_one(tmp_path):
    config = config_of(tmp_path, {"engine": "vllm", "model": {"path": MODEL, "family": "prompted"}})
    assert resolved(config)[0].mode == ThinkMode()


def test_a_template_without_a_system_turn_gets_its_text_before_the_users(tmp_path):
    from transformers import AutoTokenizer

    from mralign.config import resolve_path

    (annotator,) = resolved(config_of(tmp_path, {"engine": "vllm"}))
    tokenizer = AutoTokenizer.from_pretrained(resolve_path(MODEL))
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ m['content'] }}{% endfor %}"
    )
    said = []
    tokenizer_of = type("Spy", (), {"__call__": lambda self, text, **_: said.append(text) or {"input_ids": [1]}})
    spy = tokenizer_of()
    spy.apply_chat_template, spy.added_tokens_decoder = tokenizer.apply_chat_template, tokenizer.added_tokens_decoder
    spy.chat_template, spy.all_special_tokens = tokenizer.chat_template, tokenizer.all_special_tokens
    assert EngineChat(annotator, engine=None, tokenizer=spy).render(REQUEST) == [1]
    assert said == ["be brief\n\nWho?"]
