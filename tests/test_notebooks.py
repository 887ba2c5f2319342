"""The example notebooks: their code runs from top to bottom, and they hold no output of anybody's machine.

The cells are run in one namespace of this process: a Jupyter kernel would need some twenty packages, and show nothing
more.
"""

import ast
import json
from pathlib import Path

import pytest
import small_run

HOME = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(HOME.glob("*.ipynb"))}


def run(name):
    """Run the code of a notebook; its names, and in `shown` what each cell ends with."""
    names = {"__name__": "__main__", "shown": []}
    for cell in NOTEBOOKS[name]["cells"]:
        if cell["cell_type"] == "code":
            tree = ast.parse("".join(cell["source"]), filename=f"{name}, {cell['id']}")
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, f"{name}, {cell['id']}", "exec"), names)
            if last is not None:
                names["shown"].append(eval(compile(ast.Expression(last.value), name, "eval"), names))
    return names


def test_there_are_three():
    assert list(NOTEBOOKS) == ["own-benchmark", "reading-a-run", "traces-to-weights"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_of_the_format_and_holds_no_output(name):
    notebook = NOTEBOOKS[name]
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        assert cell["cell_type"] in ("markdown", "code")
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


def test_from_traces_to_weights(capsys):
    names = run("traces-to-weights")
    (answer, segments), matched = names["shown"][:2]
    assert answer == "Canberra" and len(segments) == 3
    assert matched == (True, True)
    assert "confident ('backtracking', 'comparison')" in capsys.readouterr().out
    by_label = dict(zip(names["trajectory"], names["weights"], strict=True))
    # Only good thoughts go from comparison to backtracking; framing begins all of them.
    assert by_label["backtracking"] > 1.2
    assert by_label["framing"] == pytest.approx(1, abs=0.01)
    plain, weighted = names["shown"][-1]
    assert plain != weighted


@pytest.mark.integration
def test_a_benchmark_of_your_own(local_ray, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = run("own-benchmark")
    assert (names["shown"][0]["acc"], names["shown"][0]["mis"]) == (3 / 6, 2 / 6)
    (row,) = names["shown"][1]
    assert (row["method"], row["acc"]) == ("after_think_on", pytest.approx(5 / 6))
    assert "acc           +0.33" in capsys.readouterr().out


def test_reading_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    small_run.write("runs/first")
    names = run("reading-a-run")
    counts = names["shown"][1]
    assert counts.loc["retrieval"].to_dict() == {-1: 2, 1: 2}
    assert " 0.50  retrieval" in capsys.readouterr().out
    assert names["shown"][-1][1] == 4
