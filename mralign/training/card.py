"""The model card: what was trained, on what and how, and what it reached.

Settings and figures of the last step enter, Markdown leaves. It is written when the training ends; when its evaluation
is finished, `with_results` puts the results in their place. No license is named: it follows from those of the base and
of the data, and from what the publisher wants.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mralign import __version__
from mralign.config import RunConfig
from mralign.config.run import train_names

_SHOWN = ("loss", "margin", "plain_margin", "reward_chosen", "reward_rejected", "z0", "grad_norm")
_RESULTS = "## Results"
_UNMEASURED = "Not measured yet: they stand here when the evaluation of the run is finished."
_LICENSE = (
    "No license is named here. It follows from those of the base model and of the data, and from your own choice: "
    "write `license:` into the head of this file before you publish it."
)
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
    front: dict[str, Any] = {}
    if on_hub(base):
        front = {"base_model": base, "base_model_relation": "adapter" if adapter else "finetune"}
    if public := hub_datasets(config):
        front["datasets"] = public
    front |= {"library_name": "peft" if adapter else "transformers", "pipeline_tag": "text-generation"}
    front["tags"] = list(dict.fromkeys(["mralign", method]))
    settings = {name: getattr(config, name).model_dump(mode="json") for name in ("transitions", "weights", "training")}
    last = {name: f"{figures['last'][name]:.6g}" for name in _SHOWN if name in figures["last"]}
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front, sort_keys=False).strip(),
            "---",
            f"# {title(config)}",
            "",
            f"Trained with mralign {__version__} (arXiv 2510.24794); stage `training/{fingerprint}`.",
            f"{figures['steps']} optimizer steps on {figures['workers']} workers.",
            *_notes(config, figures, adapter=adapter),
            "",
            "## Last step",
            "",
            *_table("figure", "value", last),
            "",
            _RESULTS,
            "",
            _UNMEASURED,
            "",
            "## Data",
            "",
            f"Trained on {', '.join(train_names(config))}.",
            "",
            *_table("stage", "fingerprint", {name: f"`{mark}`" for name, mark in data.items()}),
            "",
            "## Settings",
            "",
            "Made by `mralign align --preset config.yaml`, with the config.yaml of the run directory; of it:",
            "",
            "```yaml",
            yaml.safe_dump(settings, sort_keys=False).strip(),
            "```",
            "",
            "## License",
            "",
            _LICENSE,
            "",
        ]
    )


def title(config: RunConfig) -> str:
    """What the trained model is called: the method and the base."""
    return f"{config.training.method} on {shown(config.model.path)}"


def hub_datasets(config: RunConfig) -> list[str]:
    """The names on the hub of the data sets that a run trains on; files and URLs are left out."""
    paths = [source.path for source in config.questions.train if source.path.startswith("hub://")]
    return sorted({path.removeprefix("hub://").partition("?")[0] for path in paths})


def with_results(card: str, *, text: str, index: Sequence[Mapping[str, Any]], name: str) -> str:
    """The card with `text` under its heading of results, and in its head the `index` of results that the hub shows.

    `name`: of the model in that index. A card without that heading, which somebody has written anew, stays as it is.
    """
    before, mark, after = card.partition(f"\n{_RESULTS}\n")
    head, body = before.removeprefix("---\n").split("\n---\n", 1) if before.startswith("---\n") else ("", before)
    if not mark or not head:
        return card
    front: dict[str, Any] = yaml.safe_load(head)
    front["model-index"] = [{"name": name, "results": list(index)}]
    rest = after[after.index("\n## ") :] if "\n## " in after else ""
    written = yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip()
    return f"---\n{written}\n---\n{body}\n{_RESULTS}\n\n{text.strip()}\n{rest}"


def _notes(config: RunConfig, figures: Mapping[str, Any], *, adapter: bool) -> list[str]:
    """What a reader must know to use it rightly, or to judge it."""
    notes = []
    if config.model.adapter:
        first = f"the adapter {shown(config.model.adapter)} merged into it"
        notes.append(
            f"It belongs on {shown(config.model.path)} with {first}, not on that model alone."
            if adapter
            else f"The base had {first}."
        )
    if config.model.template_date:
        notes.append(f"The chat template writes the date; all prompts said {config.model.template_date.isoformat()}.")
    for step, before, after in figures.get("workers_changed", []):
        notes.append(f"Up to step {step} {before} workers trained, then {after}: the same up to rounding.")
    if figures["class_balance"]:
        notes.append(f"Note: {figures['class_balance']}.")
    return notes


def _table(left: str, right: str, rows: Mapping[str, str]) -> list[str]:
    return [f"| {left} | {right} |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
