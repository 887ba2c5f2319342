"""A labeller on disk: a directory with `weights.safetensors` and `labeller.json`, which holds the weights' digest.

Neither file can run code. Whoever reads one of unknown origin is safe: sizes are bounded before anything is read, the
digest, the names and the shapes must fit, and whatever does not fit is refused in a sentence.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mralign.annotation.label_sets import Calibration
from mralign.annotation.labeller import Labeller
from mralign.annotation.labeller_report import figures_of
from mralign.annotation.segment_encoder import LARGEST, SegmentEncoder, check_encoder
from mralign.annotation.segment_features import columns_of
from mralign.annotation.taxonomy import MAX_LABELS, Taxonomy

FORMAT = "mralign labeller 1"
MANIFEST, WEIGHTS = "labeller.json", "weights.safetensors"
_LARGEST_MANIFEST = 1 << 20  # bytes
_LARGEST_WEIGHTS = 4 * (MAX_LABELS + 1) * (columns_of(LARGEST) + 1) + (1 << 16)


class _Calibration(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    slope: float = Field(gt=0)
    none: float
    pair: float


class _Encoder(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    path: str
    digest: str
    dimensions: int = Field(ge=1, le=LARGEST)


class _Manifest(BaseModel):
    """What labeller.json holds."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: str
    labels: list[str]
    calibration: _Calibration
    encoder: _Encoder | None = None
    sha256: str  # of the weights
    report: dict[str, Any]  # of `mralign distill`, for people


def write_labeller(directory: Path, labeller: Labeller, *, report: Mapping[str, Any]) -> None:
    """Write both files; the manifest comes last."""
    from safetensors.numpy import save

    directory.mkdir(parents=True, exist_ok=True)
    weights = save({"weight": labeller.weight_CH, "intercept": labeller.intercept_H})
    found = labeller.calibration
    manifest = {
        "format": FORMAT,
        "labels": list(labeller.labels),
        "calibration": {"slope": found.slope, "none": found.none, "pair": found.pair},
        **({"encoder": asdict(labeller.encoder)} if labeller.encoder else {}),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "report": dict(report),
    }
    (directory / MANIFEST).unlink(missing_ok=True)
    (directory / WEIGHTS).write_bytes(weights)
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def read_labeller(path: str) -> Labeller:
    """The labeller of a directory; ValueError for anything that is none."""
    directory = Path(path)
    manifest_bytes = _bounded(directory / MANIFEST, largest=_LARGEST_MANIFEST)
    weights = _bounded(directory / WEIGHTS, largest=_LARGEST_WEIGHTS)
    try:
        manifest = _Manifest.model_validate_json(manifest_bytes)
        if manifest.format != FORMAT:
            raise ValueError(f"its format is {manifest.format!r:.60}, allowed is {FORMAT!r}")
        labels = tuple(manifest.labels)
        Taxonomy(labels=labels, macro=dict.fromkeys(labels, ""))
    except (ValidationError, ValueError, RecursionError) as error:
        said = str(error).splitlines()
        raise ValueError(f"{path}: {MANIFEST} is no labeller's ({' '.join(said[:4]):.300}); {_ADVICE}") from None
    if hashlib.sha256(weights).hexdigest() != manifest.sha256:
        raise ValueError(f"{path}: {WEIGHTS} is not the file that {MANIFEST} was written with; {_ADVICE}")
    encoder = SegmentEncoder(**manifest.encoder.model_dump()) if manifest.encoder else None
    if encoder is not None:
        check_encoder(encoder, whose=path)
    shape = columns_of(encoder.dimensions if encoder else 0), len(labels) + 1
    arrays = _arrays(weights, path=path, shape=shape)
    calibration = Calibration(**manifest.calibration.model_dump())
    digest = hashlib.sha256(manifest_bytes).hexdigest()
    weight_CH, intercept_H = arrays["weight"], arrays["intercept"]
    return Labeller(labels, weight_CH, intercept_H, calibration, encoder, digest, figures_of(manifest.report))


_ADVICE = "give a directory that `mralign distill` has written"


def _bounded(file: Path, *, largest: int) -> bytes:
    """The content of a regular file of at most so many bytes."""
    if not file.is_file():
        raise ValueError(f"{file.parent} holds no {file.name}, so no labeller; {_ADVICE}")
    size = file.stat().st_size
    if size > largest:
        raise ValueError(f"{file} has {size} bytes, a labeller's has at most {largest}; {_ADVICE}")
    return file.read_bytes()


def _arrays(weights: bytes, *, path: str, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    wanted = {"weight": shape, "intercept": shape[1:]}
    try:
        found = load(weights)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:  # the last three: number formats without NumPy
        raise ValueError(f"{path}: {WEIGHTS} is not safetensors ({error!s:.200}); {_ADVICE}") from None
    shapes = {name: (array.shape, array.dtype.name) for name, array in found.items()}
    if shapes != {name: (shape, "float32") for name, shape in wanted.items()}:
        raise ValueError(f"{path}: {WEIGHTS} holds {shapes!s:.200}, allowed are float32 of {wanted}; {_ADVICE}")
    if not all(math.isfinite(float(np.abs(array).sum(dtype=np.float64))) for array in found.values()):
        raise ValueError(f"{path}: {WEIGHTS} holds numbers that are not finite; {_ADVICE}")
    return found
