"""What stops a training that cannot be right, and what warns of one that may not be.

Figures of a step or of the whole set of examples enter; nothing leaves, or a warning's text, or an exception that says
what was seen, what was expected and what to do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mralign.config import Training
from mralign.training.objectives.objective import Objective


class TrainingStopped(ValueError):
    """A training that another try cannot mend."""


def class_balance(positives: int, negatives: int, *, settings: Training, objective: Objective) -> str | None:
    """A warning where lambda_c |D+| / (lambda_r |D-|) lies outside [1, 3/2], KTO's advice (method.md §5).

    None where it lies inside, or where the objective has no negatives.
    """
    if not objective.negatives:
        return None
    if not positives or not negatives:
        side = "positive" if negatives else "negative"
        return (
            f"class balance: {positives} positive and {negatives} negative examples; without a {side} one nothing "
            f"holds the policy on that side"
        )
    ratio = settings.lambda_chosen * positives / (settings.lambda_rejected * negatives)
    if 1 <= ratio <= 1.5:
        return None
    low, high = (settings.lambda_chosen * positives / (bound * negatives) for bound in (1.5, 1))
    return (
        f"class balance: lambda_c x |D+| / (lambda_r x |D-|) = {settings.lambda_chosen:g} x {positives} / "
        f"({settings.lambda_rejected:g} x {negatives}) = {ratio:.2f}; KTO's advice is 1 to 1.5, which "
        f"training.lambda_rejected between {low:.2f} and {high:.2f} would give"
    )


def check_first_step(
    figures: Mapping[str, float], *, polarities: Sequence[int], settings: Training, objective: Objective
) -> None:
    """A fresh policy must equal the reference: r = 0, and loss = mean lambda / 2 at step 0 (method.md §5).

    Exact where the shapes of the passes agree; another cut moves a log-probability by rounding, so the mean reward is
    judged by the token: 1e-3 in float32; in bfloat16 .01 and what is left of its random rounding in the mean of so many
    tokens; and the loss within what such a reward can move it. Raises TrainingStopped beyond that: reference and policy
    are then not the same model, code or dtype. Where `training.reference` is another model than the one that is
    trained, nothing is known of r at step 0.
    """
    if not objective.reference or objective.start is None or settings.reference is not None:
        return
    tokens = figures["tokens"] / len(polarities)
    allowed = 1e-3 if settings.dtype == "float32" else 0.01 + 0.3 / math.sqrt(figures["tokens"])
    rewards = [figures[name] for name in ("reward_chosen", "reward_rejected") if name in figures]
    worst = max(abs(reward) for reward in rewards) / tokens
    expected = sum(objective.start(p, settings) for p in polarities) / len(polarities)
    lambdas = max(settings.lambda_chosen, settings.lambda_rejected)
    slack = 1e-6 + settings.beta * lambdas / 4 * 2 * allowed * tokens  # the sigmoid's slope is 1/4; r and z0 may be off
    if worst > allowed or abs(figures["loss"] - expected) > slack:
        raise TrainingStopped(
            f"at step 0 the mean reward is {worst:.4g} a token (expected 0, allowed {allowed:g}) and the loss "
            f"{figures['loss']:.6g} (expected {expected:.6g} +- {slack:.2g}): the reference was not computed with this "
            f"model, code and dtype; delete the run's reference/ and reference_by_content/ and run again"
        )


def check_moved(before: float, after: float, *, rate: float, dtype: str) -> None:
    """Raise TrainingStopped if the first optimizer step moved no trainable parameter at all."""
    if before == after:
        raise TrainingStopped(
            f"the first optimizer step (learning rate {rate:g}, {dtype}) moved no trainable parameter: nothing is "
            f"being trained; raise training.learning_rate, or use dtype float32"
        )


def not_finite(row_ids: Sequence[str], *, step: int, what: str) -> TrainingStopped:
    """The end of a training some of whose numbers are not finite, by the examples that they come from."""
    shown = ", ".join(sorted(row_ids)[:8]) + (f" and {len(row_ids) - 8} more" if len(row_ids) > 8 else "")
    return TrainingStopped(
        f"at step {step} the {what} is not finite; examples: {shown}. The last checkpoint is from before. Lower "
        f"training.learning_rate or training.max_grad_norm, or look at these rows of the stage examples"
    )
