"""mralign: align how a reasoning model thinks, so that a right thought ends in a right answer.

    import mralign

    result = mralign.align("miniworld")                    # questions -> trained model and report
    mralign.evaluate("Qwen/Qwen3-8B", suite="paper")       # any model on any suite
    mralign.score([{"answers": ["Paris"], "response": "<think>Paris?</think>Paris"}])

The names below are those of the whole package for users; each is made where `_HOMES` says, and imported when it is
asked for: `import mralign` itself loads nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mralign.annotation.agreement import agreement
    from mralign.annotation.consensus import consensus
    from mralign.annotation.step_labels import StepLabels
    from mralign.api import Result, align, compare, evaluate, export
    from mralign.chat.thought import split_thinking as split
    from mralign.evaluation.intervals import bootstrap_interval
    from mralign.evaluation.paired import sign_flip_p
    from mralign.evaluation.predictions import score
    from mralign.exchange.finished_run import read_run
    from mralign.exchange.rollout_files import write_rollouts
    from mralign.plan.named_config import load_config
    from mralign.questions.matching import answer_matches as matches
    from mralign.questions.matching import thought_matches
    from mralign.questions.normalisation import normalize
    from mralign.rollouts.segmentation import segments
    from mralign.training.examples import token_weights
    from mralign.training.objectives.kto import kto_loss
    from mralign.transitions.lists import count, estimate, weights

# The name that a user writes -> the module in which it is made, and its name there.
_HOMES = {
    "Result": ("mralign.api", "Result"),
    "StepLabels": ("mralign.annotation.step_labels", "StepLabels"),
    "agreement": ("mralign.annotation.agreement", "agreement"),
    "align": ("mralign.api", "align"),
    "bootstrap_interval": ("mralign.evaluation.intervals", "bootstrap_interval"),
    "compare": ("mralign.api", "compare"),
    "consensus": ("mralign.annotation.consensus", "consensus"),
    "count": ("mralign.transitions.lists", "count"),
    "estimate": ("mralign.transitions.lists", "estimate"),
    "evaluate": ("mralign.api", "evaluate"),
    "export": ("mralign.api", "export"),
    "kto_loss": ("mralign.training.objectives.kto", "kto_loss"),
    "load_config": ("mralign.plan.named_config", "load_config"),
    "matches": ("mralign.questions.matching", "answer_matches"),
    "normalize": ("mralign.questions.normalisation", "normalize"),
    "read_run": ("mralign.exchange.finished_run", "read_run"),
    "score": ("mralign.evaluation.predictions", "score"),
    "segments": ("mralign.rollouts.segmentation", "segments"),
    "sign_flip_p": ("mralign.evaluation.paired", "sign_flip_p"),
    "split": ("mralign.chat.thought", "split_thinking"),
    "thought_matches": ("mralign.questions.matching", "thought_matches"),
    "token_weights": ("mralign.training.examples", "token_weights"),
    "weights": ("mralign.transitions.lists", "weights"),
    "write_rollouts": ("mralign.exchange.rollout_files", "write_rollouts"),
}

__all__ = [
    "Result",
    "StepLabels",
    "__version__",
    "agreement",
    "align",
    "bootstrap_interval",
    "compare",
    "consensus",
    "count",
    "estimate",
    "evaluate",
    "export",
    "kto_loss",
    "load_config",
    "matches",
    "normalize",
    "read_run",
    "score",
    "segments",
    "sign_flip_p",
    "split",
    "thought_matches",
    "token_weights",
    "weights",
    "write_rollouts",
]


def __getattr__(name: str) -> Any:
    """The object of that name, imported when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mralign' has no attribute {name!r}; it has {', '.join(__all__)}")
    module, own_name = _HOMES[name]
    found = getattr(import_module(module), own_name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
