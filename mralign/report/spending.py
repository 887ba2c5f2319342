"""What a run has cost, as far as its stages say it: requests, tokens, money, seconds of engines.

The figures in the manifests enter; one table leaves. Whoever counts something (a stage, an annotator, a judge, an
endpoint) is found by the names of what is counted, wherever it stands in the figures of a stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mralign.report.blocks import Block, Grid, Text
from mralign.report.findings import Act, figures
from mralign.report.wording import DASH, duration, figure, number, percent

_COUNTED = {
    "requests": "Requests",
    "prompt_tokens": "Prompt tokens",
    "prefix_tokens": "Cached, %",
    "completion_tokens": "Completion tokens",
    "money": "Money",
    "engine_start_s": "Engines start",
    "generating_s": "Generating",
}
_LEAD = (
    "What the stages say of their costs, as they wrote it. Money is in the currency of the endpoint; answers that were "
    "read from the run directory cost nothing again. Prompts that were cached are the share of their "
    "tokens that the engine or endpoint had in its prefix cache."
)


def spending(acts: Mapping[str, Act]) -> list[Block] | None:
    """None where no finished stage has counted anything."""
    rows = []
    for name in acts:
        for who, counts in _counting(figures(acts, name)):
            rows.append((name, who or DASH, *(_cell(key, counts) for key in _COUNTED)))
    return [Text(_LEAD), Grid("Costs", ("Stage", "Whose", *_COUNTED.values()), rows)] if rows else None


def _counting(found: Mapping[str, Any], who: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(who, counts) of every mapping that counts one of `_COUNTED`, from the outside in."""
    if any(isinstance(found.get(key), int | float) for key in _COUNTED):
        yield who, found
    for key, inner in found.items():
        if isinstance(inner, Mapping):
            yield from _counting(inner, f"{who} {key}".strip())


def _cell(key: str, counts: Mapping[str, Any]) -> str:
    value = counts.get(key)
    if not isinstance(value, int | float):
        return DASH
    if key == "prefix_tokens":
        prompt = counts.get("prompt_tokens")
        return percent(value / prompt) if prompt else DASH
    if key.endswith("_s"):
        return duration(value)
    return figure(value) if key == "money" else number(value)
