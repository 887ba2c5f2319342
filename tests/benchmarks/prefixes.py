"""The share of prompt tokens that vLLM finds in its prefix cache, for every kind of request that a run makes.

    python tests/benchmarks/prefixes.py [--quick] [--rows 60]

The requests are as a run makes them: its instructions around made-up questions, thoughts and evidence of usual length,
in the order in which a stage asks. The model that serves them has random weights and takes a byte for a token, so the
shares are those of characters; what it says does not matter, and it says one token. Both sides take turns on one
engine: every request as it is, and with its instruction behind what it is about, where a cache finds it no more.
"""

import argparse
import json
import os
import platform
import random
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tiny_chat import save_chat_model  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from mralign.annotation.instruction import (  # noqa: E402
    AnnotatorInstruction,
    Trajectory,
    adjudication_messages,
    adjudicator_instruction,
)
from mralign.annotation.step_labels import StepLabels  # noqa: E402
from mralign.annotation.taxonomy import PAPER  # noqa: E402
from mralign.chat.user_message import user_message  # noqa: E402
from mralign.config import Decoding, Engine, Model, Retrieval  # noqa: E402
from mralign.evaluation.benchmarks import find  # noqa: E402
from mralign.evaluation.benchmarks.benchmark import Case  # noqa: E402
from mralign.evaluation.judging import request_of  # noqa: E402
from mralign.evaluation.snippets import with_snippets  # noqa: E402
from mralign.serving.conversation import Message  # noqa: E402
from mralign.serving.vllm import sampling_parameters, start_engine, worker_environment  # noqa: E402

ASK = "Answer the question. Give the final answer, as short as possible, between <answer> and </answer>.\n\nQuestion: "
WORDS = ("river", "year", "city", "name", "born", "in", "the", "of", "a", "was", "first", "book", "king", "north")
CLAIMS, SNIPPETS, DRAWS = 4, 5, 3


def words(dice, count):
    return " ".join(dice.choices(WORDS, k=count))


def trajectories(rows):
    """Thoughts of 5 to 14 segments of about 200 characters, as the length filter leaves them."""
    dice = random.Random(0)
    for number in range(rows):
        segments = tuple(words(dice, 40) for _ in range(dice.randint(5, 14)))
        yield Trajectory(str(number), f"What is number {number}: {words(dice, 6)}?", (words(dice, 2),), segments)


def of_annotators(rows):
    """Two annotators that one engine serves, asked of each trajectory at the same time."""
    instruction = AnnotatorInstruction(PAPER, True)
    for trajectory in trajectories(rows):
        yield from [instruction.messages(trajectory)] * 2


def of_adjudicator(rows):
    """A third of the steps of every trajectory are disputed."""
    instruction, dice = adjudicator_instruction(PAPER), random.Random(1)
    for trajectory in trajectories(rows):
        disputed = []
        for number in range(0, len(trajectory.segments), 3):
            labels = dice.sample(PAPER.labels, 2)
            disputed.append(tuple(StepLabels(number, number, (label,), (8.0,)) for label in labels))
        yield adjudication_messages(trajectory, disputed, instruction=instruction, show_answers=True)


def cases(rows, benchmark):
    """Responses of two methods to each question."""
    dice = random.Random(2)
    for number in range(rows // 2):
        fields = {"incorrect_answers": [words(dice, 8) for _ in range(4)]}
        gold = tuple(words(dice, 8) for _ in range(3))
        question = f"Question {number}: {words(dice, 8)}?"
        for _ in range(2):
            yield Case(str(number), str(number), "d", benchmark, question, words(dice, 60), gold, fields)


def of_judge(rows):
    (step,) = find("truthfulqa").steps
    for case in cases(rows, "truthfulqa"):
        for item in step.items(case, {}):
            yield request_of(step, case.row_id, shown=item.shown).messages


def of_extractor(rows):
    step = find("longfact").steps[0]
    for case in cases(rows, "longfact"):
        for item in step.items(case, {}):
            yield request_of(step, case.row_id, shown=item.shown).messages


def of_verifier(rows):
    step, dice = find("longfact").steps[1], random.Random(3)
    for number in range(rows):
        claims = [words(dice, 12) for _ in range(CLAIMS)]
        case = Case(str(number), str(number), "d", "longfact", "Who?", "x")
        for item in step.items(case, {"claims": [{"claims": claims}]}):
            evidence = [{"title": words(dice, 3), "text": words(dice, 40)} for _ in range(SNIPPETS)]
            yield request_of(step, case.row_id, shown={**item.shown, "evidence": evidence}).messages


def of_questions(rows, *, retrieved):
    """Three draws of each question; with snippets in it, or as it is."""
    dice = random.Random(4)
    for number in range(rows // DRAWS):
        question = f"Question {number}: {words(dice, 10)}?"
        if retrieved:
            snippets = [{"title": words(dice, 3), "text": words(dice, 80)} for _ in range(SNIPPETS)]
            question = with_snippets(question, snippets=snippets, prompt=Retrieval().prompt)
        said = user_message(ASK + "{question}", question=question, choices=())
        yield from [(Message("user", said),)] * DRAWS


KINDS = {
    "annotators": of_annotators,
    "adjudicator": of_adjudicator,
    "judge (TruthfulQA)": of_judge,
    "extractor (claims)": of_extractor,
    "verifier (claims)": of_verifier,
    "draws of a question": lambda rows: of_questions(rows, retrieved=False),
    "draws with snippets (+Ret)": lambda rows: of_questions(rows, retrieved=True),
}


def instruction_last(messages):
    """The same texts with the one that is always the same at the end."""
    if len(messages) == 1:
        return (Message("user", f"{messages[0].content.removeprefix(ASK)}\n\n{ASK}"),)
    system, user = messages
    return (Message("user", f"{user.content}\n\n{system.content}"),)


def share(engine, tokenizer, requests):
    """Prompt tokens of the requests, and the share of them that the engine had."""
    engine.forget_prefixes()
    work = []
    for seed, messages in enumerate(requests):
        turns = [{"role": message.role, "content": message.content} for message in messages]
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        work.append((ids, sampling_parameters(Decoding(), max_tokens=1, seed=seed)))
    outputs = engine.submit(work).result()
    prompt = sum(len(ids) for ids, _ in work)
    return prompt, sum(output.num_cached_tokens or 0 for output in outputs) / prompt


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rows", type=int)
    args = parser.parse_args()
    rows = args.rows or (12 if args.quick else 60)
    settings = Engine(max_model_len=16384, max_num_seqs=64)
    os.environ.update(worker_environment(settings))
    found = {}
    with tempfile.TemporaryDirectory(prefix="mralign-bench-") as directory:
        path = save_chat_model(directory)
        tokenizer = AutoTokenizer.from_pretrained(path)
        engine = start_engine(path, model=Model(path=path, family="prompted", dtype="float32"), engine=settings)
        for kind, requests_of in KINDS.items():
            requests = list(requests_of(rows))
            tokens, cached = share(engine, tokenizer, requests)
            _, behind = share(engine, tokenizer, [instruction_last(one) for one in requests])
            found[kind] = {"requests": len(requests), "tokens": tokens, "share": cached, "instruction_last": behind}
    report(found, rows=rows)


def report(found, *, rows):
    print(f"{'prompt tokens found':33} {'requests':>9} {'tokens':>10} {'share':>7} {'instruction last':>17}")
    for kind, one in found.items():
        print(f"{kind:33} {one['requests']:9} {one['tokens']:10,} {one['share']:7.3f} {one['instruction_last']:17.3f}")
    total = sum(one["tokens"] for one in found.values())
    computed = {
        name: sum(one["tokens"] * (1 - one[name]) for one in found.values()) / total
        for name in ("share", "instruction_last")
    }
    ratios = {"computed_over_all": round(computed["share"], 3)}
    ratios["computed_over_instruction_last"] = round(computed["share"] / computed["instruction_last"], 3)
    first, last = (f"{value:.3f}" for value in computed.values())
    print(f"computed of all prompt tokens: {first}; with the instruction last: {last}")
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    figures = {"rows": rows, "kinds": found}
    print(json.dumps({"benchmark": "prefixes", "ratios": ratios, "figures": figures, "machine": machine}))


if __name__ == "__main__":
    main()
