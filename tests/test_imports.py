"""A wrong configuration must end a run at once: reading one loads nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("deepspeed", "matplotlib", "peft", "ray", "torch", "transformers", "vllm")


@pytest.mark.parametrize(
    "module",
    [
        *("mralign.config", "mralign.rows", "mralign.run.store", "mralign.run.rejects", "mralign.run.stage"),
        *("mralign.questions", "mralign.rollouts", "mralign.transitions", "mralign.miniworld"),
    ],
)
def test_the_foundation_loads_nothing_heavy(module: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout)
    assert module in loaded
    assert not set(HEAVY) & set(loaded)
