"""The card of an exported data set: what the hub reads in its head, and what a person must know.

The configuration of the run and the numbers of rows enter, Markdown leaves. Paths and endpoints are left out: they may
be private. So is a license: the questions, the model and whoever publishes decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from mralign import __version__
from mralign.config import RunConfig
from mralign.config.run import train_names
from mralign.training.card import hub_datasets, shown

_TEXT = """
Made with mralign {version} (MR-ALIGN, arXiv 2510.24794): {method}; the thoughts are those of {model}.

| configuration | rows | what a row is |
|---|---|---|
| `examples` | {examples} | a training example: `prompt`, `completion`, `label` (TRL's unpaired form) and `weights` |
| `candidates` | {candidates} | a thought of a question whose verdict is known, cut into segments |
| `annotations` | {annotations} | the steps of a candidate with their labels, and what each annotator said |
| `rollouts` | {on} on, {off} off | a draw as text; splits `on` (thinking) and `off` |

```python
from datasets import load_dataset

examples = load_dataset("DIRECTORY", "examples", split="train")
```

`label` says whether thinking helped. {weights} They belong to
`completion_token_ids`, one a token, 1 for the answer.
The model's tokenizer makes the same tokens of `prompt` + `completion` in {same} of {examples} examples
(`same_tokens`). TRL's KTOTrainer reads `prompt`, `completion` and `label` and leaves `weights` aside: to it these are
examples for KTO.

The draws can be read again, which takes the place of sampling:

    mralign align --preset import-rollouts model.path=MODEL rollouts.n={n} \\
        rollouts.import_on=DIRECTORY/rollouts/on.parquet \\
        rollouts.import_off=DIRECTORY/rollouts/off.parquet \\
        "rollouts.import_fields={{id: id, question: question, answers: answers, response: response, draw: draw}}"

What does not come back that way: token ids are made anew from the texts, seeds are lost, and labels and weights are
estimated anew.
"""


def file_of(name: str) -> str:
    """The file of a part of the data set."""
    return f"{name}.parquet"


def dataset_card(config: RunConfig, *, rows: Mapping[str, int], same_tokens: int, weighted: bool) -> str:
    """Markdown with the front matter of a data set: its configurations, and which files each has."""
    front: dict[str, Any] = {
        "pretty_name": f"Meta-reasoning traces of {shown(config.model.path)}",
        "task_categories": ["text-generation"],
        "tags": ["mralign", "trl", "kto", "reasoning"],
        "configs": [
            _configuration("examples", default=True),
            _configuration("candidates"),
            _configuration("annotations"),
            {
                "config_name": "rollouts",
                "data_files": [{"split": mode, "path": file_of(f"rollouts/{mode}")} for mode in ("on", "off")],
            },
        ],
    }
    if public := hub_datasets(config):
        front["source_datasets"] = public
    weights = "`weights` are those of equation 4.1 of its method." if weighted else "All `weights` are 1."
    body = _TEXT.format(
        version=__version__,
        method=f"trained on {', '.join(train_names(config))}",
        model=shown(config.model.path),
        examples=rows["examples"],
        candidates=rows["candidates"],
        annotations=rows["annotations"],
        on=rows["rollouts/on"],
        off=rows["rollouts/off"],
        weights=weights,
        same=same_tokens,
        n=config.rollouts.n,
    )
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip()
    return f"---\n{head}\n---\n# {front['pretty_name']}\n{body}"


def _configuration(name: str, *, default: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {"config_name": name, "data_files": [{"split": "train", "path": file_of(name)}]}
    return {**found, "default": True} if default else found
