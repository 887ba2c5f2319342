"""What the package's code looks like, in figures: its size, what is dense in it, how its modules stand on each other.

    python tests/code_figures.py [DIRECTORY of another checkout]

Python files under `mralign/` and `jobs/` enter; one figure a line leaves. With a second checkout the figures of both
stand side by side. `tests/test_code_figures.py` holds some of them to a bound.
"""

from __future__ import annotations

import argparse
import ast
import re
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Names that the contract of a stage or the language asks for; a folder's __init__ has no name of its own.
REPEATED_FILES = {"__main__", "stage"}


@dataclass(frozen=True)
class Module:
    """One file: its path below the checkout, its dotted name, its lines and its syntax tree."""

    path: Path
    name: str
    text: str
    tree: ast.Module


def read_modules(root: Path) -> list[Module]:
    """The modules of a checkout, in order of their names."""
    found = []
    for folder in ("mralign", "jobs"):
        for path in sorted((root / folder).rglob("*.py")):
            below = path.relative_to(root)
            text = path.read_text()
            name = ".".join(below.with_suffix("").parts).removesuffix(".__init__")
            found.append(Module(below, name, text, ast.parse(text)))
    return found


def nested_comprehensions(tree: ast.AST) -> int:
    """Comprehensions that stand inside another, or that have two `for`."""
    count = 0
    for node in ast.walk(tree):
        if isinstance(node, COMPREHENSIONS):
            inner = [child for child in ast.walk(node) if child is not node and isinstance(child, COMPREHENSIONS)]
            count += bool(inner) or len(node.generators) > 1
    return count


def chained_ternaries(tree: ast.AST) -> int:
    """Conditional expressions one of whose branches is another."""
    count = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.IfExp):
            count += isinstance(node.body, ast.IfExp) or isinstance(node.orelse, ast.IfExp)
    return count


def function_lengths(modules: list[Module]) -> list[int]:
    """Lines of every function and method, signature and docstring included."""
    lengths = []
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, FUNCTIONS):
                assert node.end_lineno is not None
                lengths.append(node.end_lineno - node.lineno + 1)
    return lengths


def class_names(modules: list[Module]) -> Counter[str]:
    """How many classes of the package have each name; those inside functions do not count."""
    names: Counter[str] = Counter()
    for module in modules:
        names.update(node.name for node in module.tree.body if isinstance(node, ast.ClassDef))
    return names


def file_names(modules: list[Module]) -> Counter[str]:
    """How many files of the package have each name, but for those that must repeat."""
    paths = [module.path for module in modules if module.path.parts[0] == "mralign"]
    names = Counter(path.stem for path in paths if path.name != "__init__.py")
    for name in REPEATED_FILES:
        names.pop(name, None)
    return names


def import_graph(modules: list[Module]) -> dict[str, set[str]]:
    """Which modules each module of the package imports, inside functions as well."""
    known = {module.name for module in modules if module.name.startswith("mralign")}
    graph: dict[str, set[str]] = {name: set() for name in known}
    for module in modules:
        if module.name in known:
            graph[module.name] = set(_imported(module.tree, known)) - {module.name}
    return graph


def _imported(tree: ast.AST, known: set[str]) -> Iterator[str]:
    for node in _executed(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                target = inner if inner in known else node.module
                if target in known:
                    yield target


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those below `if TYPE_CHECKING`, which never run."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"):
            yield from _executed(child)


def rooms(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The graph of the package's folders; the pipeline, which opens every room, is a room of its own."""
    folded: dict[str, set[str]] = {}
    for name, targets in graph.items():
        room = _room(name)
        folded.setdefault(room, set()).update(_room(target) for target in targets)
    for room, targets in folded.items():
        targets.discard(room)
    return folded


def _room(name: str) -> str:
    parts = name.split(".")
    if name in ("mralign.pipeline", "mralign.template_dates"):
        return name
    return ".".join(parts[:2])


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Sets of nodes that reach each other, the largest first (strongly connected components of two or more)."""
    import numpy as np
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    names = sorted(graph)
    place = {name: number for number, name in enumerate(names)}
    edges = np.zeros((len(names), len(names)), dtype=np.int8)
    for name, targets in graph.items():
        for target in targets:
            edges[place[name], place[target]] = 1
    _, component = connected_components(csr_array(edges), connection="strong")
    members: dict[int, list[str]] = {}
    for name, number in zip(names, component, strict=True):
        members.setdefault(int(number), []).append(name)
    return sorted((group for group in members.values() if len(group) > 1), key=len, reverse=True)


def floors(graph: dict[str, set[str]]) -> int:
    """The longest way down from a node, counted in nodes; what is in a circle counts once."""
    home = {name: name for name in graph}
    for circle in circles(graph):
        home |= dict.fromkeys(circle, circle[0])
    merged: dict[str, set[str]] = {}
    for name, targets in graph.items():
        merged.setdefault(home[name], set()).update(home[target] for target in targets)
    height: dict[str, int] = {}

    def measure(name: str) -> int:
        if name not in height:
            below = merged[name] - {name}
            height[name] = 1 + max(map(measure, below), default=0)
        return height[name]

    return max(map(measure, merged))


def code_figures(root: Path) -> dict[str, float]:
    """All figures of a checkout."""
    modules = read_modules(root)
    lengths = function_lengths(modules)
    lines = [line for module in modules for line in module.text.splitlines()]
    graph = import_graph(modules)
    twice = [name for name, count in class_names(modules).items() if count > 1]
    files_twice = [name for name, count in file_names(modules).items() if count > 1]
    return {
        "files": len(modules),
        "lines": len(lines),
        "lines over 100 characters": sum(len(line) > 100 for line in lines),
        "longest file, lines": max(module.text.count("\n") for module in modules),
        "functions": len(lengths),
        "function lines, median": statistics.median(lengths),
        "function lines, 95th percentile": sorted(lengths)[int(0.95 * len(lengths))],
        "functions over 60 lines": sum(length > 60 for length in lengths),
        "nested comprehensions": sum(nested_comprehensions(module.tree) for module in modules),
        "chained ternaries": sum(chained_ternaries(module.tree) for module in modules),
        "dict[str, Any]": sum(len(re.findall(r"dict\[str, Any\]", module.text)) for module in modules),
        "classes": sum(class_names(modules).values()),
        "class names used twice": len(twice),
        "file names used twice": len(files_twice),
        "rooms": len(rooms(graph)),
        "floors of rooms": floors(rooms(graph)),
        "circles of rooms": len(circles(rooms(graph))),
        "floors of modules": floors(graph),
        "circles of modules": len(circles(graph)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", nargs="?", type=Path, help="another checkout, shown in the first column")
    arguments = parser.parse_args()
    now = code_figures(ROOT)
    before = code_figures(arguments.before) if arguments.before else {}
    for name, value in now.items():
        left = f"{before[name]:>10,g}" if before else ""
        print(f"{name:<34}{left}{value:>10,g}")
    modules = read_modules(ROOT)
    for kind, names in (("class", class_names(modules)), ("file", file_names(modules))):
        twice = sorted(name for name, count in names.items() if count > 1)
        if twice:
            print(f"{kind} names used twice: {', '.join(twice)}")
    for circle in circles(rooms(import_graph(modules))):
        print(f"circle of rooms: {' '.join(circle)}")
    for circle in circles(import_graph(modules)):
        print(f"circle of modules: {' '.join(circle)}")


if __name__ == "__main__":
    main()
