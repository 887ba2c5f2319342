"""What an endpoint has been asked and has cost, counted while it answers.

Every try and every answer enters (endpoint.py counts); figures for a manifest leave.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any


@dataclass
class EndpointUse:
    """What this endpoint object has done: whole numbers, tokens of fresh replies, and money (that of http.price_*)."""

    requests: int = 0  # sent, further tries included
    accepted: int = 0  # answered whole
    cached: int = 0
    batched: int = 0  # of those that were accepted, by a batch
    failed: int = 0
    prompt_tokens: int = 0
    prefix_tokens: int = 0  # of the prompts, those that the endpoint had in its prefix cache
    written_tokens: int = 0  # of the prompts, those that the endpoint put into that cache
    completion_tokens: int = 0
    spent: Decimal = Decimal(0)
    spent_before: Decimal = Decimal(0)  # by earlier runs on the same cache
    retries: Counter[str] = field(default_factory=Counter)  # by the reason of the failure before

    def figures(self) -> dict[str, Any]:
        """For a manifest."""
        return asdict(self) | {
            "spent": str(self.spent),
            "spent_before": str(self.spent_before),
            "retries": dict(self.retries),
        }
