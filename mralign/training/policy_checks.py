"""Before anything rests on a log-probability: are they the model's own?

A policy and a few real examples enter; nothing leaves, or why the policy must not be used: its log-probabilities are
not those of the model's own logits, or those of a sequence depend on the sequences beside it. Both are found by
computing them in the trainer's dtype and layout, so a family of models need not be known to be refused.

Axes: N completion tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mralign.config import Training
from mralign.training.batches import Micro, Pair, layout, packs
from mralign.training.loop import Task
from mralign.training.rope import positions_of

_EXAMPLES = 4
_PROMPT, _COMPLETION = 48, 64  # tokens of each: full logits of a whole sequence would fill the memory

# Mean and largest difference of a token that rounding explains. Two passes of one sequence in other shapes add their
# products in another order; the error grows with depth and with the size of the logits. SmolLM2-135M: mean 9e-6 in
# float32; in bfloat16, whose logits between 16 and 32 are 0.125 apart, mean 0.009 and largest 0.24.
_ALLOWED = {"float32": (1e-4, 1e-2), "bfloat16": (0.05, 2.0)}
_ABOVE_NOISE = 4.0
_OTHER_TOKENS = 16

Run = Callable[..., Tensor]  # a policy or its engine: (micro, own=False) -> logp_N


def check_policy(run: Any, task: Task, *, beside: bool = True) -> None:
    """Raise ValueError for a policy whose log-probabilities are not the model's own, or depend on the micro-batch.

    `run` is the policy or DeepSpeed's engine around it; it is left in the mode, training or not, that it came in. All
    ranks call this alike. Without `beside` no pass of a whole long sequence is made.
    """
    was_training = run.training
    run.eval()
    try:
        with torch.no_grad():
            check_fits(task, limit=positions_of(_causal(run).config))
            pairs = [_few_tokens(pair) for pair in _first_pairs(task)]
            check_rotary(run, pairs, task=task)
            check_own(run, pairs, settings=task.settings)
            check_attention(run, pairs, settings=task.settings)
            if beside:
                check_beside(run, pairs, task=task)
    finally:
        run.train(was_training)


def _causal(run: Any) -> Any:
    return getattr(run, "module", run).causal


def check_own(run: Run, pairs: Sequence[Pair], *, settings: Training) -> None:
    """Raise ValueError where log-probabilities of `pairs` differ from those of the model's own logits by more than
    rounding explains."""
    build = layout(settings)
    own_N = torch.cat([run(build([pair]), own=True) for pair in pairs])
    alone_N = torch.cat([run(build([pair])) for pair in pairs])
    together_N = run(build(pairs))
    ways = {
        "of each sequence alone": (alone_N, "the way from hidden states to logits is not the model's"),
        f"of {len(pairs)} sequences {_layout_name(settings)} together": (together_N, _LAYOUT_ADVICE),
    }
    for where, (found_N, why) in ways.items():
        off = found_N.double() - own_N.double()
        if _exceeds(off, settings):
            raise ValueError(
                f"the log-probabilities that training computes {where} are not those of the model's own logits: they "
                f"{_told(off, settings)}; {why}"
            )


def check_attention(run: Any, pairs: Sequence[Pair], *, settings: Training) -> None:
    """Raise ValueError where the attention in use leaves out what the model's own code does (soft caps, sinks, biases
    that an implementation takes no notice of). Models that compute attention by themselves have only one."""
    causal = _causal(run)
    used = causal.config._attn_implementation
    if used == "eager" or not type(causal).is_backend_compatible():
        return
    build = layout(settings)
    used_N = torch.cat([run(build([pair])) for pair in pairs])
    causal.set_attn_implementation("eager")
    try:
        eager_N = torch.cat([run(build([pair])) for pair in pairs])
    finally:
        causal.set_attn_implementation(used)
    off = used_N.double() - eager_N.double()
    if _exceeds(off, settings):
        raise ValueError(
            f"training.attention={used} does not compute what the model's own attention does: the log-probabilities "
            f"{_told(off, settings)}; give training.attention=eager with training.packing=off"
        )


_LAYOUT_ADVICE = (
    "sequences see each other in this layout, or not all of themselves; give training.attention=sdpa (or eager) with "
    "training.packing=off"
)


def check_rotary(run: Run, pairs: Sequence[Pair], *, task: Task) -> None:
    """Raise ValueError where the log-probabilities of a short sequence depend on the longest position beside it.

    Rotary embeddings such as LongRoPE and dynamic NTK do. Two passes of one shape, in which only the position of a last
    token differs that no other token sees, show it to the last bit in any dtype.
    """
    pair = _shortest(pairs)
    if not depends_on_position(run, pair, longest=longest_bound(task), settings=task.settings):
        return
    longest = longest_planned(task)  # no longer than the bound, and slower to find
    if depends_on_position(run, pair, longest=longest, settings=task.settings):
        raise ValueError(
            f"the log-probabilities of a sequence of {_tokens(pair)} tokens change when another of {longest} tokens "
            f"(the longest of this training, mismatched pairs included) is in its micro-batch: the rotary embedding of "
            f"this model depends on the longest position. {ROPE_ADVICE}"
        )


def check_beside(run: Run, pairs: Sequence[Pair], *, task: Task) -> None:
    """Raise ValueError where a short sequence beside the longest example has other log-probabilities than alone, by
    more than rounding explains: a model that looks at the size of its input in a way that positions do not show."""
    off = _beside(run, _shortest(pairs), longest=longest_example(task), settings=task.settings)
    if _exceeds(off, task.settings):
        raise ValueError(
            f"the log-probabilities of a sequence {_told(off, task.settings)} when it lies in a micro-batch with the "
            f"longest one; such a model cannot be trained in micro-batches of several lengths"
        )


def _shortest(pairs: Sequence[Pair]) -> Pair:
    return min(pairs, key=_tokens)


def _tokens(pair: Pair) -> int:
    return len(pair[0]) + len(pair[1])


def check_fits(task: Task, *, limit: int | None) -> None:
    """Raise ValueError where the model has positions for `limit` tokens and a sequence of the plan has more."""
    if limit is None or longest_bound(task) <= limit:
        return
    longest = longest_planned(task)
    if longest <= limit:
        return
    index = task.reader.index
    example = int((index.prompt_tokens_N + index.completion_tokens_N).max())
    kind = "an example" if example == longest else "a mismatched pair (one's prompt, another's completion)"
    raise ValueError(
        f"{kind} has {longest} tokens, but the model has positions for {limit}; give examples.max_length="
        f"{max(2, example - (longest - limit))} or less (now the longest example has {example} tokens)"
    )


ROPE_ADVICE = (
    "Either keep everything short: engine.max_model_len and examples.max_length at most the original length; or give "
    "training.rope_length the length for which the embedding is set in every micro-batch: engine.max_model_len, for "
    "which the server sets it"
)


def depends_on_position(run: Run, pair: Pair, *, longest: int, settings: Training) -> bool:
    """Whether the tokens of `pair` change with the position, below `longest`, of one token after all of them.

    In a mixture of experts another last token may go to another expert, whose product then has another shape: what
    other tokens at the near position change is rounding, and what the far position changes must exceed it.
    """
    near, far = _tokens(pair) - 1, longest - 1  # near: the pair's own last position, so that both begin a sequence anew
    if far <= near:
        return False
    at_near = run(_with_token_at(pair, near, settings=settings))
    at_far = run(_with_token_at(pair, far, settings=settings))
    change = float((at_far - at_near).abs().max())
    if change == 0:
        return False
    others = [run(_with_token_at(pair, near, settings=settings, token=token)) for token in range(_OTHER_TOKENS)]
    noise = max(float((other - at_near).abs().max()) for other in others)
    return change > _ABOVE_NOISE * noise


def _with_token_at(pair: Pair, position: int, *, settings: Training, token: int = 0) -> Micro:
    """The pair in one row with explicit positions, and after it a token at `position`, where no completion is."""
    micro = layout(settings)([pair])
    tokens = micro.ids_BS.shape[1]
    ids_BS = torch.nn.functional.pad(micro.ids_BS, (0, 1), value=token)
    positions_BS = torch.tensor([[*range(tokens), position]])
    ends = None if micro.ends_B1 is None else torch.tensor([0, tokens, tokens + 1], dtype=torch.int32)
    return replace(micro, ids_BS=ids_BS, positions_BS=positions_BS, ends_B1=ends)


def _beside(run: Run, pair: Pair, *, longest: Pair, settings: Training) -> Tensor:
    """How far the log-probabilities of `pair` move in a micro-batch with `longest`, (N,) fp64."""
    build = layout(settings)
    alone_N = run(build([pair]))
    if packs(settings):
        beside_N = run(build([pair, longest]))[: len(alone_N)]
    else:  # padded to that length; its row would take the memory once more
        micro = build([pair])
        missing = len(longest[0]) + len(longest[1]) - micro.ids_BS.shape[1]
        beside_N = run(replace(micro, ids_BS=torch.nn.functional.pad(micro.ids_BS, (0, max(0, missing)))))
    return beside_N.double() - alone_N.double()


def longest_bound(task: Task) -> int:
    """Tokens that no sequence of the plan exceeds, found without looking at its pairs."""
    index = task.reader.index
    if not task.objective.pairs or task.plan.pairs == "none":
        return int((index.prompt_tokens_N + index.completion_tokens_N).max())
    return int(index.prompt_tokens_N.max()) + int(index.completion_tokens_N.max())


def longest_planned(task: Task) -> int:
    """Tokens of the longest sequence of the plan, mismatched pairs included."""
    index = task.reader.index
    longest = int((index.prompt_tokens_N + index.completion_tokens_N).max())
    for step in range(len(task.plan)):
        batch = task.plan.batch(step)
        has = batch.partners >= 0
        if has.any():
            prompts, completions = index.prompt_tokens_N[batch.examples[has]], index.completion_tokens_N
            longest = max(longest, int((prompts + completions[batch.partners[has]]).max()))
    return longest


def longest_example(task: Task) -> Pair:
    """The longest example of the index."""
    index = task.reader.index
    place = int(np.argmax(index.prompt_tokens_N + index.completion_tokens_N))
    (example,) = task.reader.fetch([place])
    return example.prompt_ids, example.completion_ids


def _first_pairs(task: Task) -> list[Pair]:
    places = np.sort(task.plan.batch(0).examples)[:_EXAMPLES]
    return [(example.prompt_ids, example.completion_ids) for example in task.reader.fetch(places)]


def _few_tokens(pair: Pair) -> Pair:
    """The end of the prompt and the beginning of the completion."""
    return pair[0][-_PROMPT:], pair[1][:_COMPLETION]


def _layout_name(settings: Training) -> str:
    return "packed" if packs(settings) else "padded"


def _exceeds(off_N: Tensor, settings: Training) -> bool:
    mean, largest = _ALLOWED[settings.dtype]
    inside = off_N.abs().mean() <= mean and off_N.abs().max() <= largest
    return not bool(inside)  # a difference that is no number lies not inside


def _told(off_N: Tensor, settings: Training) -> str:
    mean, _ = _ALLOWED[settings.dtype]
    return (
        f"differ by {float(off_N.abs().mean()):.2g} a token on average and {float(off_N.abs().max()):.2g} at most "
        f"({len(off_N)} tokens; rounding in {settings.dtype} explains {mean:g} on average; attention "
        f"{settings.attention_used})"
    )
