"""What `import mralign` offers: light, whole, visible to type checkers, documented with examples that run."""

import ast
import doctest
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mralign

HEAVY = ("torch", "ray", "vllm", "transformers", "pyarrow", "numpy", "pydantic")
RUN_BY_OTHER_TESTS = ("align", "evaluate", "compare", "export", "read_run")  # tests/integration/test_api.py, exchange/


def test_the_import_loads_nothing_heavy_and_a_name_only_what_it_needs():
    code = (
        "import sys, json, mralign\n"
        "first = [name for name in sys.argv[1:] if name in sys.modules]\n"
        "assert mralign.split('<think>a</think>b').answer == 'b'\n"
        "assert mralign.load_config('miniworld').trains\n"
        "then = [name for name in ('torch', 'ray', 'vllm', 'transformers') if name in sys.modules]\n"
        "print(json.dumps([first, then]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[], []]


def test_every_name_is_listed_resolves_and_is_the_rooms_own():
    assert sorted(mralign.__all__) == sorted([*mralign._HOMES, "__version__"])
    assert set(mralign.__all__) <= set(dir(mralign))
    for name, (module, own) in mralign._HOMES.items():
        assert getattr(mralign, name) is getattr(importlib.import_module(module), own)
    with pytest.raises(AttributeError, match="no attribute 'alignn'; it has Result, StepLabels"):
        mralign.alignn  # noqa: B018


def test_a_type_checker_sees_the_same_names():
    tree = ast.parse(Path(mralign.__file__).read_text())
    (guarded,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {}
    for node in guarded.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            seen[alias.asname or alias.name] = (node.module, alias.name)
    assert seen == mralign._HOMES


@pytest.mark.parametrize("name", [name for name in mralign.__all__ if name != "__version__"])
def test_the_docstring_says_how_it_is_used(name):
    found = getattr(mralign, name)
    doc = inspect.getdoc(found)
    assert doc
    if name in RUN_BY_OTHER_TESTS or name == "Result":
        return
    assert "docs/method.md §" in doc
    assert "rror" in doc  # what it raises, or that nothing is one
    (test,) = doctest.DocTestFinder(recurse=False).find(found, name, globs={})
    assert test.examples
    said = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert result.failed == 0, "".join(said)


def test_kto_loss_by_hand():
    logp = torch.tensor([[-1.0, -2.0, 0.0], [-1.0, -1.0, -3.0]])
    reference = torch.tensor([[-1.5, -1.0, 0.0], [-2.0, -1.0, -1.0]])
    weights = torch.tensor([[2.0, 1.0, 1.0], [0.5, 1.0, 1.0]])
    found = mralign.kto_loss(
        logp, reference_BT=reference, polarity_B=torch.tensor([1, -1]), weights_BT=weights, z0=0.25, beta=0.5
    )
    # r = 2 * .5 - 1 = 0 and .5 * 1 - 2 = -1.5; v = sigma(.5 (0 - .25)) and 1.5 sigma(.5 (.25 + 1.5))
    sigma = [1 / (1 + 2.718281828459045**0.125), 1 / (1 + 2.718281828459045**-0.875)]
    assert found.tolist() == pytest.approx([1 - sigma[0], 1.5 - 1.5 * sigma[1]], abs=1e-6)
    with pytest.raises(ValueError, match=r"weights_BT has shape \(2, 2\)"):
        mralign.kto_loss(logp, reference_BT=reference, polarity_B=torch.tensor([1, -1]), weights_BT=weights[:, :2])
    with pytest.raises(ValueError, match=r"polarity_B has shape \(1,\)"):
        mralign.kto_loss(logp, reference_BT=reference, polarity_B=torch.tensor([1]))


def test_consensus_without_an_adjudicator_leaves_disputes_unlabelled():
    a = [mralign.StepLabels(0, 1, ("framing",), (5.0,))]
    b = [mralign.StepLabels(0, 1, ("retrieval",), (5.0,))]
    (step,) = mralign.consensus(a, b, segments=2)
    assert (step.labels, step.rule, step.labels_a, step.labels_b) == ((), "unlabelled", ("framing",), ("retrieval",))
