"""The model card: what was trained, on what and how. Settings and figures of the last step enter, Markdown leaves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mralign import __version__
from mralign.config import RunConfig

_SHOWN = ("loss", "margin", "plain_margin", "reward_chosen", "reward_rejected", "z0", "grad_norm")
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?", re.ASCII)


def on_hub(path: str) -> bool:
    """Whether `path` names a model of the hub: no URL, and nothing that lies here."""
    return _HUB_NAME.fullmatch(path) is not None and not Path(path).exists()


def shown(path: str) -> str:
    """A model's name for others to read: of a directory or URL its last part, the rest may be private."""
    return path if on_hub(path) or path.startswith("pkg://") else path.rstrip("/").rpartition("/")[2]


def model_card(
    config: RunConfig, *, data: Mapping[str, str], figures: Mapping[str, Any], fingerprint: str, adapter: bool
) -> str:
    """Markdown with the front matter that the hub reads, for the adapter or for the whole model.

    Endpoints, paths of questions and of local models are left out: they may be private, and the hub refuses a base that
    it does not know.
    """
    base, method = config.model.path, config.training.method
    front: dict[str, Any] = {"base_model": base} if on_hub(base) else {}
    front |= {"library_name": "peft" if adapter else "transformers", "tags": ["mralign", method]}
    settings = {name: getattr(config, name).model_dump(mode="json") for name in ("transitions", "weights", "training")}
    last = {name: f"{figures['last'][name]:.6g}" for name in _SHOWN if name in figures["last"]}
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front, sort_keys=False).strip(),
            "---",
            f"# {method} on {shown(base)}",
            "",
            f"Trained with mralign {__version__} (arXiv 2510.24794); stage `training/{fingerprint}`.",
            f"{figures['steps']} optimizer steps on {figures['workers']} workers.",
            *_notes(config, figures, adapter=adapter),
            "",
            "## Last step",
            "",
            *_table("figure", "value", last),
            "",
            "How it answers is measured by the stage `evaluation` of the run, not here.",
            "",
            "## Data",
            "",
            *_table("stage", "fingerprint", {name: f"`{mark}`" for name, mark in data.items()}),
            "",
            "## Settings",
            "",
            "```yaml",
            yaml.safe_dump(settings, sort_keys=False).strip(),
            "```",
            "",
        ]
    )


def _notes(config: RunConfig, figures: Mapping[str, Any], *, adapter: bool) -> list[str]:
    """What a reader must know to use it rightly, or to judge it."""
    notes, reset = [], figures["optimizer_began_anew_after"]
    if config.model.adapter:
        first = f"the adapter {shown(config.model.adapter)} merged into it"
        notes.append(
            f"It belongs on {shown(config.model.path)} with {first}, not on that model alone."
            if adapter
            else f"The base had {first}."
        )
    if config.model.template_date:
        notes.append(f"The chat template writes the date; all prompts said {config.model.template_date.isoformat()}.")
    if reset:
        notes.append(f"The optimizer began anew after step {', '.join(map(str, reset))}.")
    if figures["class_balance"]:
        notes.append(f"Note: {figures['class_balance']}.")
    return notes


def _table(left: str, right: str, rows: Mapping[str, str]) -> list[str]:
    return [f"| {left} | {right} |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
