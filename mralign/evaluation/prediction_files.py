"""Files of predictions: our own form, logs of inspect_ai, sample logs of lm-eval.

A path enters, `Prediction`s leave, each with its line or sample, and ValueError in one sentence for a file, a line or a
sample that says none. Which form a file has is seen from what stands in it:

- an object with `eval` and `samples` is a log that inspect_ai 0.3 wrote as JSON (`inspect log convert --to json` makes
  one of an .eval file). `input` is the question, `target` the gold answers, an epoch a draw; a part of the message that
  is of type `reasoning` is the thought. A sample that ended in an error is left out, as inspect_ai's own scores do.
- lines with `doc` and `resps` are what lm-eval 0.4 writes as samples_<task>_<date>.jsonl under --log_samples. The
  question is `doc.question`, else the prompt; `target` the gold answers; the texts of `resps` are draws, as they came
  from the model; what a filter made of them is left aside. A task that compares likelihoods has none and is refused.
- anything else: records with the fields of predictions.py, a line each (or an array, CSV, Parquet).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from mralign.evaluation.predictions import Prediction, prediction_of
from mralign.questions.fields import texts_of
from mralign.questions.records import READERS, is_file, read_bytes, read_records, suffix_of
from mralign.run.store import absolute

_UNKNOWN = "unknown"  # inspect_ai's word where a provider gave no reason; a text is taken as whole then


def read_predictions(path: str) -> list[Prediction]:
    """The predictions of a file, in order.

    Raises ValueError for a file that is not there, is in no known form or holds none, and for the first line that says
    no prediction.
    """
    place = absolute(path)
    if suffix_of(place) == ".eval":
        raise ValueError(f"{path} is inspect_ai's packed log; make JSON of it first: inspect log convert --to json")
    if suffix_of(place) not in READERS:
        raise ValueError(f"predictions {path}: the suffix is not known; allowed are {', '.join(READERS)}")
    if not is_file(place):
        raise ValueError(f"predictions {path}: there is no such file; give the path of one")
    try:
        found = list(_read(place))
    except (OSError, EOFError, pa.ArrowException) as error:
        raise ValueError(f"predictions {path} cannot be read to its end: {error}") from error
    except ValueError as error:
        raise ValueError(f"predictions {path}: {error}") from error
    if not found:
        raise ValueError(f"predictions {path}: it holds none; allowed is one record a response")
    return found


def _read(path: str) -> Iterator[Prediction]:
    if suffix_of(path) == ".json":
        log = _inspect_log(path)
        if log is not None:
            return _of_inspect(log)
    return _of_records(path)


def _inspect_log(path: str) -> Mapping[str, Any] | None:
    """The document if it is a log of inspect_ai."""
    try:
        document = json.loads(read_bytes(path))
    except (ValueError, RecursionError):
        return None  # perhaps an object a line
    if not isinstance(document, dict) or not {"eval", "samples"} <= document.keys():
        return None
    if not isinstance(document["samples"], list) or not isinstance(document["eval"], dict):
        raise ValueError("the log of inspect_ai holds no list of samples; write it with its samples")
    return document


def _of_inspect(log: Mapping[str, Any]) -> Iterator[Prediction]:
    dataset = str(log["eval"].get("task", "")).rpartition("/")[2] or None
    for number, sample in enumerate(log["samples"], 1):
        place = f"sample {number}"
        if not isinstance(sample, dict):
            raise ValueError(f"{place} is {type(sample).__name__}; allowed is an object")
        choices = _inspect_choices(sample)
        if sample.get("error") or not choices:
            continue
        message = choices[0].get("message")
        thought, answer = _inspect_message(message.get("content") if isinstance(message, dict) else None, place=place)
        reason = choices[0].get("stop_reason", _UNKNOWN)
        yield prediction_of(
            {
                "id": sample.get("id"),
                "dataset": dataset,
                "question": _inspect_question(sample.get("input"), place=place),
                "answers": sample.get("target"),
                "response": answer,
                "thought": thought,
                "draw": _epoch(sample.get("epoch")),
                "finish_reason": "stop" if reason == _UNKNOWN else reason,
            },
            place=place,
        )


def _inspect_choices(sample: Mapping[str, Any]) -> list[dict[str, Any]]:
    output = sample.get("output")
    choices = output.get("choices") if isinstance(output, dict) else None
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _epoch(epoch: Any) -> Any:
    """inspect_ai counts epochs from 1."""
    return epoch - 1 if isinstance(epoch, int) and epoch > 0 else None


def _inspect_message(content: Any, *, place: str) -> tuple[str, str]:
    """Thought and answer of a message: text, or parts of the types `text` and `reasoning`."""
    if isinstance(content, str):
        return "", content
    if not isinstance(content, list):
        raise ValueError(f"{place}: the message has no content; allowed is text or a list of parts")
    parts = [part for part in content if isinstance(part, dict)]
    thoughts = [str(part.get("reasoning") or "") for part in parts if part.get("type") == "reasoning"]
    if any(part.get("redacted") for part in parts):
        raise ValueError(f"{place}: its reasoning is redacted; only thoughts in plain text can be judged")
    texts = [str(part.get("text") or "") for part in parts if part.get("type") == "text"]
    return "\n\n".join(thoughts), "\n".join(texts)


def _inspect_question(given: Any, *, place: str) -> str:
    """The input as text: itself, or the last message of the user."""
    if isinstance(given, str):
        return given
    messages = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    asked = [one.get("content") for one in messages if one.get("role") == "user"]
    if not asked:
        raise ValueError(f"{place}: its input holds no message of a user")
    return _inspect_message(asked[-1], place=place)[1]


def _of_records(path: str) -> Iterator[Prediction]:
    filters: list[Any] = []
    for number, record in enumerate(read_records(path), 1):
        place = f"line {record.line}" if record.line else f"record {number}"
        if record.fault is not None:
            raise ValueError(f"{place} cannot be read: {str(record.fault).removeprefix(f'{place}: ')}")
        value = record.value
        if isinstance(value, dict) and {"doc", "resps"} <= value.keys():
            filters = filters or [value.get("filter")]
            if value.get("filter") == filters[0]:  # every further filter repeats the responses
                yield from _of_lm_eval(value, task=_task(path), place=place)
        else:
            yield prediction_of(value, place=place)


def _task(path: str) -> str:
    """The task in samples_<task>_<date>.jsonl."""
    name = PurePosixPath(path).name.partition(".jsonl")[0].removeprefix("samples_")
    task, _, date = name.rpartition("_")
    return task if task and date[:4].isdecimal() else name


def _of_lm_eval(value: Mapping[str, Any], *, task: str, place: str) -> Iterator[Prediction]:
    doc = value["doc"] if isinstance(value["doc"], dict) else {}
    prompt = _first_argument(value.get("arguments"))
    question = doc.get("question")
    answers = texts_of(value.get("target"))  # written as text, even a list
    for draw, text in enumerate(_texts(value["resps"], place=place)):
        yield prediction_of(
            {
                "id": value.get("doc_id"),
                "dataset": task,
                "question": question if isinstance(question, str) and question.strip() else prompt,
                "answers": answers,
                "response": text,
                "draw": draw,
            },
            place=place,
        )


def _first_argument(arguments: Any) -> str | None:
    """The prompt: arguments is {"gen_args_0": {"arg_0": prompt, ...}}."""
    first = arguments.get("gen_args_0") if isinstance(arguments, dict) else None
    prompt = first.get("arg_0") if isinstance(first, dict) else None
    return prompt if isinstance(prompt, str) else None


def _texts(resps: Any, *, place: str) -> Sequence[str]:
    """The texts of the one request of a document, one a repeat."""
    first = resps[0] if isinstance(resps, list) and len(resps) == 1 else None
    texts = first if isinstance(first, list) else []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"{place}: `resps` holds no generated text; allowed are samples of a task that generates "
            f"(output_type: generate_until)"
        )
    return texts
