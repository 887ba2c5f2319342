"""What a finished stage says of itself, and the fingerprint that names its directory.

Settings, upstream fingerprints and digests of files enter a fingerprint; the manifest is the JSON object that a stage
writes last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Manifest:
    """What a finished stage says of itself. `parts`: rows and bytes of each committed part, and of its rejects under
    `rejects/<part>`; a run directory from before they were counted has none."""

    stage: str
    fingerprint: str
    config: Mapping[str, Any]
    upstream: Mapping[str, str]
    inputs: Mapping[str, str]
    rows_in: int
    rows_out: int
    rejects: Mapping[str, int]
    seconds: float
    versions: Mapping[str, str]
    figures: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Sequence[int]] = field(default_factory=dict)


def fingerprint(
    *, stage: str, version: int, config: Any, upstream: Mapping[str, str], inputs: Mapping[str, str]
) -> str:
    """Sixteen hex digits that change when anything that matters to the stage changes."""
    text = json.dumps([stage, version, config, dict(upstream), dict(inputs)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
