"""The result as text: one benchmark or several of all kinds, and what training changed on each."""

import json

import pytest
from report.test_report import (
    BASE,
    NOW,
    OFF,
    ON,
    TRAINED,
    Item,
    Named,
    make_config,
    make_run,
    page_of,
    plain,
    seal,
    short,
)

from mralign.config import parse
from mralign.report import publish
from mralign.report.results import blocks, gains, result_text
from mralign.run.store import StageDir

TRUTH = {"kind": "truthfulqa", "truthful": 0.5, "truthful_ci": [0.4, 0.6], "informative": 0.75}
TRUTH |= {"informative_ci": [0.7, 0.8], "n": 817, "draws": 817, "judged": 815, "rejected": 2}
LONG = {"kind": "longfact", "f1": 0.625, "f1_ci": [0.6, 0.65], "precision": 0.875, "recall": 0.5, "claims_mean": 21.25}
LONG |= {"k": 24, "k_source": "base", "abstentions": 3, "n": 250, "judged": 249, "rejected": 1}
NONE = TRUTH | dict.fromkeys(("truthful", "truthful_ci", "informative", "informative_ci")) | {"judged": 0, "n": 0}
SCIQ, SCIQ_NOW = short(0.5, 0.4, 0.6, mis=(0.25, 0.2, 0.3)), short(0.375, 0.3, 0.4, mis=(0.3125, 0.3, 0.4))
MANY = {
    "base_think_off": {"nq_open": OFF},
    "base_think_on": {"nq_open": ON, "truthfulqa": TRUTH, "sciq": SCIQ, "longfact": LONG},
    "mralign": {"nq_open": NOW, "truthfulqa": NONE, "sciq": SCIQ_NOW, "longfact": LONG},
}


def cells(text):
    """Lines as cells, which three blanks part."""
    return [[cell.strip() for cell in line.split("   ") if cell.strip()] for line in text.splitlines()]


def test_one_benchmark_is_not_named():
    assert cells(result_text(BASE | TRAINED, level=0.9, label="base")) == [
        ["method", "Acc % [90% CI]", "Mis % [90% CI]", "n"],
        ["base_think_off", "22.7 [20.0, 25.0]", "–", "120"],
        ["base_think_on", "34.1 [30.0, 38.0]", "9.9 [8.0, 12.0]", "120"],
        ["mralign", "37.3 [33.0, 41.0]", "7.2 [5.0, 9.0]", "120"],
        ["mralign minus base_think_on: Acc +3.2, Mis −2.7 points"],
    ]


def test_several_benchmarks_are_named_and_each_kind_has_its_table():
    assert cells(result_text(MANY, level=0.95, label="base")) == [
        ["benchmark", "method", "Acc % [95% CI]", "Mis % [95% CI]", "n"],
        ["nq_open", "base_think_off", "22.7 [20.0, 25.0]", "–", "120"],
        ["nq_open", "base_think_on", "34.1 [30.0, 38.0]", "9.9 [8.0, 12.0]", "120"],
        ["nq_open", "mralign", "37.3 [33.0, 41.0]", "7.2 [5.0, 9.0]", "120"],
        ["sciq", "base_think_on", "50.0 [40.0, 60.0]", "25.0 [20.0, 30.0]", "120"],
        ["sciq", "mralign", "37.5 [30.0, 40.0]", "31.2 [30.0, 40.0]", "120"],
        ["nq_open: mralign minus base_think_on: Acc +3.2, Mis −2.7 points"],
        ["sciq: mralign minus base_think_on: Acc −12.5, Mis +6.2 points"],
        [],
        ["benchmark", "method", "Truth % [95% CI]", "Info % [95% CI]", "n"],
        ["truthfulqa", "base_think_on", "50.0 [40.0, 60.0]", "75.0 [70.0, 80.0]", "817"],
        ["truthfulqa", "mralign", "–", "–", "0"],
        [],
        ["benchmark", "method", "F1@K % [95% CI]", "Prec %", "Rec %", "#Claims", "n"],
        ["longfact", "base_think_on", "62.5 [60.0, 65.0]", "87.5", "50.0", "21.2", "250"],
        ["longfact", "mralign", "62.5 [60.0, 65.0]", "87.5", "50.0", "21.2", "250"],
    ]


def test_a_block_has_the_columns_of_its_kind():
    found = {block.benchmark: block for block in blocks(MANY)}
    assert list(found) == ["nq_open", "truthfulqa", "sciq", "longfact"]
    assert [row[0] for row in found["nq_open"].rows] == ["base_think_off", "base_think_on", "mralign"]
    assert dict(zip(found["longfact"].head, found["longfact"].rows[0], strict=True)) == {
        "Method": "base_think_on",
        "F1@K": "62.5 [60.0, 65.0]",
        "Prec": "87.5",
        "Rec": "50.0",
        "#Claims": "21.2",
        "K": "24 (base)",
        "Abstentions": "3",
        "Rejected": "1",
        "Questions": "250",
    }
    truth = found["truthfulqa"]
    assert dict(zip(truth.head, truth.rows[1], strict=True)) | {"Method": ""} == {
        "Method": "",
        "Truth": "–",
        "Info": "–",
        "Judged": "0",
        "Rejected": "2",
        "Questions": "0",
    }


@pytest.mark.parametrize(
    ("method", "base"),
    [
        ("kto", "own_think_on"),
        ("kto_ret", "own_think_on_ret"),
        ("kto_self_refine", "own_self_refine"),
        ("kto_think_off_ret", "own_think_off_ret"),
    ],
)
def test_a_method_is_compared_with_the_same_way_of_asking(method, base):
    names = ("own_think_off", "own_think_on", "own_self_refine", "own_think_on_ret", "own_think_off_ret")
    metrics = {name: {"d": short(number / 8, 0, 1, mis=(0.5, 0, 1))} for number, name in enumerate(names)}
    metrics[method] = {"d": short(1.0, 0, 1, mis=(0.25, 0, 1))}
    (gain,) = gains(metrics, label="own")
    assert (gain.benchmark, gain.method, gain.base) == ("d", method, base)
    points = {change.measure.key: change.points for change in gain.changes}
    assert points == {"acc": 100 * (1 - names.index(base) / 8), "mis": -25.0}


def test_there_is_no_gain_without_both_or_without_gold_answers():
    assert gains(BASE, label="base") == []
    assert gains(TRAINED, label="base") == []
    assert gains({"base_think_on": {"t": TRUTH}, "mralign": {"t": TRUTH}}, label="base") == []
    off = {"base_think_off": {"d": OFF}, "kto_think_off": {"d": OFF}}
    assert [gain.text for gain in gains(off, label="base")] == ["kto_think_off minus base_think_off: Acc +0.0 points"]


def test_the_page_has_a_block_for_each_benchmark(tmp_path):
    config, planned = make_run(tmp_path)
    for item in planned:
        if item.stage.name in ("evaluation_base", "evaluation"):
            mine = {
                name: found for name, found in MANY.items() if ("base" in name) == (item.stage.name != "evaluation")
            }
            item.out.write_text("metrics.json", json.dumps(mine))
    publish(config, planned)
    words = plain(page_of(tmp_path))
    for passage in (
        "sciq Method Acc Mis Acc, contains Mis, contains Truncated % Format failures %",
        "truthfulqa Method Truth Info Judged Rejected Questions base_think_on 50.0 [40.0, 60.0]",
        "75.0 [70.0, 80.0] 815 2 817",
        "F1@K, %, longfact higher",
        "Accuracy (Acc), sciq 37.5 % −12.5 points against base_think_on",
    ):
        assert passage in words


def test_an_evaluation_alone_ends_with_its_own_command(tmp_path):
    source = {"name": "nq_open", "path": "questions.jsonl"}
    config = parse({"run": {"dir": str(tmp_path)}, "questions": {"test": [source]}})
    item = Item(Named("evaluation_base"), StageDir(f"{tmp_path}/evaluation_base/0", stage="evaluation_base"))
    assert f"mralign evaluate --suite {tmp_path}/config.yaml   (goes on" in publish(config, [item])
    item.out.write_text("metrics.json", json.dumps(BASE))
    seal(item)
    text = publish(config, [item])
    assert "mralign evaluate" not in text and "vllm" not in text
    assert "base_think_on    34.1" in text
    assert make_config(tmp_path).evaluation.label == config.evaluation.label == "base"
