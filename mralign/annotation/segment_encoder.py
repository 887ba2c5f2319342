"""A sentence encoder that the user names: segments become vectors, beside the hashed words (segment_features.py).

A directory with a transformers encoder (those of sentence-transformers are such) and segments enter; one vector a
segment leaves, the mean of its last hidden states at a fixed length. Weights are read from safetensors alone, and no
code that lies beside them is run. It runs on a GPU that this process may use, else on the CPU.

Axes: S segments, T tokens, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mralign.run.digests import digest

LARGEST = 8192  # dimensions
# Of every vector, beside hashed words whose squares add up to 1: vectors of length 1 were learned by heart (strict
# agreement on real thoughts held out 38 % in place of 47 %).
LENGTH = 0.2
_LONGEST = 512  # tokens of a segment that are read
_KEPT = 4096  # thoughts whose vectors are kept: a labeller is learned from them and then tried on them
_ADVICE = "give the directory of a transformers encoder with config.json, its tokenizer and model.safetensors"


@dataclass(frozen=True)
class SegmentEncoder:
    """An encoder that lies in a directory."""

    path: str
    digest: str  # of the directory's content
    dimensions: int

    def encode(self, segments: Sequence[str]) -> np.ndarray:
        """float32 (S, D), rows of LENGTH."""
        return _encoded(self.path, tuple(segments))


def open_encoder(path: str) -> SegmentEncoder:
    """The encoder in a local directory; ValueError where there is none that can be loaded."""
    place = Path(path).resolve()
    if not (place / "config.json").is_file():
        raise ValueError(f"encoder {path}: no config.json lies there, so no encoder; {_ADVICE}")
    try:
        vector_SD = _encoded(str(place), ("Is it Paris?",))
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:  # as transformers has it
        raise ValueError(f"encoder {path} cannot be loaded ({error!s:.300}); {_ADVICE}") from error
    D = vector_SD.shape[1]
    if D > LARGEST or not np.isfinite(vector_SD).all():
        raise ValueError(f"encoder {path} gives vectors of {D} dimensions, allowed are finite ones of up to {LARGEST}")
    return SegmentEncoder(str(place), digest(str(place)), D)


def check_encoder(encoder: SegmentEncoder, *, whose: str) -> None:
    """Raise ValueError where the encoder that a labeller was learned with is not there, or is another one."""
    if not (Path(encoder.path) / "config.json").is_file():
        raise ValueError(
            f"{whose} was learned with the encoder {encoder.path}, which is not there; put it there, or learn the "
            f"labeller again: mralign distill --encoder DIR"
        )
    if digest(encoder.path) != encoder.digest:
        raise ValueError(
            f"{whose} was learned with another encoder than the one in {encoder.path}; put that one back, or learn the "
            f"labeller again: mralign distill --encoder DIR"
        )


@lru_cache(maxsize=_KEPT)
def _encoded(path: str, segments: tuple[str, ...]) -> np.ndarray:
    import torch

    tokenizer, model = _loaded(path)
    longest = min(_LONGEST, tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", _LONGEST))
    given = tokenizer(list(segments), padding=True, truncation=True, max_length=longest, return_tensors="pt")
    given = given.to(model.device)
    with torch.inference_mode():
        hidden_STD = model(**given).last_hidden_state.float()
    mask_ST1 = given["attention_mask"].unsqueeze(-1).float()
    mean_SD = (hidden_STD * mask_ST1).sum(1) / mask_ST1.sum(1).clamp(min=1)
    unit_SD = torch.nn.functional.normalize(mean_SD, dim=1)
    found: np.ndarray = (LENGTH * unit_SD).cpu().numpy()
    return found


@lru_cache(maxsize=1)
def _loaded(path: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModel, AutoTokenizer

    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(path, **local)
    model = AutoModel.from_pretrained(path, use_safetensors=True, **local)
    return tokenizer, model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
