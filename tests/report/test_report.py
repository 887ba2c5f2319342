"""The report of small run directories made through the store: numbers, escaping, absent stages, the closing text."""

from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
import sys
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from report.page_words import blocks, plain, records, shown_text

from mralign.config import RunConfig, parse, to_yaml
from mralign.report import _write_page, begin, publish
from mralign.report.findings import Matrices
from mralign.report.maps import grouped, square
from mralign.report.page import Page
from mralign.report.ratios import log_ratios
from mralign.report.sections import curves
from mralign.report.wording import aligned, duration, signed, with_interval
from mralign.rows.schema import ANNOTATIONS, CANDIDATES, EDGES, MATRICES, WEIGHTS
from mralign.run.part_names import part_name
from mralign.run.store import Directory, Manifest, StageDir
from mralign.transitions.auc import Interval
from mralign.transitions.signal import Chance
from mralign.transitions.signal_noise import Noise
from mralign.transitions.signal_result import Signal
from mralign.transitions.signal_sentence import record_of

ATTACK = "<script>alert(1)</script>"
STATES = ("<start>", "framing", "retrieval", "backtracking", "<stop>")
ORDER = (
    *("questions", "rollouts", "candidates", "annotation", "counts", "matrices", "weights", "signal"),
    *("annotator_matrices", "agreement", "examples", "reference", "training", "evaluation_base", "evaluation"),
)


def short(acc: float, low: float, high: float, *, mis: tuple[float, float, float] | None = None) -> dict[str, Any]:
    value, interval = (None, None) if mis is None else (mis[0], [mis[1], mis[2]])
    figures = {"kind": "short_answer", "acc": acc, "acc_ci": [low, high], "mis": value, "mis_ci": interval, "n": 120}
    figures |= {"acc_contains": acc + 0.01, "acc_contains_ci": [low + 0.01, high + 0.01], "draws": 240}
    figures |= {"mis_contains": value, "mis_contains_ci": interval}
    shares = {"invalid_share": 0.0375, "truncated_share": 0.025, "format_failure_share": 0.0125}
    return figures | shares | {"thought_tokens_mean": None if mis is None else 1234.5}


OFF, ON = short(0.2266, 0.2, 0.25), short(0.341, 0.3, 0.38, mis=(0.0989, 0.08, 0.12))
NOW = short(0.3734, 0.33, 0.41, mis=(0.072, 0.05, 0.09))
BASE = {"base_think_off": {"nq_open": OFF}, "base_think_on": {"nq_open": ON}}
TRAINED = {"mralign": {"nq_open": NOW}}


@dataclass(frozen=True)
class Named:
    name: str


@dataclass(frozen=True)
class Item:
    """Shaped like pipeline.Planned; `manifest` is stale on purpose."""

    stage: Named
    out: StageDir
    manifest: Manifest | None = None


def make_config(home: Path, *, test: str = "nq_open") -> RunConfig:
    source = {"path": "questions.jsonl"}
    return parse(
        {
            "run": {"dir": str(home)},
            "questions": {"train": [{"name": "nq_open", **source}], "test": [{"name": test, **source}]},
        }
    )


def make_plan(home: Path, *, until: str = "evaluation") -> dict[str, Item]:
    names = ORDER[: ORDER.index(until) + 1]
    marks = {name: f"{name[:4]}0123" for name in names}
    return {
        name: Item(Named(name), StageDir(f"{home}/{name}/{mark}", stage=name, fingerprint=mark))
        for name, mark in marks.items()
    }


def seal(item: Item, *, figures: dict[str, Any] | None = None, rejects: dict[str, int] | None = None) -> None:
    out, versions = item.out, {"pyarrow": "26"}
    out.seal(Manifest(out.stage, out.fingerprint, {}, {}, {}, 40, 30, rejects or {}, 1.5, versions, figures or {}))


def candidate(question: str, *, polarity: int, thought: str = "First.\n\nThen.") -> dict[str, Any]:
    text = f"<think>{thought}</think>The answer {ATTACK}"
    middle = text.index("\n\n") + 2
    return {
        "row_id": f"{question}/on/0",
        "question_id": question,
        "dataset": "nq_open",
        "question": f"Who is {question}? {ATTACK}",
        "answers": ["A & B"],
        "polarity": polarity,
        "prompt_token_ids": [1],
        "token_ids": [2],
        "text": text,
        "thought_start": 7,
        "thought_end": text.index("</think>"),
        "segment_start": [7, middle],
        "segment_end": [middle, text.index("</think>")],
        "em_thought": True,
        "em_answer": polarity > 0,
    }


def step(segment: int, *, labels: list[str], rule: str) -> dict[str, Any]:
    return {
        "first_segment": segment,
        "last_segment": segment,
        "labels": labels,
        "confidences": [9.0] * len(labels),
        "rule": rule,
        "labels_a": labels,
        "labels_b": labels,
    }


def funnel_row(name: str, *, rows_in: int, rows_out: int, polarity: int | None = None) -> dict[str, Any]:
    unit = "questions" if polarity is None or name == "verdict" else "trajectories"
    row = {"dataset": "nq_open", "filter": name, "polarity": polarity, "unit": unit}
    return row | {"rows_in": rows_in, "rows_out": rows_out}


def fill_candidates(item: Item) -> None:
    rows = [
        candidate("p1", polarity=1, thought=f"First {ATTACK}.\n\nThen."),
        candidate("p2", polarity=1),
        candidate("p3", polarity=1),
        candidate("n1", polarity=-1),
    ]
    for number, row in enumerate(rows):
        table = pa.Table.from_pylist([row], schema=CANDIDATES)
        item.out.commit(part_name(f"{number}"), table, schema=CANDIDATES)
    funnel = [
        funnel_row("not_generated", rows_in=40, rows_out=40),
        funnel_row("undecided", rows_in=40, rows_out=9),
        funnel_row("verdict", rows_in=9, rows_out=6, polarity=1),
        funnel_row("few_segments", rows_in=6, rows_out=3, polarity=1),
        funnel_row("kept", rows_in=3, rows_out=3, polarity=1),
        funnel_row("verdict", rows_in=9, rows_out=3, polarity=-1),
        funnel_row("kept", rows_in=1, rows_out=1, polarity=-1),
    ]
    seal(item, figures={"funnel": funnel}, rejects={"undecided": 31})


def fill_annotation(item: Item) -> None:
    full = [
        step(0, labels=["framing", "retrieval"], rule="equal"),
        step(1, labels=["backtracking"], rule="adjudicated"),
    ]
    bare = [step(0, labels=["framing"], rule="equal"), step(1, labels=[], rule="unlabelled")]
    sides = {"p1": (1, full), "p2": (1, bare), "p3": (1, bare), "n1": (-1, bare)}
    rows = [
        {"row_id": f"{q}/on/0", "question_id": q, "dataset": "nq_open", "polarity": side, "steps": found}
        for q, (side, found) in sides.items()
    ]
    item.out.commit(part_name("0"), pa.Table.from_pylist(rows, schema=ANNOTATIONS), schema=ANNOTATIONS)
    seal(item, rejects={"invalid_annotation": 2})


def agreement_entry(pair: list[str], *, strict: float, mean_l1: float | None) -> dict[str, Any]:
    fine = {"strict": strict, "entail": 0.75, "chance": 0.3125, "kappa_strict": -0.25, "kappa_entail": 0.6364}
    macro = {"strict": 1.0, "entail": 1.0, "chance": 1.0, "kappa_strict": None, "kappa_entail": None}
    return {"pair": pair, "steps": 1234, "unlabelled": 5, **fine, "macro": macro, "mean_l1": mean_l1}


def fill_agreement(item: Item) -> None:
    pairs = [
        agreement_entry(["strict <b>", "gpt"], strict=0.5, mean_l1=0.01234),
        agreement_entry(["gpt", "human"], strict=0.25, mean_l1=None),
    ]
    seal(item, figures={"pairs": pairs})


def fill_matrices(item: Item) -> None:
    K = len(STATES)
    for name, first in (("all", 0.4), ("positive", 0.8), ("negative", 0.1)):
        P = np.full((K, K), (1 - first) / (K - 2))
        P[:, 1], P[:, 0], P[4] = first, 0.0, np.eye(K)[4]
        source, target = np.meshgrid(STATES, STATES, indexing="ij")
        columns = {"matrix": [name] * K**2, "source": source.ravel(), "target": target.ravel()}
        drawn = {"standard_error": [0.0625] * K**2, "replicates": [[]] * K**2}
        table = pa.table({**columns, "probability": P.ravel(), "responsibility": 10 * P.ravel(), **drawn})
        item.out.commit(part_name(name), table, schema=MATRICES)
    fit = {"iterations": 5, "converged": False, "log_likelihood": [-210.5, -198.25], "transitions": 77}
    seal(item, figures={"all": fit, "positive": fit, "negative": fit})


def fill_weights(item: Item) -> None:
    rows = [{"row_id": "p1/on/0", "polarity": 1, "step_weights": [2.5, 0.41]}]
    item.out.commit(part_name("0"), pa.Table.from_pylist(rows, schema=WEIGHTS), schema=WEIGHTS)
    edge = {"level": "sets", "polarity": 1, "source": "framing", "target": "retrieval", "count": 17.0, "ratio": 3.14159}
    edge |= {"ratio_standard_error": 0.5, "weight": math.e, "weight_standard_error": 0.1, "clipped": True}
    rows = [
        edge | {"band": "high"},
        edge | {"source": "retrieval", "ratio": 0.25, "ratio_standard_error": None, "band": "low"},
        edge | {"source": "backtracking", "ratio": 9.0, "count": 1.0, "band": "none"},  # too rare to be shown
        edge | {"level": "states", "target": "framing", "ratio": 2.0, "band": "high"},
        edge | {"level": "states", "target": "backtracking", "ratio": 0.3, "band": "low"},
    ]
    below = StageDir(f"{item.out.uri}/edges")
    below.commit(part_name("all"), pa.Table.from_pylist(rows, schema=EDGES), schema=EDGES)
    summary = {"steps": {"1": 60, "-1": 20}, "clipped": {"1": 0.125, "-1": 0.0}, "mean": {"1": 1.234, "-1": 0.9}}
    seal(item, figures={"summary": summary})


SIGNAL = Signal(
    trajectories={"positive": 30, "negative": 10},
    questions={"positive": 30, "negative": 10},
    folds=10,
    auc={name: Interval(auc, auc - 0.1, auc + 0.1) for name, auc in (("transitions", 0.78), ("frequencies", 0.56))}
    | {"segments": Interval(0.52, 0.42, 0.62)},
    length="segments",
    over_length=Interval(0.26, 0.1, 0.4),
    over_frequencies=Interval(0.22, 0.1, 0.3),
    null=Chance(0.78, mean=0.5, low=0.4, high=0.6, p=0.005, draws=199),
    shuffled=Chance(0.78, mean=0.57, low=0.5, high=0.64, p=0.01, draws=99),
    noise=Noise(edges=87, not_told=61, told_share=0.42, effective=12.34),
)


def fill_signal(item: Item) -> None:
    seal(item, figures=record_of(SIGNAL))


def fill_training(item: Item) -> None:
    keys = ("loss", "reward_chosen", "reward_rejected", "margin", "z0", "grad_norm", "learning_rate")
    rows = [{"step": s, "of": 3, **{key: 0.1 * s + place for place, key in enumerate(keys)}} for s in (1, 2, 3)]
    item.out.write_text("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    chosen = {"memory": "26GiB", "micro_batch_tokens": 8192, "gradient_checkpointing": "selective"}
    seal(item, figures={"steps": 3, "last": rows[-1], "memory": chosen})


def make_run(home: Path, *, until: str = "evaluation") -> tuple[RunConfig, list[Item]]:
    plan = make_plan(home, until=until)
    fillers = {
        "candidates": fill_candidates,
        "annotation": fill_annotation,
        "agreement": fill_agreement,
        "matrices": fill_matrices,
        "weights": fill_weights,
        "signal": fill_signal,
        "training": fill_training,
    }
    for name, item in plan.items():
        if name in ("evaluation_base", "evaluation"):
            item.out.write_text("metrics.json", json.dumps(BASE if name == "evaluation_base" else TRAINED))
        fillers.get(name, seal)(item)
    return make_config(home), list(plan.values())


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """(directory, page, closing text) of a complete run."""
    home = tmp_path_factory.mktemp("run") / "small"
    text = publish(*make_run(home))
    return home, page_of(home), text


def page_of(home: Path) -> str:
    return (home / "report" / "index.html").read_text(encoding="utf-8")


def test_metrics_of_both_stages_are_merged_base_first(complete: tuple[Path, str, str]) -> None:
    metrics = json.loads((complete[0] / "evaluation" / "metrics.json").read_text())
    assert metrics == {**BASE, **TRAINED}
    assert list(metrics) == ["base_think_off", "base_think_on", "mralign"]
    assert json.loads((complete[0] / "evaluation" / "index.json").read_text()) == {
        "base_think_off": "evaluation_base/eval0123",
        "base_think_on": "evaluation_base/eval0123",
        "mralign": "evaluation/eval0123",
    }


def test_page_holds_the_numbers_of_every_stage(complete: tuple[Path, str, str]) -> None:
    words = plain(complete[1])
    for passage in (
        "mralign 37.3 [33.0, 41.0] 7.2 [5.0, 9.0]",
        "base_think_off 22.7 [20.0, 25.0] – 23.7 [21.0, 26.0] – 2.5 1.2 – 120",
        "base_think_on 34.1 [30.0, 38.0] 9.9 [8.0, 12.0] 35.1 [31.0, 39.0] 9.9 [8.0, 12.0] 2.5 1.2 1 234.5 120",
        "Gain by stratum the untrained model was not asked to think on a benchmark with gold answers",
        "How thinking changed stage thoughts_matrices_base is not part of this plan",
        "+3.2 points against base_think_on",
        "nq_open undecided – questions 40 9",
        "framing 3 1",
        "backtracking 1 0",
        "equal 4 50.0",
        "adjudicated 1 12.5",
        "unlabelled 3 37.5",
        "strict <b> – gpt labels 1 234 5 50.0 75.0 0.312 −0.250 0.636 1.23 macro 100.0 100.0 1.000 – –",
        "gpt – human labels 1 234 5 25.0 75.0 0.312 −0.250 0.636 – macro 100.0 100.0 1.000 – –",
        "strict, macro 48.4 % κ 0.294 entail, macro 97.8 % κ 0.970 mean ℓ1 between matrices 1.0–1.3 %",
        "Raised most From To Polarity Count Ratio framing retrieval positive 17 3.14 ± 0.50",
        "Lowered most From To Polarity Count Ratio retrieval retrieval positive 17 0.25",
        "positive 60 1.234 12.5",
        "annotation invalid_annotation 2 5.0",
        "candidates undecided 31 –",
        "questions ques0123 40 30",
        "P, all 77 5 no -198.2",
    ):
        assert passage in words
    P = blocks(complete[1], "transitions", "square")[0]
    row, column = P["states"].index("framing"), P["states"].index("retrieval")
    found = [P[name][row][column] for name in ("values", "errors", "support")]
    assert found == pytest.approx([0.6 / 3 / 3, 0.0625, 2 / 3], rel=1e-3) or found == [0.2, 0.0625, 2.0]


def test_a_rare_transition_is_not_among_the_raised_ones(complete: tuple[Path, str, str]) -> None:
    assert "backtracking retrieval positive" not in plain(complete[1])


def test_weight_maps_frame_the_bands(complete: tuple[Path, str, str]) -> None:
    positive = blocks(complete[1], "transitions", "square")[3]
    states = positive["states"]
    banded = {}
    for source, row in zip(states, positive["bands"], strict=True):
        for target, band in zip(states, row, strict=True):
            if band != "none":
                banded[source, target] = band
    assert banded == {("framing", "framing"): "high", ("framing", "backtracking"): "low"}
    place = states.index("framing")
    assert positive["values"][place][place] == pytest.approx(1.0)  # log2 of 0.8 / 0.4
    assert positive["values"][place][states.index("backtracking")] is None  # too rare
    assert positive["errors"][place][place] == 0.5


def test_every_trajectory_is_in_the_page_with_its_labels_and_weights(complete: tuple[Path, str, str]) -> None:
    found = {record["row_id"]: record for record in records(complete[1])}
    kept = ["p1/on/0", "p2/on/0", "p3/on/0", "n1/on/0"]
    assert list(found) == kept
    assert [found[row_id]["outcome"] for row_id in kept] == ["positive"] * 3 + ["negative"]
    first, second = found["p1/on/0"]["sides"][0]["steps"]
    assert (first["labels"], first["rule"], first["weight"]) == (["framing", "retrieval"], "equal", 2.5)
    assert (second["labels"], second["rule"], second["weight"]) == (["backtracking"], "adjudicated", 0.41)
    assert "weight" not in found["p2/on/0"]["sides"][0]["steps"][0]
    assert shown_text(found["p1/on/0"]).split("\n") == [f"First {ATTACK}.", "Then.", f"The answer {ATTACK}"]


def test_no_text_of_a_model_becomes_a_tag(complete: tuple[Path, str, str]) -> None:
    page = complete[1]
    assert ATTACK not in page and "<start>" not in page.partition("<script>")[0]
    assert page.count("<script") == page.count("</script>") == 3  # the data, one chunk of trajectories, the script
    assert records(page)[0]["question"] == f"Who is p1? {ATTACK}"


def test_the_page_loads_nothing_and_runs_nothing_but_its_own_script(complete: tuple[Path, str, str]) -> None:
    page = complete[1]
    assert not re.search(r"<[^>]+ (src|href)=\"(?!#)", page.partition("<script")[0])
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    rules = dict(rule.split(" ", 1) for rule in policy.replace("&#39;", "'").split("; "))
    for name, tag in (("script-src", "script"), ("style-src", "style")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
        assert rules[name] == f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert rules["default-src"] == "'none'" and rules["require-trusted-types-for"] == "'script'"


@pytest.mark.parametrize(
    ("match", "words"),
    [
        ("exact", "An answer is right if it equals a gold one. Percent"),
        ("contains", "An answer is right if it holds a gold one. Percent"),
        ("paper", "An answer is right if it equals a gold one after thinking, or holds one without. Percent"),
    ],
)
def test_page_says_how_answers_are_matched(tmp_path: Path, match: str, words: str) -> None:
    config, planned = make_run(tmp_path)
    evaluation = config.evaluation.model_copy(update={"match": match})
    publish(config.model_copy(update={"evaluation": evaluation}), planned)
    assert words in plain(page_of(tmp_path))


def test_what_was_chosen_by_memory_stands_with_the_training(complete: tuple[Path, str, str]) -> None:
    shown = plain(complete[1])
    assert "gradient checkpointing selective" in shown and "memory 26gib" in shown


def test_published_figures_stand_only_beside_their_data_set(complete: tuple[Path, str, str], tmp_path: Path) -> None:
    assert "MR-ALIGN (published, Qwen3-8B) 37.34 7.20 – – – – – –" in plain(complete[1])
    _, planned = make_run(tmp_path)
    for item in planned:
        if item.stage.name in ("evaluation_base", "evaluation"):
            methods = BASE if item.stage.name == "evaluation_base" else TRAINED
            renamed = {name: {"miniworld": found["nq_open"]} for name, found in methods.items()}
            item.out.write_text("metrics.json", json.dumps(renamed))
    publish(make_config(tmp_path, test="miniworld"), planned)
    assert "miniworld" in plain(page_of(tmp_path)) and "MR-ALIGN (published" not in plain(page_of(tmp_path))


def test_closing_text_has_the_table_and_the_places(complete: tuple[Path, str, str]) -> None:
    home, _, text = complete
    rows = text.splitlines()
    assert rows[0].split() == ["method", "Acc", "%", "[95%", "CI]", "Mis", "%", "[95%", "CI]", "n"]
    assert rows[1].split() == ["base_think_off", "22.7", "[20.0,", "25.0]", "–", "120"]
    assert rows[3].split() == ["mralign", "37.3", "[33.0,", "41.0]", "7.2", "[5.0,", "9.0]", "120"]
    assert len({row.index("120") for row in rows[1:4]}) == 1
    assert rows[4] == "mralign minus base_think_on: Acc +3.2, Mis −2.7 points"
    assert f"report    {home}/report/index.html" in rows
    assert f"adapter   {home}/training/trai0123/adapter" in rows
    assert f"vllm serve {home}/training/trai0123/model" in text
    assert "mralign align" not in text


def test_a_run_until_annotation_leaves_sections_out_and_says_so(tmp_path: Path) -> None:
    text = publish(*make_run(tmp_path, until="annotation"))
    words = plain(page_of(tmp_path))
    assert "Transitions stage matrices is not part of this plan" in words
    assert "Result stage evaluation_base is not part of this plan" in words
    (first, *_) = records(page_of(tmp_path))[0]["sides"][0]["steps"]
    assert first["rule"] == "equal" and "weight" not in first
    assert not (tmp_path / "evaluation").exists()
    assert "stages done: questions, rollouts, candidates, annotation" in text
    assert f"mralign align --preset {tmp_path}/config.yaml" in text
    assert "vllm" not in text


def test_what_the_annotators_did_is_shown_once_the_stage_writes_it(
    complete: tuple[Path, str, str], tmp_path: Path
) -> None:
    bare = plain(complete[1])
    assert "Prompt tokens" not in bare and "went to the adjudicator" not in bare and "Escalated" not in bare
    config, planned = make_run(tmp_path, until="agreement")
    spent = {"requests": 1200, "repaired": 7, "rejected": 2, "prompt_tokens": 98765, "completion_tokens": 4321}
    figures = {
        "annotators": {"gpt <b>": {**spent, "money": 0.12345}, "cues": dict.fromkeys([*spent, "money"], 0)},
        "adjudicated": 0.125,
        "by_label": {"framing": {"proposed_first": 31, "proposed_second": 29, "final": 33, "escalated": 4}},
    }
    seal(next(item for item in planned if item.stage.name == "annotation"), figures=figures)
    human = StageDir(f"{tmp_path}/human_labels/0123", stage="human_labels", fingerprint="0123")
    publish(config, [*planned, Item(Named("human_labels"), human)])
    words = plain(page_of(tmp_path))
    assert "gpt <b> 1 200 7 2 98 765 4 321 0.1235 cues 0 0 0 0 0 0" in words
    assert "12.5 % of the steps went to the adjudicator." in words
    assert "Label First annotator Second annotator Final Escalated framing 31 29 33 4" in words
    assert "The human's labels of" not in words  # that stage is planned, not finished
    seal(Item(Named("human_labels"), human))
    publish(config, [*planned, Item(Named("human_labels"), human)])
    assert "The human's labels of 30 of 40 given trajectories are in use;" in plain(page_of(tmp_path))


def test_a_labeller_and_a_cascade_have_their_place(complete: tuple[Path, str, str], tmp_path: Path) -> None:
    assert "Labellers, on questions held out" not in plain(complete[1]) and "Cascade" not in plain(complete[1])
    config, planned = make_run(tmp_path, until="annotation")
    own = {"strict": [0.556, 0.536, 0.571], "entail": [0.787, 0.77, 0.8], "kappa_entail": None}
    both = {"strict": [0.682, 0.67, 0.694], "entail": [0.886, 0.88, 0.89], "kappa_entail": [0.8, 0.7, 0.9]}
    agreement = [
        {
            "pair": ["labeller", "panel"],
            **own,
            "kappa_strict": [-0.537, -0.6, 0.5],
            "mean_l1": [0.0155, 0.0133, 0.0176],
        },
        {"pair": ["<b>", "Ben"], **both, "kappa_strict": [0.667, 0.6, 0.7], "mean_l1": None},
    ]
    told = {"trajectories": 800, "questions": 790, "agreement": agreement, "weight_change": [0.076, 0.061, 0.091]}
    figures = {
        "annotators": {"Ann": {"requests": 3, "money": 0.25}, "Ben": {"requests": 3, "money": 0.5}},
        "labellers": {"cascade": told},
        "cascade": {"asked": 30, "left": 90},
    }
    seal(next(item for item in planned if item.stage.name == "annotation"), figures=figures)
    publish(config, planned)
    words = plain(page_of(tmp_path))
    first = (
        "cascade 800 labeller – panel 55.6 [53.6, 57.1] 78.7 [77.0, 80.0] −0.537 [−0.600, 0.500] – 1.55 [1.33, 1.76]"
    )
    assert f"{first} 0.076 [0.061, 0.091]" in words
    assert "<b> – Ben 68.2 [67.0, 69.4] 88.6 [88.0, 89.0] 0.667 [0.600, 0.700] 0.800 [0.700, 0.900] –" in words
    assert "Trajectories that the panel was asked about 30 of 120, 25.0 %" in words
    assert "Money for the panel's replies 0.75" in words
    assert "About all of them it would be, at the same price 3" in words


def test_costs_are_found_wherever_a_stage_counts_them(tmp_path: Path) -> None:
    config, planned = make_run(tmp_path)
    named = {item.stage.name: item for item in planned}
    rollouts = {
        "completion_tokens": 1234,
        "engine_start_s": 61.0,
        "endpoint": {"requests": 7, "prompt_tokens": 200, "prefix_tokens": 50, "money": 0.25, "odd": "x"},
    }
    seal(named["rollouts"], figures=rollouts)
    seal(named["reference"], figures={"blocks": 3, "by": {"money": None}})
    publish(config, planned)
    (table,) = blocks(page_of(tmp_path), "costs", "grid")
    assert table["rows"] == [
        ["rollouts", "–", "–", "–", "–", "1\u2009234", "–", "1 min 01 s", "–"],
        ["rollouts", "endpoint", "7", "200", "25.0", "–", "0.25", "–", "–"],
    ]


def test_the_signal_check_is_shown_with_its_sentence(complete: tuple[Path, str, str]) -> None:
    (table,) = blocks(complete[1], "signal", "grid")
    assert table["rows"] == [
        ["transitions, mean", ".78", " .68 to  .88"],
        ["label frequencies", ".56", " .46 to  .66"],
        ["thought length, segments", ".52", " .42 to  .62"],
        ["labels in random order", ".57", " .50 to  .64   p = 0.010 of 99 shuffles"],
        ["polarity permuted", ".50", " .40 to  .60   p = 0.005 of 199 permutations"],
    ]
    words = plain(complete[1])
    assert "61 of 87 weights cannot be told from 1; held-out AUC .78 (.68 to .88)" in words
    assert "Weights: 87 edges, 61 cannot be told from 1; the others carry 42% of what the weights change" in words


def test_a_signal_of_too_few_questions_is_a_sentence_alone(tmp_path: Path) -> None:
    config, planned = make_run(tmp_path)
    few = Signal({"positive": 9, "negative": 1}, {"positive": 9, "negative": 1})
    seal(next(item for item in planned if item.stage.name == "signal"), figures=record_of(few))
    publish(config, planned)
    assert blocks(page_of(tmp_path), "signal", "grid") == []
    assert "nothing can be said of the signal: at least 2 of each are needed." in plain(page_of(tmp_path))


def test_no_pair_is_said_in_words(tmp_path: Path) -> None:
    config, planned = make_run(tmp_path, until="agreement")
    seal(planned[-1], figures={"pairs": []})
    publish(config, planned)
    assert "No two annotators have a step in common." in plain(page_of(tmp_path))


def test_an_unfinished_stage_is_named_and_the_base_alone_is_reported(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    plan["evaluation_base"].out.write_text("metrics.json", json.dumps(BASE))
    seal(plan["evaluation_base"])
    plan["evaluation"].out.write_text("metrics.json", json.dumps(TRAINED))  # written, but the stage is not sealed
    text = publish(make_config(tmp_path), list(plan.values()))
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text()) == BASE
    assert "Training stage training is not finished yet" in plain(page_of(tmp_path))
    assert "base_think_on" in text and "37.3" not in text and "mralign align" in text


def test_candidates_without_annotation_show_bare_segments(tmp_path: Path) -> None:
    publish(*make_run(tmp_path, until="candidates"))
    steps = [record["sides"][0]["steps"] for record in records(page_of(tmp_path))]
    assert len(steps) == 4
    assert all([step["segments"] for step in own] == [[["First."]], [["Then."]]] for own in steps[1:])
    assert not any("labels" in step for own in steps for step in own)


def test_files_of_an_older_page_go_and_no_others(tmp_path: Path) -> None:
    home = Directory(str(tmp_path))
    _write_page(home, Page("first", {"data/a.js": "1", "data/b.js": "2"}))
    (tmp_path / "report" / "own.txt").write_text("kept")
    _write_page(home, Page("second", {"data/b.js": "2", "data/c.js": "3"}))
    left = {str(path.relative_to(tmp_path / "report")) for path in (tmp_path / "report").rglob("*") if path.is_file()}
    assert left == {"index.html", "own.txt", "data/b.js", "data/c.js"}
    _write_page(home, Page("third", {}))
    assert [path.name for path in (tmp_path / "report").rglob("*.js")] == []
    assert (tmp_path / "report" / "index.html").read_text() == "third"


def test_the_same_run_gives_the_same_page(complete: tuple[Path, str, str]) -> None:
    home, page, text = complete
    assert publish(*make_run(home)) == text
    assert page_of(home) == page


def files_of(home: Path) -> dict[str, bytes]:
    """What a report has written in a directory."""
    names = ("config.yaml", "report/index.html", "evaluation/config.yaml", "evaluation/metrics.json")
    return {name: (home / name).read_bytes() for name in (*names, "evaluation/table.md") if (home / name).exists()}


def with_level(config: RunConfig, level: float) -> RunConfig:
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"level": level})})


def test_a_run_that_is_not_finished_leaves_the_page_of_a_finished_one_alone(tmp_path: Path) -> None:
    config, planned = make_run(tmp_path)
    begin(config)
    assert (tmp_path / "config.yaml").read_text() == to_yaml(config)
    publish(config, planned)
    before = files_of(tmp_path)
    assert len(before) == 5 and before["config.yaml"] == before["evaluation/config.yaml"]
    begin(config)  # the same command again
    assert not (tmp_path / "unfinished").exists()

    other = with_level(config, 0.5)
    begin(other)  # and is killed
    assert files_of(tmp_path) == before
    assert files_of(tmp_path / "unfinished") == {"config.yaml": to_yaml(other).encode()}
    left = Item(Named("training"), StageDir(f"{tmp_path}/training/other", stage="training", fingerprint="other"))
    text = publish(other, [*planned[:4], left])  # --until annotation
    assert files_of(tmp_path) == before
    assert set(files_of(tmp_path / "unfinished")) == {"config.yaml", "report/index.html"}
    assert f"report   {tmp_path}/unfinished/report/index.html" in text
    assert f"mralign align --preset {tmp_path}/unfinished/config.yaml" in text

    publish(other, planned)  # it is finished: its page takes the place of the other
    after = files_of(tmp_path)
    assert after["config.yaml"] == after["evaluation/config.yaml"] == to_yaml(other).encode()
    assert after["report/index.html"] != before["report/index.html"]
    assert not (tmp_path / "unfinished").exists()


def test_the_same_configuration_with_another_input_is_another_run_that_is_not_finished(tmp_path: Path) -> None:
    config, planned = make_run(tmp_path)
    publish(config, planned)
    before = files_of(tmp_path)
    anew = Item(Named("questions"), StageDir(f"{tmp_path}/questions/other", stage="questions", fingerprint="other"))
    publish(config, [anew])
    assert files_of(tmp_path) == before
    assert (tmp_path / "unfinished" / "report" / "index.html").exists()


def test_unfinished_runs_share_a_page_and_none_lies_beside_the_configuration_of_another(tmp_path: Path) -> None:
    config, planned = make_run(tmp_path, until="candidates")
    left = Item(Named("training"), StageDir(f"{tmp_path}/training/other", stage="training", fingerprint="other"))
    publish(config, [*planned, left])
    other = with_level(config, 0.5)
    begin(other)
    assert (tmp_path / "config.yaml").read_text() == to_yaml(config)
    publish(other, [*planned, left])
    assert (tmp_path / "config.yaml").read_text() == to_yaml(other)
    assert not (tmp_path / "unfinished").exists()


def test_the_room_imports_nothing_heavy() -> None:
    heavy = "{'ray', 'torch', 'vllm', 'transformers', 'matplotlib'}"
    code = f"import sys, mralign.report; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_log_ratios_are_clipped_and_rare_edges_are_empty() -> None:
    P = {"all": np.array([[0.1, 0.4, 0.5]]), "positive": np.array([[0.8, 0.2, 0.0]])}
    found = Matrices(("a", "b", "c"), P, {"positive": np.array([[4.0, 0.5, 0.0]])}, {})
    ratio = log_ratios(found, "positive", anchor="all", bounds=(-1.0, 2.0))
    assert ratio[0, 0] == 2.0
    assert np.isnan(ratio[0, 1:]).all()


def test_states_of_a_macro_strategy_stand_side_by_side_between_start_and_stop() -> None:
    macro = {"a": "Upper", "b": "Lower", "c": "Upper"}
    shown = grouped(("<start>", "a", "b", "c", "d", "<stop>"), macro=macro)
    assert shown.states == ("<start>", "a", "c", "b", "d", "<stop>")
    assert shown.groups == ("", "Upper", "Upper", "Lower", "other", "")
    values = np.arange(36.0).reshape(6, 6)
    values[1, 2] = math.nan
    drawn = square(values, support_KK=values, shown=shown, title="t", scale="share")
    assert drawn.values[2][3] == values[3, 2]  # c -> b
    assert drawn.values[1][3] is None  # a -> b


def test_a_figure_that_some_steps_lack_is_drawn_where_it_is() -> None:
    """Batches of one class have no margin: the first lacks it, and the last."""
    given: list[dict[str, Any]] = [{}, {"margin": 4.0}, {"margin": 6.0}, {}]
    history = [{"step": step, "loss": 1.0, "z0": 0.0, **more} for step, more in enumerate(given, 1)]
    found = {drawn.title: {line.name: (line.x, line.y) for line in drawn.series} for drawn in curves(history)}
    assert found == {
        "Loss": {"loss": ([1, 2, 3, 4], [1.0] * 4)},
        "Margin and z0": {"margin": ([2, 3], [4.0, 6.0]), "z0": ([1, 2, 3, 4], [0.0] * 4)},
    }


def test_numbers_as_text() -> None:
    assert with_interval(0.3734, [0.33, 0.41]) == "37.3 [33.0, 41.0]"
    assert with_interval(None, None) == "–"
    assert signed(-1.44) == "−1.4"
    assert [duration(s) for s in (1.5, 245, 7620)] == ["1.5 s", "4 min 05 s", "2 h 07 min"]
    assert aligned([("a", "b"), ("long", "c")]) == "a      b\nlong   c"


def test_before_there_is_an_evaluation_the_funnels_are_printed(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, until="rollouts")
    row = {"split": "train", "dataset": "nq_open", "records": 40, "kept": 36}
    dropped = {"duplicate_question": 3, "in_evaluation_split": 1}
    seal(plan["questions"], figures={"funnel": [{**row, "dropped": dropped}, {**row, "dataset": "b", "dropped": {}}]})
    lines_shown = publish(make_config(tmp_path), list(plan.values())).splitlines()
    cells = [re.split(r"\s{3,}", line) for line in lines_shown]
    assert ["train", "nq_open", "40", "duplicate_question 3, in_evaluation_split 1", "36"] in cells
    assert ["train", "b", "40", "–", "36"] in cells
    assert "train nq_open 40 duplicate_question 3, in_evaluation_split 1 36" in plain(page_of(tmp_path))


def test_the_funnel_of_the_candidates_is_printed(tmp_path: Path) -> None:
    lines_shown = publish(*make_run(tmp_path, until="candidates")).splitlines()
    assert ["nq_open", "questions in", "40"] in [re.split(r"\s{3,}", line) for line in lines_shown]
