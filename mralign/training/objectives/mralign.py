"""MR-ALIGN (Wang et al. 2026; method.md §4, §5): KTO on rewards whose tokens carry their step's weight."""

from __future__ import annotations

from dataclasses import replace

from mralign.training.objectives import kto

OBJECTIVE = replace(kto.OBJECTIVE, weights=True)
