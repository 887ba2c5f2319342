"""The result as tables for a paper: what stands where, what is bold, what is escaped; by hand."""

import json
import re

import pytest

from mralign.report.result_tables import comparison_sheet, result_sheet, result_table, to_json, write_tables
from mralign.report.sheets import Cell, Sheet, escape_latex, to_latex, to_markdown, to_text
from mralign.run.store import Directory


def short(acc, mis=None):
    return {
        "kind": "short_answer",
        "acc": acc,
        "acc_ci": [acc - 0.02, acc + 0.02],
        "mis": mis,
        "mis_ci": None if mis is None else [mis - 0.01, mis + 0.01],
        "n": 240,
    }


METRICS = {
    "base_think_off": {"nq_open": short(0.2266), "tqa": {"kind": "truthfulqa", "truthful": 0.5, "informative": 0.9}},
    "base_think_on": {"nq_open": short(0.3410, 0.0989)},
    "MR-ALIGN": {
        "nq_open": short(0.3412, 0.0720),
        "tqa": {"kind": "truthfulqa", "truthful": 0.625, "informative": 0.875, "truthful_ci": [0.5, 0.75]},
        "facts": {"kind": "longfact", "f1": 0.4567, "f1_ci": [0.4, 0.5], "claims_mean": 21.34, "k": 18},
    },
}
COMPARISON = {
    "method": "KTO",
    "reference": "MR-ALIGN",
    "dataset": "nq_open",
    "measure": "acc",
    "a": 0.3,
    "b": 0.35,
    "difference": -0.05,
    "ci": (-0.08, -0.02),
    "p": 0.0004,
    "p_holm": 0.021,
    "n": 100,
    "only_a": 0,
    "only_b": 3,
}


def test_a_column_is_a_measure_of_a_benchmark_in_percent():
    table = result_table(METRICS)
    assert [(c.benchmark, c.measure.title) for c in table.columns] == [
        ("nq_open", "Acc"),
        ("nq_open", "Mis"),
        ("tqa", "Truth"),
        ("tqa", "Info"),
        ("facts", "F1@18"),
        ("facts", "#Claims"),
    ]
    assert {row.method: [value.text for value in row.values] for row in table.rows} == {
        "base_think_off": ["22.7", "–", "50.0", "90.0", "–", "–"],
        "base_think_on": ["34.1", "9.9", "–", "–", "–", "–"],
        "MR-ALIGN": ["34.1", "7.2", "62.5", "87.5", "45.7", "21.3"],
    }


def test_the_best_as_printed_is_marked_with_its_ties_and_less_misalignment_is_better():
    marked = {row.method: [value.best for value in row.values] for row in result_table(METRICS).rows}
    assert marked == {
        "base_think_off": [False, False, False, True, False, False],
        "base_think_on": [True, False, False, False, False, False],  # 34.10 and 34.12 are printed alike
        "MR-ALIGN": [True, True, True, False, False, False],  # alone with F1, and more claims are not better
    }


def test_k_stands_in_the_title_only_where_all_methods_have_the_same():
    facts = METRICS["MR-ALIGN"]["facts"]
    titles = [
        [c.measure.title for c in result_table({"a": {"f": facts}, "b": {"f": {**facts, "k": k}}}).columns]
        for k in (18, 17, None)
    ]
    assert titles == [["F1@18", "#Claims"], ["F1@K", "#Claims"], ["F1@K", "#Claims"]]


def test_a_benchmark_of_an_unknown_kind_or_of_two_is_refused():
    with pytest.raises(ValueError, match=r"benchmark 'x' has figures of kind \['chess'\]; allowed is one of"):
        result_table({"a": {"x": {"kind": "chess"}}})
    with pytest.raises(ValueError, match=r"\['longfact', 'short_answer'\]"):
        result_table({"a": {"x": short(0.5)}, "b": {"x": METRICS["MR-ALIGN"]["facts"]}})


def test_published_figures_are_rows_of_their_own_and_never_the_best():
    metrics = {"mine": {"nq_open": short(0.1, 0.5), "tqa": METRICS["MR-ALIGN"]["tqa"]}, "other": {"nq_open": short(0)}}
    table = result_table(metrics, with_published=True)
    published = {row.method: row for row in table.rows if row.published}
    assert list(published) == [
        f"{name} (published, Qwen3-8B)" for name in ("think-off", "think-on", "Self-Refine", "SFT", "KTO", "MR-ALIGN")
    ]
    ours = published["MR-ALIGN (published, Qwen3-8B)"]
    assert [value.text for value in ours.values] == ["37.34", "7.20", "–", "–"]
    assert [value.value for value in ours.values] == [0.3734, 0.072, None, None]
    assert published["think-off (published, Qwen3-8B)"].values[1].text == "–"
    assert not any(value.best for row in published.values() for value in row.values)
    assert table.rows[0].values[0].best
    assert not any(row.published for row in result_table(metrics).rows)
    assert not any(row.published for row in result_table({"a": {"mine": short(0.5)}}, with_published=True).rows)


def test_markdown():
    lines = to_markdown(result_sheet(result_table(METRICS))).splitlines()
    assert lines[0] == (
        "| method | nq_open Acc % | nq_open Mis % | tqa Truth % | tqa Info % | facts F1@18 % | facts #Claims |"
    )
    assert lines[1] == "| --- | --: | --: | --: | --: | --: | --: |"
    assert lines[4] == (
        "| MR-ALIGN | **34.1** [32.1, 36.1] | **7.2** [6.2, 8.2] | **62.5** [50.0, 75.0] | 87.5 | "
        "45.7 [40.0, 50.0] | 21.3 |"
    )
    plain = to_markdown(result_sheet(result_table(METRICS), intervals=False)).splitlines()
    assert plain[4] == "| MR-ALIGN | **34.1** | **7.2** | **62.5** | 87.5 | 45.7 | 21.3 |"
    assert to_markdown(Sheet(("a|b", "c"), (((Cell("x|*y*"), Cell("1")),),))).splitlines() == [
        r"| a\|b | c |",
        "| --- | --: |",
        r"| x\|\*y\* | 1 |",
    ]


def test_latex():
    lines = to_latex(result_sheet(result_table(METRICS, with_published=True))).splitlines()
    assert lines[:6] == [
        r"\begin{tabular}{lrrrrrr}",
        r"\toprule",
        r" & \multicolumn{2}{c}{nq\_open} & \multicolumn{2}{c}{tqa} & \multicolumn{2}{c}{facts} \\",
        r"\cmidrule(lr){2-3}\cmidrule(lr){4-5}\cmidrule(lr){6-7}",
        r"method & Acc \% & Mis \% & Truth \% & Info \% & F1@18 \% & \#Claims \\",
        r"\midrule",
    ]
    assert lines[6] == (r"base\_think\_off & 22.7 {\scriptsize [20.7, 24.7]} & -- & 50.0 & \textbf{90.0} & -- & -- \\")
    assert lines.count(r"\midrule") == 2  # published figures are parted from one's own
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    for line in lines:
        if line.endswith(r"\\") and "multicolumn" not in line:
            assert len(re.findall(r"(?<!\\)&", line)) == 6
        assert line.count("{") - line.count(r"\{") == line.count("}") - line.count(r"\}")


def test_latex_prints_every_sign_that_it_would_read_otherwise():
    assert escape_latex(r"50% & $x_1^2$ #3 {a} ~ \b") == (
        r"50\% \& \$x\_1\textasciicircum{}2\$ \#3 \{a\} \textasciitilde{} \textbackslash{}b"
    )
    assert escape_latex("λ −1.5 – <2") == r"$\lambda$ $-$1.5 -- $<$2"


def test_a_comparison_in_points():
    sheet = comparison_sheet([COMPARISON, {**COMPARISON, "measure": "mis", "p": 0.3, "p_holm": None, "only_b": 0}])
    first, second = sheet.blocks[0]
    assert [cell.text for cell in first] == [
        *("KTO", "MR-ALIGN", "nq_open", "Acc", "30.0", "35.0", "−5.0", "<0.001", "0.021", "100 (3 left out)")
    ]
    assert first[6].small == "[−8.0, −2.0]"
    assert [cell.text for cell in second][3:] == ["Mis", "30.0", "35.0", "−5.0", "0.300", "–", "100"]
    assert "$-$5.0 {\\scriptsize [$-$8.0, $-$2.0]} & $<$0.001" in to_latex(sheet)
    assert "−5.0 [−8.0, −2.0]" in to_text(sheet).splitlines()[1]


def test_every_method_of_a_comparison_is_a_block():
    sheet = comparison_sheet([COMPARISON, COMPARISON, {**COMPARISON, "method": "SFT"}])
    assert [len(block) for block in sheet.blocks] == [2, 1]
    assert to_latex(sheet).count(r"\midrule") == 2


def test_text_for_a_terminal_has_one_line_a_method_under_one_head():
    lines = to_text(result_sheet(result_table(METRICS))).splitlines()
    assert len(lines) == 4
    assert lines[0].split("   ")[0] == "method"
    assert lines[3].startswith("MR-ALIGN         34.1 [32.1, 36.1]")


def test_the_json_holds_the_figures_as_they_are():
    found = json.loads(to_json(result_table(METRICS), comparisons=[COMPARISON], more={"table": "main"}))
    assert found["table"] == "main"
    assert found["columns"][1] == {"benchmark": "nq_open", "measure": "mis", "title": "Mis", "better": -1}
    assert found["rows"][1]["values"][0] == {
        "value": 0.341,
        "interval": [pytest.approx(0.321), pytest.approx(0.361)],
        "text": "34.1",
        "best": True,
    }
    assert found["rows"][0]["values"][1] == {"value": None, "interval": None, "text": "–", "best": False}
    assert found["comparisons"][0]["difference"] == -0.05


def test_three_files_are_written(tmp_path):
    table = result_table(METRICS)
    write_tables(Directory(str(tmp_path)), table=table, comparisons=[COMPARISON], intervals=False)
    assert {path.name for path in tmp_path.iterdir()} == {"table.json", "table.md", "table.tex"}
    assert len(json.loads((tmp_path / "table.json").read_text())["rows"]) == 3
    assert (tmp_path / "table.md").read_text().count("| --- |") == 2
    tex = (tmp_path / "table.tex").read_text()
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 2
    write_tables(Directory(str(tmp_path)), table=table)
    assert (tmp_path / "table.tex").read_text().count(r"\begin{tabular}") == 1
