"""What annotation will take, and what it took.

Before: a sample of trajectories enters, expected requests, tokens and money by annotator leave, with what they rest on.
After: the committed steps and the tallies enter, the figures of the manifest leave: rates by annotator and by label.
Money is that of `http.price_*`; an engine of ours has no price. METHOD.md §2a.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mralign.annotation.annotators import TALLIED
from mralign.annotation.consensus import ADJUDICATED, UNLABELLED
from mralign.annotation.desk import Desk, Tallies
from mralign.annotation.instruction import (
    Trajectory,
    adjudication_messages,
    adjudicator_instruction,
    annotation_messages,
    annotator_instruction,
)
from mralign.annotation.panel import ADJUDICATOR, ROLES
from mralign.annotation.step_labels import StepLabels
from mralign.asking.interview import price
from mralign.serving.conversation import Message


@dataclass(frozen=True)
class Expected:
    """What one annotator is expected to take; for the adjudicator the most: every step of every trajectory disputed."""

    role: str
    name: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    money: float
    paid: bool  # behind an endpoint


def expect(sample: Sequence[Trajectory], *, rows: int, desk: Desk, count: Callable[[str], int]) -> list[Expected]:
    """Expected cost of `rows` trajectories like those of `sample`; `count` gives the tokens of a text.

    A reply is taken to have one step a segment with one label each. Cached replies cost nothing, repairs cost extra.
    """
    found = []
    for role in (r for r in ROLES if r in desk.speakers):
        prompts = replies = 0
        for trajectory in sample:
            messages, reply = _exchange(trajectory, role=role, desk=desk)
            prompts += sum(count(message.content) for message in messages)
            replies += count(reply)
        scale = rows / len(sample)
        tokens = round(prompts * scale), round(replies * scale)
        cost = money({"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}, desk=desk, role=role)
        found.append(Expected(role, desk.names[role], rows, *tokens, cost, desk.speakers[role].http is not None))
    return found


def _exchange(trajectory: Trajectory, *, role: str, desk: Desk) -> tuple[tuple[Message, ...], str]:
    """The messages of a request of this role, and a reply of usual length."""
    label, segments = desk.taxonomy.labels[-1], range(len(trajectory.segments))
    said = [{"label": label, "confidence": 8}]
    if role == ADJUDICATOR:
        disputed = [(StepLabels(i, i, (label,), (8.0,)), StepLabels(i, i, (label,), (8.0,))) for i in segments]
        instruction = adjudicator_instruction(desk.taxonomy)
        messages = adjudication_messages(trajectory, disputed, instruction=instruction, show_answers=desk.show_answers)
        return messages, json.dumps({f"dispute_{i + 1}": said for i in segments})
    instruction = annotator_instruction(desk.taxonomy)
    messages = annotation_messages(trajectory, instruction=instruction, show_answers=desk.show_answers)
    steps = [{"segments": [i], "labels": said} for i in segments]
    return messages, json.dumps({"steps": steps, "confidence": 8})


def describe_expected(expected: Sequence[Expected]) -> str:
    """The expectation as text, one line an annotator."""
    lines = [
        f"  {e.name}: {'at most ' if e.role == ADJUDICATOR else ''}{e.requests:,} requests, about "
        f"{e.prompt_tokens:,} prompt and {e.completion_tokens:,} completion tokens, {_said(e)}"
        for e in expected
    ]
    note = "  replies of earlier runs cost nothing; a reply that cannot be used is asked for once more"
    return "\n".join([*lines, note])


def _said(expected: Expected) -> str:
    if not expected.paid:
        return "on engines of your own"
    return (
        f"money {expected.money:,.2f}" if expected.money else "money unknown: give http.price_prompt, price_completion"
    )


def money(tokens: Mapping[str, int], *, desk: Desk, role: str, fresh: bool = False) -> float:
    """Price of a role's tokens; `fresh`: only of those that were not found in the run directory."""
    speaker = desk.speakers.get(role)
    return price(tokens, http=speaker.http if speaker else None, fresh=fresh)


def figures(parts: Iterable[pa.Table], *, tallies: Iterable[Tallies], desk: Desk) -> dict[str, Any]:
    """The figures of the manifest; `parts` hold the column `steps` of schema ANNOTATIONS.

    annotators: by name what was counted, with repair_rate and reject_rate (of the trajectories asked about), the
    money that its replies are worth, and money_now, without those that an earlier stage of the run had paid for.
    adjudicated: share of final steps that went to the adjudicator. by_label: how many final steps the annotators
    proposed the label for, in how many of those it was not kept, in how many steps it is final, and how many of the
    proposals were escalated.
    """
    rules: Counter[str] = Counter()
    labels: dict[str, Counter[str]] = {}
    for part in parts:
        for steps in part.column("steps").to_pylist():
            for step in steps:
                rules[step["rule"]] += 1
                _count_labels(step, labels=labels)
    total = sum(rules.values())
    final = {label: counts["final"] for label, counts in labels.items() if counts["final"]}
    return {
        "steps": total,
        "rules": dict(rules.most_common()),
        "labels": dict(sorted(final.items(), key=lambda item: -item[1])),
        "adjudicated": (rules[ADJUDICATED] + rules[UNLABELLED]) / total if total else 0.0,
        "by_label": {label: dict(labels[label]) for label in desk.taxonomy.labels if label in labels},
        "annotators": _by_annotator(tallies, desk=desk),
    }


def _count_labels(step: Mapping[str, Any], *, labels: dict[str, Counter[str]]) -> None:
    escalated = step["rule"] in (ADJUDICATED, UNLABELLED)
    for label in {*step["labels"], *step["labels_a"], *step["labels_b"]}:
        proposed = [label in step["labels_a"], label in step["labels_b"]]
        labels.setdefault(label, Counter()).update(
            proposed_first=int(proposed[0]),
            proposed_second=int(proposed[1]),
            final=int(label in step["labels"]),
            dropped=int(any(proposed) and label not in step["labels"]),
            escalated=int(any(proposed) and escalated),
        )


def _by_annotator(tallies: Iterable[Tallies], *, desk: Desk) -> dict[str, dict[str, Any]]:
    totals: Tallies = {role: Counter() for role in ROLES}
    for tally in tallies:
        for role, counts in tally.items():
            totals[role].update(counts)
    found = {}
    for role, counts in totals.items():
        asked = counts["trajectories"]
        if asked:
            found[desk.names[role]] = {
                **{name: counts[name] for name in TALLIED if role in desk.speakers or name == "trajectories"},
                "repair_rate": counts["repaired"] / asked,
                "reject_rate": counts["rejected"] / asked,
                "money": money(counts, desk=desk, role=role),
                "money_now": money(counts, desk=desk, role=role, fresh=True),
            }
    return found
