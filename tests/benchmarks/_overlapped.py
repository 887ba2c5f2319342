"""A run whose answers and labels come from slow endpoints, stages in turn or overlapped: seconds and cached prompts.

Both servers stand on loopback, and each answer takes its time. The one that labels has a prefix cache as
DeepSeek describes its own: it finds what earlier prompts of a model begin with, in steps of 64 tokens (of four
characters). What it says of cached tokens is read as from any server.
"""

import json
import time

from loopback_server import LoopbackServer, Said, body_of
from scripted_annotators import answer_to, request_of
from slow_endpoints import draw_key, sampler, settings

from mralign.config import load
from mralign.plan import pipeline
from mralign.presets import PRESETS
from mralign.rows.schema import ANNOTATIONS

STEP = 256  # characters
SAMPLED_AT_ONCE, ASKED_AT_ONCE = 8, 2
STAGES = ("rollouts", "candidates", "annotation")


class CachingPlan:
    """Answers every request, with the tokens of its prompt and those of them that an earlier prompt began with."""

    def __init__(self):
        self.seen = set()

    def __call__(self, request, attempt):
        model, texts = json.loads(request)
        text = "".join(texts)
        beginnings = [(model, text[:end]) for end in range(STEP, len(text) + 1, STEP)]
        found = 0
        while found < len(beginnings) and beginnings[found] in self.seen:
            found += 1
        self.seen.update(beginnings)
        details = {"cached_tokens": found * STEP // 4}
        usage = {"prompt_tokens": len(text) // 4, "completion_tokens": 50, "prompt_tokens_details": details}
        return Said(200, body_of(request, answer_to(request)) | {"usage": usage})


def measure(place, *, count, latency_s, overlap):
    """Wall seconds of one run to its labels, the seconds of its stages, their rows, and the share of cached tokens."""
    with (
        LoopbackServer(prompt=draw_key, answer=sampler(count), latency_s=latency_s) as sampling,
        LoopbackServer(CachingPlan(), prompt=request_of, latency_s=latency_s) as asking,
    ):
        at_once = {"sampled_at_once": SAMPLED_AT_ONCE, "asked_at_once": ASKED_AT_ONCE}
        given = settings(sampling, asking, count=count, **at_once)
        given += [f"run.dir={place}", f"run.overlap={overlap}"]
        config = load("miniworld", overrides=given, presets_dir=PRESETS)
        pipeline.run(config, pipeline.plan(config, until="questions"), start_ray=lambda: None)
        planned, began = pipeline.plan(config, until="annotation"), time.monotonic()
        ended = pipeline.run(config, planned, start_ray=lambda: None)
        wall = time.monotonic() - began
        requests = sum(asking.received.values()), sum(sampling.received.values())
    sealed = {name: pipeline.find(ended, name) for name in STAGES}
    rows = sealed["annotation"].out.read(schema=ANNOTATIONS).to_pylist()
    counted = sealed["annotation"].manifest.figures["annotators"].values()
    cached = sum(one["prefix_tokens"] for one in counted) / sum(one["prompt_tokens"] for one in counted)
    return {
        "wall_s": wall,
        "stages_s": {name: item.manifest.seconds for name, item in sealed.items()},
        "rows": sorted(rows, key=lambda row: row["row_id"]),
        "cached": cached,
        "requests": requests,
    }


def compare(work, *, count, latency_s, repeats):
    """What `measure` tells of every repeat, by way. Rows and requests must be the same both ways."""
    found = {"in turn": [], "overlapped": []}
    for number in range(repeats):
        for way, runs in found.items():
            place = f"{work}/{way.replace(' ', '-')}-{number}"
            runs.append(measure(place, count=count, latency_s=latency_s, overlap=way == "overlapped"))
        one, other = (runs[-1] for runs in found.values())
        assert one["rows"] == other["rows"] and one["rows"] and one["requests"] == other["requests"]
    return found
