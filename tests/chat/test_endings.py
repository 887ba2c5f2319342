"""Only a text that its model ended by itself is whole, wherever a finish reason is read."""

import asyncio
import json
from collections import Counter

import pytest
from tokenizers_of_families import build

from mralign.annotation.ask import ChatAnnotator
from mralign.annotation.instruction import AnnotatorInstruction, Trajectory
from mralign.annotation.open_interview import OpenLabelling
from mralign.annotation.taxonomy import PAPER
from mralign.chat.endings import ending_fault
from mralign.chat.self_refine import Refinement, requests_of_turn
from mralign.chat.thought import split_thinking
from mralign.config import Decoding, Engine, Http, Model
from mralign.evaluation.benchmarks import find
from mralign.evaluation.benchmarks.benchmark import Case
from mralign.evaluation.judging import Judgements, Judges, judge
from mralign.rollouts.candidates import Limits
from mralign.rollouts.candidates import judge as judge_rollouts
from mralign.rollouts.thoughts import thoughts_of
from mralign.rows import Generation, Request, to_table
from mralign.run.rejects import Reject
from mralign.serving.chat_completions import read_chat, reply_body
from mralign.serving.completions import completion_payload
from mralign.serving.conversation import ChatReply
from mralign.serving.remote import RemoteGenerator
from mralign.serving.requests import Sampling

WHOLE = [
    "stop",
    "STOP",
    "eos",
    "eos_token",
    "end_turn",
    "stop_sequence",
    "COMPLETE",
    "FinishReason.STOP",
    "stop-sequence",
    "FINISHED",
    "end_id",
    "normal",
]
CUT = ["length", "max_tokens", "MAX_TOKENS", "model_length", "model_context_window_exceeded", "token_limit"]
UNFINISHED = [
    *(
        "content_filter",
        "tool_calls",
        "function_call",
        "error",
        "abort",
        "repetition",
        "refusal",
        "pause_turn",
        "tool_use",
    ),
    *(
        "SAFETY",
        "RECITATION",
        "OTHER",
        "FINISH_REASON_UNSPECIFIED",
        "insufficient_system_resource",
        "cancelled",
        "",
        "None",
    ),
    *("guardrail_intervened", "timeout", "stopped", "not stop"),
    None,
    1,
]


@pytest.mark.parametrize(
    ("words", "fault"), [(WHOLE, None), (CUT, "truncated"), (UNFINISHED, "unfinished")], ids=["whole", "cut", "else"]
)
def test_what_is_not_known_to_be_whole_is_not(words, fault):
    assert {word: ending_fault(word) for word in words} == dict.fromkeys(words, fault)


@pytest.mark.parametrize("mode", ["on", "off"])
def test_a_filtered_text_is_not_judged(mode):
    text = "<think>a</think>Paris" if mode == "on" else "Paris"
    assert split_thinking(text, mode=mode, finish_reason="content_filter").invalid == "unfinished"
    assert split_thinking(text, mode=mode, finish_reason="content_filter").answer is None
    assert split_thinking(text, mode=mode, finish_reason="max_tokens").invalid == "truncated"
    assert split_thinking(text, mode=mode, finish_reason="end_turn").answer == "Paris"


def generation(mode, answer, *, ended="stop"):
    """A row of schema GENERATIONS as an engine's renderer makes it."""
    text = f"<think>It is {answer}.</think>{answer}" if mode == "on" else answer
    split = split_thinking(text, mode=mode, finish_reason=ended)
    return Generation(
        row_id=f"d/1/{mode}/0",
        question_id="d/1",
        dataset="d",
        question="where?",
        answers=["Paris"],
        mode=mode,
        draw=0,
        seed=0,
        prompt_token_ids=[],
        token_ids=[],
        completion_tokens=0,
        text=text,
        finish_reason=ended,
        thought_start=split.thought_start,
        thought_end=split.thought_end,
        answer=split.answer,
        thought_tokens=3,
        invalid=split.invalid,
    )


def test_a_filtered_answer_is_no_positive_and_the_reject_says_the_word():
    limits = Limits(0, 100, 0, 100)
    rows = [generation("on", "Paris", ended="content_filter"), generation("off", "Rome")]
    kept, (reject,) = judge_rollouts(rows, match="exact", draws=1, limits=limits, keep_all_draws=False)
    assert kept == []
    assert (reject.row_id, reject.reason) == ("d/1/on/0", "unfinished")
    assert (reject.detail, reject.dataset) == ("finish_reason=content_filter", "d")
    whole = [generation("on", "Paris"), generation("off", "Rome")]
    ((row,), _) = judge_rollouts(whole, match="exact", draws=1, limits=limits, keep_all_draws=False)
    assert row.polarity == 1
    _, (reject,) = thoughts_of(rows, questions={"d/1"}, match="exact")
    assert (reject.reason, reject.detail) == ("unfinished", "finish_reason=content_filter")


def test_feedback_on_a_filtered_answer_is_not_asked_for():
    refinement = Refinement(1, feedback="{question} {answer}", revise="{question} {answer} {feedback}")
    for ended, asked in (("stop", 1), ("content_filter", 0), ("tool_calls", 0)):
        rows = [generation("on", "Paris", ended=ended)]
        found = requests_of_turn(
            "feedback-1", rows=rows, refinement=refinement, prompt_of=lambda dataset: "{question}", seed_of=len
        )
        assert len(found) == asked


class Scripted:
    """A chat that gives its replies in turn, through the form in which replies are kept."""

    def __init__(self, *replies):
        self.replies, self.asked = list(replies), 0

    async def reply(self, request):
        text, ended = self.replies[min(self.asked, len(self.replies) - 1)]
        self.asked += 1
        return read_chat(reply_body(ChatReply(text, ended, 1, 7)), cached=False)


LABELS = [{"label": "framing", "confidence": 8}]
ANNOTATION = json.dumps({"steps": [{"segments": [0], "labels": LABELS}], "confidence": 8})
TRUTH = json.dumps({"truthful": True, "informative": True})


def annotate(*replies):
    chat = Scripted(*replies)
    annotator = ChatAnnotator("Ann", chat=chat, instruction=AnnotatorInstruction(PAPER, False))
    trajectory = Trajectory("d/1/on/0", "where?", ("Paris",), ("It is Paris.",))
    return asyncio.run(annotator.annotate(trajectory, tally=Counter())), chat.asked


def judged(*replies):
    case = Case("d/1/on/0", "d/1", "tqa", "truthfulqa", "where?", "Paris", ("Paris",), {"incorrect_answers": ["Rome"]})
    chat = Scripted(*replies)
    known = Judgements()
    asyncio.run(judge(case, benchmark=find(case.benchmark), judges=Judges({"judge": chat}), known=known))
    (found,) = [*known.rows, *known.rejects]
    return found, chat.asked


@pytest.mark.parametrize(("ask", "good"), [(annotate, ANNOTATION), (judged, TRUTH)])
def test_a_reply_of_an_annotator_or_a_judge_that_was_cut_is_asked_for_again_though_it_can_be_read(ask, good):
    found, asked = ask((good, "stop"))
    assert not isinstance(found, Reject) and asked == 1
    found, asked = ask((good, "content_filter"), (good, "stop"))
    assert not isinstance(found, Reject) and asked == 2
    for ended, reason in (("content_filter", "unfinished"), ("length", "truncated"), ("None", "unfinished")):
        found, asked = ask((good, ended))
        assert isinstance(found, Reject) and asked == 2
        assert found.reason == reason
        assert ended == "length" or repr(ended) in found.detail


def test_open_labels_of_a_cut_reply_are_not_read():
    good = json.dumps({"steps": [{"segments": [0], "labels": [{"label": "guessing", "confidence": 8}]}]})
    row = {"row_id": "d/1/on/0", "question": "where?", "answers": ["Paris"], "text": "It is Paris."}
    row |= {"segment_start": [0], "segment_end": [12], "dataset": "d", "polarity": 1}
    reasons = {}
    for ended in ("stop", "length", "content_filter"):
        chat = Scripted((good, ended))
        labelling = OpenLabelling(start_chat=lambda chat=chat: chat, show_answers=False)
        (answer,) = asyncio.run(labelling.answer([row]))
        reasons[ended] = [reject.reason for reject in answer.rejects]
    assert reasons == {"stop": [], "length": ["truncated"], "content_filter": ["unfinished"]}


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    return build("gemma", tmp_path_factory.mktemp("tokenizers"))


def remote_row(path, tmp_path, choice, *, request=None, vllm=False):
    """What the generator of an endpoint makes of the first choice of a reply."""
    asked = {"think_on": {"prompt": "{question} Think."}, "think_off": {}}
    model = Model(path=str(path), **asked)
    http = Http(vllm_extras=vllm, request=request or {})
    sampling = Sampling(
        model=model, engine=Engine(), decoding=Decoding(), endpoint=http, cache=str(tmp_path / "responses")
    )
    generator = RemoteGenerator(sampling=sampling)
    request_row = Request("d/1/off/0", "d/1", "d", "where?", ["Paris"], None, "off", 0, 1)
    prompt = generator.renderer.prepare(request_row)
    from mralign.serving.calls import Reply

    reply = Reply({"choices": [choice]}, 1, 1, cached=False, tries=1)
    made = generator._row(request_row, prompt, reply)
    return to_table([made], Generation).to_pylist()[0], generator.renderer.tokenizer


@pytest.mark.parametrize(
    ("choice", "request_fields", "last"),
    [
        ({"text": "Paris", "finish_reason": "stop"}, {}, "<end_of_turn>"),  # not the eos_token `<eos>`
        ({"text": "Paris", "finish_reason": "stop", "stop_reason": None}, {"stop": ["\n"]}, "<end_of_turn>"),
        ({"text": "Paris", "finish_reason": "length"}, {}, None),
        ({"text": "Paris", "finish_reason": "content_filter"}, {}, None),
        ({"text": "Paris", "finish_reason": "stop"}, {"stop": ["\n"]}, None),  # whether a stop text did it is not told
        ({"text": "Paris", "finish_reason": "stop", "stop_reason": "\n"}, {"stop": ["\n"]}, None),
    ],
)
def test_an_endpoint_that_tells_text_only_gets_the_models_own_end_where_the_model_ended(
    gemma, tmp_path, choice, request_fields, last
):
    row, tokenizer = remote_row(gemma, tmp_path, choice, request=request_fields)
    text, *end = [tokenizer.decode(row["token_ids"][:-1]), tokenizer.convert_ids_to_tokens(row["token_ids"][-1])]
    assert row["text"] == "Paris"
    assert end == [last] and text == "Paris" if last else tokenizer.decode(row["token_ids"]) == "Paris"
    fault = {"length": "truncated", "content_filter": "unfinished"}.get(choice["finish_reason"])
    assert row["invalid"] == fault


def test_the_stop_token_that_a_server_names_is_the_end(gemma, tmp_path):
    from transformers import AutoTokenizer

    eos = AutoTokenizer.from_pretrained(gemma).convert_tokens_to_ids("<eos>")
    row, tokenizer = remote_row(gemma, tmp_path, {"text": "Paris", "finish_reason": "stop", "stop_reason": eos})
    assert tokenizer.convert_ids_to_tokens(row["token_ids"][-1]) == "<eos>"


def test_the_text_of_sampled_ids_holds_the_stop_text_that_ended_them(gemma, tmp_path):
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(gemma)("<answer>Paris</answer>", add_special_tokens=False)["input_ids"]
    choice = {"text": "<answer>Paris", "finish_reason": "stop", "stop_reason": "</answer>", "token_ids": ids}
    row, _ = remote_row(gemma, tmp_path, choice, request={"stop": ["</answer>"]}, vllm=True)
    assert (row["text"], row["token_ids"], row["answer"]) == ("<answer>Paris</answer>", ids, "Paris")


def test_an_endpoint_is_told_to_keep_tags_that_are_special_tokens():
    asked = {"model": "m", "max_tokens": 9, "seed": 1}
    plain, kept = (
        completion_payload([1], decoding=Decoding(), vllm_extras=True, keep_special=keep, **asked)
        for keep in (False, True)
    )
    assert kept == plain | {"skip_special_tokens": False}
    with pytest.raises(ValueError, match=r"model\.thought_tags holds special tokens.*vllm_extras"):
        completion_payload([1], decoding=Decoding(), vllm_extras=False, keep_special=True, **asked)


@pytest.mark.long  # importing vLLM takes most of it
def test_our_own_engine_keeps_tags_that_are_special_tokens():
    from mralign.serving.vllm import sampling_parameters

    plain, kept = (sampling_parameters(Decoding(), max_tokens=9, seed=1, keep_special=keep) for keep in (False, True))
    assert (plain.skip_special_tokens, kept.skip_special_tokens) == (True, False)
