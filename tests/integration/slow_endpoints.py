"""A run of the embedded world whose answers and labels come from endpoints: settings, and a server that samples.

One loopback server samples the rollouts, one plays the annotators (scripted_annotators.py). What each says follows from
the request alone, so that two runs have the same rows.
"""

import json
import random
from importlib.resources import files

from transformers import AutoTokenizer

DATA = files("mralign.miniworld") / "data"
SOURCE = "pkg://mralign.miniworld/data/questions/train.jsonl"


def draw_key(payload):
    """What tells one draw from another."""
    return json.dumps([payload["seed"], payload["prompt"], payload["max_tokens"]])


def sampler(count):
    """Answers a draw by its question: two in three are decided by thinking."""
    lines = (DATA / "questions" / "train.jsonl").read_text().splitlines()[:count]
    gold = {line["question"]: line["answer"][0] for line in map(json.loads, lines)}
    tokenizer = AutoTokenizer.from_pretrained(str(DATA / "model"))

    def answer(key):
        _, prompt, _ = json.loads(key)
        text = tokenizer.decode(prompt)
        thinks = "</think>" not in text
        question = next(question for question in gold if question in text)
        kind = random.Random(question).randrange(3)
        right = kind == 2 or thinks == bool(kind)
        said = gold[question] if right else "nothing"
        thought = "\n\n".join(["the river is long"] * (5 + len(question) % 4))
        return f"<think>\n{thought}\n</think>\n\n{said}" if thinks else said

    return answer


def settings(sampling, asking, *, count, sampled_at_once, asked_at_once, order="needed"):
    """The settings of the run; `sampling` and `asking` are the two servers, asked so much at once."""

    def chat(name, model):
        http = {"base_url": asking.base_url, "model": model, "concurrency": asked_at_once, "vllm_extras": False}
        return {"name": name, "engine": "http", "http": http | {"price_prompt": 1.0, "price_completion": 100.0}}

    return [
        f"questions.train=[{{name: miniworld, path: {SOURCE!r}, limit: {count}}}]",
        "questions.test=[]",
        "questions.dev=[]",
        "candidates.keep_neutral=false",
        "candidates.keep_all_draws=false",
        "candidates.min_thought_tokens=1",
        "engine.batch_size=8",
        f"rollouts.order={order}",
        "rollouts.engine=http",
        f"http.base_url={sampling.base_url}",
        f"http.concurrency={sampled_at_once}",
        f"annotation.annotators={json.dumps([chat('Ann', 'a'), chat('Ben', 'b')])}",
        f"annotation.adjudicator={json.dumps(chat('Jo', 'judge'))}",
    ]
