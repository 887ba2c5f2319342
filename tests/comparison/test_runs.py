"""Two runs side by side: which scores are meant, what is compared, what is refused."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mralign.comparison.runs import compare_runs, read_side
from mralign.evaluation.scoring import SCORES
from mralign.rows.schema import QUESTIONS
from mralign.run.part_names import part_name
from mralign.run.store import Manifest, StageDir


def make_run(directory, methods, *, dataset="nq"):
    """A run whose methods were right on the questions named (of q0 to q9, or those of a pair's second entry)."""
    places = {}
    for method, right in methods.items():
        right, asked = right if isinstance(right, tuple) else (right, range(10))
        out = StageDir(f"{directory}/evaluation/{method}", stage="evaluation", fingerprint=method)
        rows = [
            dict.fromkeys(SCORES.names)
            | {"row_id": f"q{n}/on/0", "question_id": f"q{n}", "dataset": dataset, "method": method}
            | {"em_answer": n in right, "acc": n in right}
            for n in asked
        ]
        out.commit(part_name("0"), pa.Table.from_pylist(rows, schema=SCORES), schema=SCORES)
        places[method] = f"evaluation/{method}"
    StageDir(str(directory)).write_text("evaluation/index.json", json.dumps(places))
    return str(directory)


def test_a_side_is_a_run_or_one_of_its_methods(tmp_path):
    run = make_run(tmp_path / "a", {"base_think_on": {0}, "kto": {0, 1}})
    assert read_side(
        make_run(tmp_path / "b", {"m_think_off": {0}, "m_think_on": {0}, "m_self_refine": {1}})
    ).method == ("m_think_on")
    assert (read_side(run).method, read_side(f"{run}:base_think_on").method) == ("kto", "base_think_on")
    assert read_side(f"{run}:kto").scores.num_rows == 10
    with pytest.raises(ValueError, match=r"has no method 'sft'; allowed are base_think_on, kto: write RUN:METHOD"):
        read_side(f"{run}:sft")
    with pytest.raises(ValueError, match=r"no evaluation/index\.json there; give the directory of a run"):
        read_side(str(tmp_path / "gone"))


def test_the_difference_is_the_second_minus_the_first(tmp_path):
    first = make_run(tmp_path / "a", {"base": {0, 1}})
    second = make_run(tmp_path / "b", {"kto": {0, 1, 2, 3, 4, 5, 6, 7}})
    text = compare_runs(first, second)
    (row,) = json.loads((tmp_path / "b/comparisons/base-kto/comparison.json").read_text())["rows"]
    assert (row["method"], row["reference"], row["dataset"], row["measure"]) == ("kto", "base", "nq", "acc")
    assert (row["a"], row["b"], row["n"]) == (0.8, 0.2, 10)
    assert row["difference"] == pytest.approx(0.6)
    assert row["p"] == pytest.approx(2 / 2**6)  # all six differences of one sign, both ways
    assert "+60.0" in text
    assert "comparison.tex" in text
    assert (tmp_path / "b/comparisons/base-kto/comparison.tex").read_text().startswith("\\begin{tabular}")


def test_other_questions_are_refused_or_left_out(tmp_path):
    first = make_run(tmp_path / "a", {"base": {0, 1}})
    second = make_run(tmp_path / "b", {"kto": ({0, 1}, range(5, 15))})
    with pytest.raises(ValueError, match="5 stand only in the first, 5 only in the second"):
        compare_runs(first, second)
    compare_runs(first, second, common=True, out=str(tmp_path / "c"))
    (row,) = json.loads((tmp_path / "c/comparison.json").read_text())["rows"]
    assert (row["n"], row["only_a"], row["only_b"]) == (5, 5, 5)


def test_one_id_for_two_questions_is_refused(tmp_path):
    runs = []
    for name, text in (("a", "Who?"), ("b", "Where?")):
        run = tmp_path / name
        make_run(run, {"m": {0}})
        stages = {"evaluation": {"responses": "r"}, "responses": {"questions": "q"}, "questions": {}}
        for stage, mark in (("evaluation", "m"), ("responses", "r"), ("questions", "q")):
            manifest = Manifest(stage, mark, {}, stages[stage], {}, 1, 1, {}, 1.0, {})
            StageDir(f"{run}/{stage}/{mark}", stage=stage, fingerprint=mark).seal(manifest)
        rows = [dict.fromkeys(QUESTIONS.names) | {"question_id": "q3", "question": text}]
        out = StageDir(f"{run}/questions/q")
        out.commit(part_name("0"), pa.Table.from_pylist(rows, schema=QUESTIONS), schema=QUESTIONS)
        runs.append(str(run))
    with pytest.raises(ValueError, match=r"1 questions have the same id and another text in the two runs, .* q3"):
        compare_runs(*runs)
    assert "comparison.md" in compare_runs(runs[0], runs[0])


def test_runs_without_a_common_benchmark_are_refused(tmp_path):
    first = make_run(tmp_path / "a", {"base": {0}})
    second = make_run(tmp_path / "b", {"kto": {0}}, dataset="sciq")
    with pytest.raises(ValueError, match=r"share no measured benchmark: the first has \['nq'\], the second \['sciq'\]"):
        compare_runs(first, second)


def test_a_run_from_before_a_benchmark_was_added_is_read(tmp_path):
    old = make_run(tmp_path / "old", {"base": {0, 1}})
    (part,) = (tmp_path / "old").glob("evaluation/*/part-*.parquet")
    table = pq.read_table(part)
    pq.write_table(table.drop_columns(["correct"]), part)  # of FRAMES
    new = make_run(tmp_path / "new", {"kto": {0, 1, 2}})
    assert read_side(old).scores.column("correct").null_count == 10
    assert read_side(old).scores.schema.equals(SCORES)
    compare_runs(old, new)
    (row,) = json.loads((tmp_path / "new/comparisons/base-kto/comparison.json").read_text())["rows"]
    assert (row["measure"], row["a"], row["b"]) == ("acc", 0.3, 0.2)
