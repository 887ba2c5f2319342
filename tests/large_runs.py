"""What runs of 10^7 and 10^9 questions take, computed from measured unit costs, as the tables of cluster/README.md.

    python tests/large_runs.py

`tests/benchmarks/scale.jsonl` enters: what `tests/benchmarks/scale.py` printed last, a line a call. Two tables in
Markdown leave: these runs, and the paper's setting at other sizes. Each figure of the second is a product of a number
of rows and what one row took in the largest sampled run: beyond the size of that run it is arithmetic.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from transformers import Qwen3Config

from mralign.config import RunConfig, load
from mralign.plan import expected, hours, memory
from mralign.presets import PRESETS

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "tests" / "benchmarks" / "scale.jsonl"
QWEN3_8B = Qwen3Config(
    hidden_size=4096,
    intermediate_size=12288,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=151936,
)
PARAMETERS, ADAPTER = 8_190_735_360, 87_293_952  # tests/plan/test_memory.py
PEAK_FLOPS = 989e12  # of an H100 or H200 in bfloat16: no engine samples faster than this allows
# Bytes, 800 real traces of Qwen3-8B (their mean: 647 tokens of SmolLM2 a thought), 2026-11-27: a draw with and one
# without thinking in parts of 64 rows; a candidate.
DRAW_PAIR_BYTES, CANDIDATE_BYTES = 2664, 2109
KEY_BYTES = 60  # of a question in Ray's object store while repeats are found (tests/benchmarks/questions.py)
# Of the driver, 2026-11-27: for a part of a stage, its name, rows and size in memory and as it writes them; for the
# id of an answered request, at its peak, in a run that goes on (100 thousand to a million ids, run/finished.py alone).
PART_BYTES, ID_BYTES = 640, 133
STAGES_OF_QUESTIONS = ("questions",)
STAGES_OF_DRAWS = ("rollouts", "candidates")
GIB = 2**30


@dataclass(frozen=True)
class Run:
    """One measured run."""

    road: str
    size: int
    segments: int
    stages: dict[str, dict[str, float]]

    def most(self, name: str) -> float:
        return max(stage[name] for stage in self.stages.values())

    def total(self, name: str) -> float:
        return sum(stage[name] for stage in self.stages.values())


def runs() -> list[Run]:
    found: list[Run] = []
    for line in RUNS.read_text().splitlines():
        figures = json.loads(line)["figures"]
        found += [Run(run["road"], run["size"], figures["segments"], run["stages"]) for run in figures["runs"]]
    return found


SHOWN = ("questions", "rollouts", "candidates", "annotation", "weights", "signal", "examples")


def measured_table() -> str:
    names = ("road", "questions", "paragraphs", "s", "CPU s", *(f"driver: {name}" for name in SHOWN))
    names += ("worker", "files", "list calls")
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for run in sorted(runs(), key=lambda run: (run.road, run.segments, run.size)):
        cells = [run.road, f"{run.size:,}", f"{run.segments}"]
        cells += [f"{run.total(name):,.0f}" for name in ("seconds", "cpu_s")]
        cells += [f"{run.stages[name]['driver_mib']:,}" for name in SHOWN]
        cells += [f"{run.most('worker_mib'):,.0f}", f"{run.total('files'):,.0f}", f"{run.total('lists'):,.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class UnitCosts:
    """CPU seconds of a row that enters a stage, by stage, Ray's own processes among them."""

    core_s: dict[str, float]

    @classmethod
    def of(cls, run: Run) -> UnitCosts:
        return cls({name: stage["cpu_s"] / stage["rows_in"] for name, stage in run.stages.items()})


@dataclass(frozen=True)
class LargeRun:
    """What a run of so many questions takes."""

    questions: int
    requests: int
    tokens: float
    examples: float
    engine_h: float  # GPU-hours of the rollouts at the GPU's peak: no run takes less
    training_h: tuple[float, float]  # GPU-hours
    core_h: float  # CPU core-hours of all stages up to the examples, annotators being cue phrases
    storage_gib: float
    parts: int  # of the stage rollouts
    keys_gib: float
    names_gib: float  # the driver's, of the parts
    ids_gib: float  # the driver's, of the requests that are answered, when a run goes on
    reading_h: float  # of the questions, in the one process that reads a source


def large_run(questions: int, *, config: RunConfig, costs: UnitCosts) -> LargeRun:
    """The paper's setting at another size."""
    length = expected.assumed_lengths(None)
    asked = expected.of_rollouts(config, questions=questions, length=length)
    counts = expected.KnownCounts(train=questions, held_out=None, examples=None)
    examples = expected.examples_expected(config, counts=counts, shipped=None, length=length)
    shape = memory.shape_of(QWEN3_8B, parameters=PARAMETERS, trained=ADAPTER)
    assert shape is not None
    low_s, high_s = hours.training_s(config, examples=examples, shape=shape)
    parts = -(-asked.requests // config.engine.batch_size)
    pairs = questions * config.rollouts.n
    return LargeRun(
        questions=questions,
        requests=asked.requests,
        tokens=asked.tokens,
        examples=examples.number,
        engine_h=2 * PARAMETERS * asked.tokens / PEAK_FLOPS / 3600,
        training_h=(low_s * config.training.workers / 3600, high_s * config.training.workers / 3600),
        core_h=_core_s(costs, questions=questions, draws=asked.requests, candidates=examples.number) / 3600,
        storage_gib=(pairs * DRAW_PAIR_BYTES + examples.number * CANDIDATE_BYTES) / GIB,
        parts=parts,
        keys_gib=questions * KEY_BYTES / GIB,
        names_gib=parts * PART_BYTES / GIB,
        ids_gib=asked.requests * ID_BYTES / GIB,
        reading_h=questions * costs.core_s["questions"] / 3600,
    )


def _core_s(costs: UnitCosts, *, questions: int, draws: int, candidates: float) -> float:
    total = 0.0
    for name, each in costs.core_s.items():
        rows: float = candidates
        if name in STAGES_OF_QUESTIONS:
            rows = questions
        elif name in STAGES_OF_DRAWS:
            rows = draws
        elif name == "matrices":  # its rows are counts, which do not grow with the run
            rows = 0
        total += each * rows
    return total


def plan_table() -> str:
    config = load("paper", overrides=(), presets_dir=PRESETS)
    costs = UnitCosts.of(max((run for run in runs() if run.road == "sampled"), key=lambda run: run.size))
    sizes = [large_run(size, config=config, costs=costs) for size in (10**7, 10**9)]
    rows = {
        "requests to the model": [f"{one.requests:,}" for one in sizes],
        "tokens sampled": [expected.in_words(one.tokens) for one in sizes],
        "training examples": [f"{one.examples:,.0f}" for one in sizes],
        "GPU-hours of the rollouts, at least (an H100 at its peak)": [f"{one.engine_h:,.0f}" for one in sizes],
        "GPU-hours of the training": [f"{one.training_h[0]:,.0f} to {one.training_h[1]:,.0f}" for one in sizes],
        "CPU core-hours beside them, at least": [f"{one.core_h:,.0f}" for one in sizes],
        "storage, GiB": [f"{one.storage_gib:,.0f}" for one in sizes],
        "parts of `rollouts` before they are merged, one a batch of 64": [f"{one.parts:,}" for one in sizes],
        "object store for the keys of questions, GiB": [f"{one.keys_gib:,.1f}" for one in sizes],
        "driver memory for the names of these parts, GiB": [f"{one.names_gib:,.1f}" for one in sizes],
        "driver memory of a run that goes on, for what is answered, GiB": [f"{one.ids_gib:,.1f}" for one in sizes],
        "hours to read the questions, all in one file": [f"{one.reading_h:,.1f}" for one in sizes],
    }
    lines = ["| | 10⁷ questions | 10⁹ questions |", "|---|---|---|"]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(measured_table())
    print()
    print(plan_table())
