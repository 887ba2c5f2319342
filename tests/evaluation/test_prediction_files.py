"""Files of predictions: our own form, and what inspect_ai 0.3.285 and lm-eval 0.4.13 write (by their code)."""

import gzip
import json

import pytest

from mralign.evaluation.prediction_files import read_predictions
from mralign.rows import Mode


def lines(path, *values):
    path.write_text("".join(f"{value if isinstance(value, str) else json.dumps(value)}\n" for value in values))
    return str(path)


def test_lines_with_thinking_and_without(tmp_path):
    path = lines(
        tmp_path / "mine.jsonl",
        {"id": "q1", "answers": ["A"], "response": "<think>a</think>A", "mode": "on"},
        "",
        {"id": "q1", "answers": ["A"], "response": "B", "mode": "off"},
    )
    first, second = read_predictions(path)
    assert (first.place, first.mode, second.place, second.mode) == ("line 1", Mode.ON, "line 3", Mode.OFF)


def test_a_packed_file_and_an_array_are_read(tmp_path):
    packed = tmp_path / "mine.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"response": "A"}\n'))
    array = tmp_path / "mine.json"
    array.write_text('[{"response": "A"}, {"response": 3}]')
    assert read_predictions(str(packed))[0].response == "A"
    with pytest.raises(ValueError, match=r"mine\.json: record 2: `response` is int; allowed is text"):
        read_predictions(str(array))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"response": "cut', "line 2 cannot be read: Unterminated string"),
        ("[]", "line 2 is list; allowed is an object"),
        ('{"reply": "A"}', r"line 2 has no `response`; it has \['reply'\]"),
    ],
)
def test_a_bad_line_is_told_in_one_sentence(tmp_path, line, message):
    path = lines(tmp_path / "mine.jsonl", {"response": "A"}, line)
    with pytest.raises(ValueError, match=message) as raised:
        read_predictions(path)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_none_is_told(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "log.eval").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"empty\.jsonl: it holds none"):
        read_predictions(str(tmp_path / "empty.jsonl"))
    with pytest.raises(ValueError, match="there is no such file"):
        read_predictions(str(tmp_path / "none.jsonl"))
    with pytest.raises(ValueError, match=r"the suffix is not known; allowed are \.jsonl"):
        read_predictions(str(tmp_path / "mine.txt"))
    with pytest.raises(ValueError, match="inspect log convert --to json"):
        read_predictions(str(tmp_path / "log.eval"))


def inspect_sample(id, *, epoch, content, stop="stop", input="Capital of France?", **more):
    return {
        "id": id,
        "epoch": epoch,
        "input": input,
        "target": "Paris",
        "messages": [{"role": "user", "content": "Capital of France?"}, {"role": "assistant", "content": content}],
        "output": {
            "model": "vllm/Qwen/Qwen3-8B",
            "choices": [
                {"message": {"content": content, "source": "generate", "role": "assistant"}, "stop_reason": stop}
            ],
            "completion": "Paris",
            "usage": {"input_tokens": 12, "output_tokens": 40, "total_tokens": 52},
            "time": 1.5,
        },
        "scores": {"match": {"value": "C", "answer": "Paris"}},
        "metadata": {},
        "store": {},
        "events": [],
        **more,
    }


def inspect_log(path, *samples):
    document = {
        "version": 2,
        "status": "success",
        "eval": {
            "created": "2026-01-01T00:00:00+00:00",
            "task": "inspect_evals/capitals",
            "model": "vllm/Qwen/Qwen3-8B",
        },
        "plan": {"name": "plan", "steps": [], "config": {}},
        "results": {"total_samples": len(samples), "completed_samples": len(samples), "scores": []},
        "stats": {},
        "samples": list(samples),
    }
    path.write_text(json.dumps(document))
    return str(path)


def test_a_log_of_inspect_ai(tmp_path):
    reasoned = [
        {"type": "reasoning", "reasoning": "Rome? No, Paris.", "redacted": False},
        {"type": "text", "text": "Paris"},
    ]
    chat = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Capital of France?"}]},
    ]
    path = inspect_log(
        tmp_path / "log.json",
        inspect_sample(1, epoch=1, content=reasoned),
        inspect_sample(1, epoch=2, content="<think>Rome</think>Rome", stop="max_tokens"),
        inspect_sample("two", epoch=1, content="Paris", stop="unknown", input=chat),
        inspect_sample(
            3, epoch=1, content="Paris", error={"message": "timeout", "traceback": "", "traceback_ansi": ""}
        ),
    )
    first, second, third = read_predictions(path)
    assert first.text == "<think>Rome? No, Paris.</think>Paris"
    assert (first.id, first.draw, first.dataset, first.answers) == ("1", 0, "capitals", ("Paris",))
    assert (second.draw, second.finish_reason, second.place) == (1, "max_tokens", "sample 2")
    assert (third.id, third.question, third.finish_reason) == ("two", "Capital of France?", "stop")


def test_a_redacted_thought_cannot_be_judged(tmp_path):
    hidden = [{"type": "reasoning", "reasoning": "c2lnbg==", "redacted": True}, {"type": "text", "text": "Paris"}]
    with pytest.raises(ValueError, match="sample 1: its reasoning is redacted"):
        read_predictions(inspect_log(tmp_path / "log.json", inspect_sample(1, epoch=1, content=hidden)))


def lm_eval_line(doc_id, *, resps, filter="none", target="['Paris', 'City of Paris']", doc=None):
    return {
        "doc_id": doc_id,
        "doc": {"question": "Capital of France?"} if doc is None else doc,
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": "Q: Capital of France?\nA:", "arg_1": {"until": ["\n"]}}},
        "resps": resps,
        "filtered_resps": [resps[0][0]],
        "filter": filter,
        "metrics": ["exact_match"],
        "doc_hash": "0" * 64,
        "prompt_hash": "1" * 64,
        "target_hash": "2" * 64,
        "exact_match": 1.0,
    }


def test_samples_of_lm_eval(tmp_path):
    path = lines(
        tmp_path / "samples_nq_open_2026-01-02T03-04-05.678.jsonl",
        lm_eval_line(0, resps=[["<think>x</think>Paris", "Rome"]], filter="strict"),
        lm_eval_line(1, resps=[["Paris"]], target="Paris", doc={"q": 1}, filter="strict"),
        lm_eval_line(0, resps=[["<think>x</think>Paris", "Rome"]], filter="flexible"),
    )
    first, again, second = read_predictions(path)
    assert (first.id, first.draw, first.dataset) == ("0", 0, "nq_open")
    assert first.answers == ("Paris", "City of Paris")
    assert (again.response, again.draw, again.place) == ("Rome", 1, "line 1")
    assert (second.question, second.answers) == ("Q: Capital of France?\nA:", ("Paris",))


def test_likelihoods_of_lm_eval_are_no_predictions(tmp_path):
    path = lines(tmp_path / "samples_arc_2026.jsonl", lm_eval_line(0, resps=[[["-1.5", "True"]], [["-2.0", "False"]]]))
    with pytest.raises(ValueError, match="line 1: `resps` holds no generated text"):
        read_predictions(path)
