"""The figures of tests/code_figures.py: what the code holds to, and that the script counts rightly."""

import ast
import subprocess
import sys

import code_figures
import pytest

FIGURES = code_figures.code_figures(code_figures.ROOT)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("longest file, lines", 460),
        ("functions over 60 lines", 0),
        ("function lines, 95th percentile", 24),
        ("nested comprehensions", 25),
        ("chained ternaries", 0),
        ("class names used twice", 0),
        ("file names used twice", 0),
        ("circles of rooms", 0),
        ("circles of modules", 0),
    ],
)
def test_the_code_holds_to_its_bounds(name, most):
    assert FIGURES[name] <= most


def test_nested_comprehensions_and_ternaries_are_counted():
    tree = ast.parse("a = [x for y in z for x in y]\nb = [[x for x in y] for y in z]\nc = [x for x in z]\n")
    assert code_figures.nested_comprehensions(tree) == 2
    tree = ast.parse("a = 1 if b else 2 if c else 3\nd = 1 if b else 2")
    assert code_figures.chained_ternaries(tree) == 1


def test_circles_and_floors_of_a_graph():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}
    assert code_figures.circles(graph) == [["b", "c"]]
    assert code_figures.floors(graph) == 3  # a, then b and c as one, then d
    assert code_figures.circles({"a": {"b"}, "b": set()}) == []


def test_the_script_prints_two_checkouts_side_by_side():
    command = [sys.executable, "tests/code_figures.py", "."]
    done = subprocess.run(command, cwd=code_figures.ROOT, capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("lines  ")]
    _, before, now = line.split()
    assert before == now
