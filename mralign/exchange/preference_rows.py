"""Training examples as rows of a preference data set: TRL's unpaired form, with a weight a token.

Examples, their candidates and step weights enter, tables of Arrow; one row an example leaves. TRL's KTOTrainer reads
`prompt`, `completion` and `label` and makes tokens of the texts itself; `weights` are those of `completion_token_ids`,
the tokens that the model sampled (docs/method.md §4). `same_tokens` says whether the tokenizer makes these tokens of
the texts: where it does, the weights fit TRL's tokens as well.

Axes: T completion tokens of an example.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mralign.rows.columns import Float32, Int32
from mralign.training.examples import token_weights
from mralign.training.tokens import token_offsets


@dataclass(frozen=True)
class PreferenceRow:
    """One example. The lists `weights`, `completion_token_ids` and `token_step` have length T."""

    row_id: str
    question_id: str
    dataset: str
    prompt: str  # as the model saw it, its chat template applied, special tokens written out
    completion: str  # thought and answer, the token that ends the turn written out
    label: bool  # whether thinking helped
    weights: list[Float32]  # w_t; 1 for the answer
    prompt_token_ids: list[Int32]
    completion_token_ids: list[Int32]
    token_step: list[Int32]  # index of the step in `annotations`, -1 for the answer
    same_tokens: bool


def preference_row(
    example: Mapping[str, Any], *, text: str, step_weights: Sequence[float] | None, tokenizer: Any
) -> PreferenceRow:
    """The row of an example (of schema EXAMPLES); `text`: its completion, without the token that ended the turn.

    `step_weights` None: every token weighs 1, as under KTO.
    """
    prompt_ids, token_ids = example["prompt_token_ids"], example["token_ids"]
    prompt = _written(prompt_ids, tokenizer=tokenizer)
    completion = text + _end(token_ids, text=text, tokenizer=tokenizer)
    spelt = tokenizer(prompt + completion, add_special_tokens=False)["input_ids"]
    steps = example["token_step"]
    weights = [1.0] * len(token_ids) if step_weights is None else token_weights(steps, step_weights).tolist()
    return PreferenceRow(
        row_id=example["row_id"],
        question_id=example["question_id"],
        dataset=example["dataset"],
        prompt=prompt,
        completion=completion,
        label=example["polarity"] > 0,
        weights=weights,
        prompt_token_ids=prompt_ids,
        completion_token_ids=token_ids,
        token_step=steps,
        same_tokens=spelt == [*prompt_ids, *token_ids],
    )


def _written(token_ids: Sequence[int], *, tokenizer: Any) -> str:
    return str(tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _end(token_ids: Sequence[int], *, text: str, tokenizer: Any) -> str:
    """What the tokens behind the text write: the end of the turn."""
    offsets = token_offsets(tokenizer, token_ids=token_ids, text=text)
    behind = len(token_ids)
    while behind and offsets[behind - 1][0] >= len(text):
        behind -= 1
    return _written(token_ids[behind:], tokenizer=tokenizer) if behind < len(token_ids) else ""
