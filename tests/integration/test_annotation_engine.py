"""A real language model as both annotators and adjudicator: one vLLM engine for all three, replies held by schema."""

import asyncio
import json
import re

import jsonschema
import pyarrow.parquet as pq
import pytest
from align_process import ROOT, finish, start
from smollm2 import MISSING, find_gguf, shared_smollm2

from mralign.annotation.ask import Opinions, annotators_at
from mralign.annotation.decide import annotate_row
from mralign.annotation.replies import adjudication_schema, annotation_schema
from mralign.annotation.resolved import resolve_annotation
from mralign.asking.chats import EngineChat
from mralign.config import load

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(find_gguf() is None, reason=MISSING),
]

THOUGHT = (
    "Okay, the question is who wrote the first program. Let me think about what I know.",
    "I recall that Ada Lovelace wrote notes on the Analytical Engine in 1843.",
    "Wait, maybe it was Charles Babbage himself? No, his drafts were not published.",
    "So the answer is Ada Lovelace.",
)


def write_rollouts(directory, *, questions):
    paths = directory / "on.jsonl", directory / "off.jsonl"
    rows = [{"id": n, "problem": f"Who wrote program number {n}?", "answer": "Ada"} for n in range(questions)]
    thoughts = ["\n\n".join((*THOUGHT[: 2 + n % 3], f"It is number {n}.")) for n in range(questions)]
    on = [row | {"response": f"<think>{t}</think>Ada"} for row, t in zip(rows, thoughts, strict=True)]
    off = [row | {"response": "Bob"} for row in rows]
    for path, listed in zip(paths, (on, off), strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in listed))
    return paths


class Recorder(EngineChat):
    """A chat without an engine: it finds what the run has kept, and notes what was asked."""

    def __init__(self, annotator, *, tokenizer):
        super().__init__(annotator, engine=None, tokenizer=tokenizer)
        self.exchanges = []

    async def reply(self, request):
        reply = await super().reply(request)
        self.exchanges.append((request, reply))
        return reply


def test_a_real_model_annotates_and_everything_it_said_is_found_again(tmp_path, tmp_path_factory):
    from transformers import AutoTokenizer

    model = str(shared_smollm2(tmp_path_factory))
    on, off = write_rollouts(tmp_path, questions=4)
    said = {"engine": "vllm", "decoding": {"temperature": 0.6, "top_p": 0.95, "max_tokens": 400}}
    overrides = [
        f"model.path={model}",
        "model.family=prompted",
        f"rollouts.import_on={on}",
        f"rollouts.import_off={off}",
        "run.reject_limit=1.0",  # of a model of 135 M parameters
        "engine.max_model_len=4096",
        "engine.max_num_seqs=8",
        f"annotation.annotators={json.dumps([{'name': name} | said for name in ('Ann', 'Ben')])}",
        f"annotation.adjudicator={json.dumps({'name': 'Jo'} | said)}",
    ]
    run, log = tmp_path / "run", tmp_path / "log"
    finish(start(run, "--preset", "import-rollouts", *overrides, "--until", "annotation", log=log), log=log)
    rows = read(run, "annotation/*/part-*.parquet")
    rejects = read(run, "annotation/*/rejects/part-*.parquet")
    assert len(rows) + len(rejects) == 4

    presets = ROOT / "mralign" / "presets"
    config = load("import-rollouts", overrides=[f"run.dir={run}", *overrides], presets_dir=presets)
    resolved, tokenizer = resolve_annotation(config), AutoTokenizer.from_pretrained(model)
    assert len(resolved.engines) == 1
    chats = {role: Recorder(annotator, tokenizer=tokenizer) for role, annotator in resolved.chats.items()}
    chat_of = lambda self, annotator: next(c for c in chats.values() if c.annotator is annotator)  # noqa: E731
    annotators = annotators_at(resolved, engine=type("Recorded", (), {"chat": chat_of})())
    again = [
        asyncio.run(annotate_row(row, resolved=resolved, opinions=Opinions(), annotators=annotators))
        for row in read(run, "candidates/*/part-*.parquet")
    ]
    kept = {row["row_id"]: row for row in again if isinstance(row, dict)}
    assert {row["row_id"]: len(row["steps"]) for row in rows} == {k: len(row["steps"]) for k, row in kept.items()}
    exchanges = [(role, *exchange) for role, chat in chats.items() for exchange in chat.exchanges]
    assert len(exchanges) >= 8
    for role, request, reply in exchanges:  # whatever it says, the schema held it
        assert reply.cached
        if reply.finish_reason == "stop":
            jsonschema.validate(json.loads(reply.text), schema_of(role, request, taxonomy=resolved.taxonomy))
    assert any(reply.finish_reason == "stop" for _, _, reply in exchanges)
    (manifest,) = (json.loads(path.read_text()) for path in run.glob("annotation/*/manifest.json"))
    counted = manifest["figures"]["annotators"]
    assert counted["Ann"]["requests"] == len(chats["first"].exchanges)
    assert counted["Ann"]["prefix_tokens"] > 0  # the instruction was computed once


def read(run, pattern):
    return [row for part in run.glob(pattern) for row in pq.read_table(part).to_pylist()]


def schema_of(role, request, *, taxonomy):
    """The schema that this request must be held to, from what its text says."""
    asked = request.messages[1].content
    if role == "adjudicator":
        return adjudication_schema(disputes=len(re.findall(r"^dispute_", asked, re.MULTILINE)), taxonomy=taxonomy)
    return annotation_schema(segments=len(re.findall(r"^\[\d+\]", asked, re.MULTILINE)), taxonomy=taxonomy)
