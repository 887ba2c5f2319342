"""Annotators that a loopback server plays: their replies follow from the request alone, good, bad and hopeless.

They are no models. Model `a` and model `b` label the same thought differently, `judge*` adjudicates. Some first replies
cannot be used and are mended when the error is quoted; model `b` never gives a usable reply on the questions that
`hopeless` names.
"""

import json
import random
import re

from mralign.annotation.taxonomy import PAPER


def request_of(payload):
    """What makes a request: model and messages, as the key of the server's counts."""
    return json.dumps([payload["model"], [m["content"] for m in payload["messages"]]])


def hopeless(question):
    return question.endswith("7?")


def answer_to(request):
    model, messages = json.loads(request)
    question = re.search(r"Question: (.*)", messages[1])[1]
    dice = random.Random(f"{model}:{question}")
    if model.startswith("judge"):
        disputes = re.findall(r"^dispute_\d+", messages[1], re.MULTILINE)
        return json.dumps({name: labels(dice, most=2) for name in disputes})
    last = int(re.findall(r"^\[(\d+)\]", messages[1], re.MULTILINE)[-1])
    if model == "b" and hopeless(question):
        return "I would rather not."
    good = json.dumps({"steps": steps(dice, last=last), "confidence": dice.randint(0, 10)})
    if dice.random() < 0.3 and len(messages) == 2:  # the first try
        return good.replace(f"{last}]", f"{last + 1}]")
    return f"```json\n{good}\n```" if dice.random() < 0.3 else good


def steps(dice, *, last):
    found, start = [], 0
    while start <= last:
        end = min(last, start + dice.randint(0, 1))
        found.append({"segments": list(range(start, end + 1)), "labels": labels(dice, most=2)})
        start = end + 1
    return found


def labels(dice, *, most):
    names = dice.sample(PAPER.labels, dice.randint(0, most))
    return [{"label": name, "confidence": dice.randint(5, 10)} for name in names]


def write_rollouts(directory, *, questions):
    """Imported rollouts of both modes: thinking helps on every even question and hurts on every odd one."""
    paths = directory / "on.jsonl", directory / "off.jsonl"
    on, off = [], []
    for n in range(questions):
        thought = "\n\n".join(f"The thought number {i} on question {n}." for i in range(3 + n % 4))
        right, wrong = f"answer{n}", "nothing"
        base = {"id": n, "problem": f"What is number {n}?", "answer": right}
        helped = n % 2 == 0
        on.append(base | {"response": f"<think>{thought}</think>{right if helped else wrong}"})
        off.append(base | {"response": wrong if helped else right})
    for path, rows in zip(paths, (on, off), strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths
