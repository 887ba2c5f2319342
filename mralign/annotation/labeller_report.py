"""What a labeller's directory says of how far it can be trusted, checked: the directory may come from anywhere.

The report that `mralign distill` has written enters; the figures that a run repeats leave: agreement with the panel on
questions that the labeller had not seen, that of the panel's annotators, and what becomes of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

_LONGEST_NAME = 60
_Interval = Annotated[list[float], Field(min_length=3, max_length=3)]  # the figure and both ends of its interval


class _ToldAgreement(BaseModel):
    model_config = ConfigDict(strict=True)

    pair: Annotated[list[str], Field(min_length=2, max_length=2)]
    strict: _Interval
    entail: _Interval
    kappa_strict: _Interval
    kappa_entail: _Interval
    mean_l1: _Interval | None = None


class _ToldWeights(BaseModel):
    model_config = ConfigDict(strict=True)

    mean_change: _Interval


class _ToldReport(BaseModel):
    model_config = ConfigDict(strict=True)

    questions: int = Field(ge=0)
    trajectories: int = Field(ge=0)
    agreement: Annotated[list[_ToldAgreement], Field(min_length=1, max_length=4)]
    weights: _ToldWeights


def figures_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """trajectories, questions, agreement (the labeller's with the panel first, then the annotators' with one another),
    weight_change; empty where the report is none. What is not finite is None."""
    try:
        found = _ToldReport.model_validate(dict(report))
    except ValidationError:
        return {}
    return {
        "trajectories": found.trajectories,
        "questions": found.questions,
        "agreement": [_agreement(one) for one in found.agreement],
        "weight_change": _finite(found.weights.mean_change),
    }


def _agreement(found: _ToldAgreement) -> dict[str, Any]:
    shares = {name: _finite(getattr(found, name)) for name in ("strict", "entail", "kappa_strict", "kappa_entail")}
    pair = [name[:_LONGEST_NAME] for name in found.pair]
    return {"pair": pair, **shares, "mean_l1": _finite(found.mean_l1)}


def _finite(interval: list[float] | None) -> list[float] | None:
    return interval if interval is not None and all(map(math.isfinite, interval)) else None
