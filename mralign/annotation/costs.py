"""What annotation will take, and what it took.

Before: a sample of trajectories enters, expected requests, tokens and money by annotator leave, with what they rest on.
After: the committed steps and the tallies enter, the figures of the manifest leave: rates by annotator and by label.
Money is that of `http.price_*`; an engine of ours has no price. method.md §2a.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from mralign.annotation.ask import TALLIED
from mralign.annotation.consensus import ADJUDICATED, DISTILLED, UNLABELLED
from mralign.annotation.instruction import (
    Trajectory,
    adjudication_messages,
    adjudicator_instruction,
)
from mralign.annotation.resolved import ADJUDICATOR, ROLES, ResolvedAnnotation
from mralign.annotation.step_labels import StepLabels
from mralign.asking.interview import price
from mralign.run.events import MoneySpent
from mralign.run.finished import add_tallies
from mralign.run.forecast import Cost, chat_cost, describe_costs


def expect(
    sample: Sequence[Trajectory],
    *,
    rows: int,
    resolved: ResolvedAnnotation,
    count: Callable[[str], int],
    measured: Mapping[str, Any] | None = None,
) -> list[Cost]:
    """Expected cost of `rows` trajectories like those of `sample`, of each chat model; `count` gives the tokens of a
    text. For the adjudicator it is the most: every step of every trajectory disputed. `measured`: the figures of an
    earlier annotation, whose share of cached prompt tokens is assumed again.

    A reply is taken to have one step a segment with one label each. Cached replies cost nothing, repairs cost extra.
    """
    found = []
    before = measured.get("annotators", {}) if measured else {}
    for role in ROLES:
        if role not in resolved.chats:
            continue
        prompts = replies = 0
        for trajectory in sample:
            asked, reply = _exchange(trajectory, role=role, resolved=resolved)
            prompts += sum(map(count, asked))
            replies += count(reply)
        cost = chat_cost(
            resolved.names[role],
            http=resolved.chats[role].http,
            requests=rows,
            prompt_tokens=round(prompts * rows / len(sample)),
            completion_tokens=round(replies * rows / len(sample)),
            most=role == ADJUDICATOR,
            measured_share=prefix_share(before.get(resolved.names[role], {})),
        )
        found.append(cost)
    return found


def _exchange(trajectory: Trajectory, *, role: str, resolved: ResolvedAnnotation) -> tuple[list[str], str]:
    """The texts of a request of this role, and a reply of usual length."""
    taxonomy, show = resolved.taxonomy, resolved.show_answers
    label, segments = taxonomy.labels[-1], range(len(trajectory.segments))
    said = [{"label": label, "confidence": 8}]
    if role == ADJUDICATOR:
        steps = [StepLabels(i, i, (label,), (8.0,)) for i in segments]
        disputed = list(zip(steps, steps, strict=True))
        instruction = adjudicator_instruction(taxonomy)
        messages = adjudication_messages(trajectory, disputed, instruction=instruction, show_answers=show)
        reply: dict[str, Any] = {f"dispute_{i + 1}": said for i in segments}
    else:
        messages = resolved.instruction.messages(trajectory)
        reply = {"steps": [{"segments": [i], "labels": said} for i in segments], "confidence": 8}
    return [message.content for message in messages], json.dumps(reply)


def describe_expected(expected: Sequence[Cost]) -> str:
    """The expectation as text, one line an annotator."""
    lines = [f"  {line}" for line in describe_costs(expected)]
    note = "  replies of earlier runs cost nothing; a reply that cannot be used is asked for once more"
    return "\n".join([*lines, note])


def expected_by_currency(expected: Sequence[Cost]) -> list[MoneySpent]:
    """The money that paid annotators are expected to take, before any of it is spent."""
    total: dict[str, float] = {}
    for cost in expected:
        if cost.money:
            total[cost.currency] = total.get(cost.currency, 0.0) + cost.money
    return [MoneySpent(spent=0.0, currency=currency, expected=money) for currency, money in total.items()]


def prefix_share(counts: Mapping[str, Any]) -> float:
    """Of the prompt tokens that were counted, the share that a prefix cache held."""
    prompt = counts.get("prompt_tokens", 0)
    return float(counts.get("prefix_tokens", 0) / prompt) if prompt else 0.0


def money(tokens: Mapping[str, int], *, resolved: ResolvedAnnotation, role: str, fresh: bool = False) -> float:
    """Price of a role's tokens; `fresh`: only of those that were not found in the run directory."""
    annotator = resolved.chats.get(role)
    return price(tokens, http=annotator.http if annotator else None, fresh=fresh)


def figures(
    parts: Iterable[pa.Table], *, tallies: Iterable[Mapping[str, Any]], resolved: ResolvedAnnotation
) -> dict[str, Any]:
    """The figures of the manifest; `parts` hold the column `steps` of schema ANNOTATIONS.

    annotators: by name what was counted, with repair_rate and reject_rate (of the trajectories asked about), the
    money that its replies are worth, and money_now, without those that an earlier stage of the run had paid for.
    adjudicated: share of the panel's final steps that went to the adjudicator. by_label: how many final steps the
    annotators proposed the label for, in how many of those it was not kept, in how many steps it is final, and how many
    of the proposals were escalated.
    """
    rules: Counter[str] = Counter()
    labels: dict[str, Counter[str]] = {}
    for part in parts:
        for steps in part.column("steps").to_pylist():
            for step in steps:
                rules[step["rule"]] += 1
                _count_labels(step, labels=labels)
    total = sum(rules.values())
    asked = total - rules[DISTILLED]
    final = {label: counts["final"] for label, counts in labels.items() if counts["final"]}
    return {
        "steps": total,
        "rules": dict(rules.most_common()),
        "labels": dict(sorted(final.items(), key=lambda item: -item[1])),
        "adjudicated": (rules[ADJUDICATED] + rules[UNLABELLED]) / asked if asked else 0.0,
        "by_label": {label: dict(labels[label]) for label in resolved.taxonomy.labels if label in labels},
        "annotators": _by_annotator(tallies, resolved=resolved),
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


def _by_annotator(tallies: Iterable[Mapping[str, Any]], *, resolved: ResolvedAnnotation) -> dict[str, dict[str, Any]]:
    found = {}
    for role, counts in add_tallies(tallies).items():
        asked = counts.get("trajectories", 0)
        if not asked:
            continue
        counted = TALLIED if role in resolved.chats else ("trajectories",)
        found[resolved.names[role]] = {
            **{name: counts.get(name, 0) for name in counted},
            "repair_rate": counts.get("repaired", 0) / asked,
            "reject_rate": counts.get("rejected", 0) / asked,
            "money": money(counts, resolved=resolved, role=role),
            "money_now": money(counts, resolved=resolved, role=role, fresh=True),
        }
    return found
