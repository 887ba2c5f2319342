"""What a run will pay: one line for annotators, judges and searches together.

The stages that are left say whom they ask how much (run/forecast.py); one line leaves, with what is known, what is not
known yet and when it will be, and which prices are missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mralign.config import RunConfig
from mralign.plan.placing import Planned
from mralign.run.forecast import Cost, describe_costs
from mralign.run.stage import Context


def money_lines(
    config: RunConfig, planned: Sequence[Planned], *, train: Mapping[str, int], held_out: Mapping[str, int]
) -> list[str]:
    """The line, and below it one line for each stage and whom it asks. `train`, `held_out`: questions by data set."""
    bills: list[Bill] = []
    for item in planned:
        costs = _costs(config, item, train=train, held_out=held_out) if item.manifest is None else []
        if any(cost.paid for cost in costs):
            bills.append(Bill(item.stage.name, " and ".join(item.upstream), tuple(costs)))
    if not bills:
        return ["money: none; what is left asks no paid endpoint"]
    said = [*_known(bills), *_waiting(bills), *_unpriced(bills), *_budgets(bills)]
    lines = [f"money: {'; '.join(said)}"]
    for bill in bills:
        asked = [cost for cost in bill.costs if cost.requests is not None]
        lines += [f"  {bill.stage}, {line}" for line in describe_costs(asked)]
    return lines


@dataclass(frozen=True)
class Bill:
    """Whom a stage asks how much, and the stages that it waits for."""

    stage: str
    after: str
    costs: tuple[Cost, ...]

    @property
    def paid(self) -> list[Cost]:
        return [cost for cost in self.costs if cost.paid]


def _known(bills: Sequence[Bill]) -> list[str]:
    """What is known, by currency."""
    total: dict[str, float] = {}
    for bill in bills:
        for cost in bill.paid:
            if cost.money is not None:
                total[cost.currency] = total.get(cost.currency, 0.0) + cost.money
    return [f"about {amount:,.2f} {currency}" for currency, amount in total.items()]


def _waiting(bills: Sequence[Bill]) -> list[str]:
    """What has a price, and depends on what is not there yet."""
    found: dict[str, dict[str, None]] = {}
    for bill in bills:
        for cost in bill.paid:
            if cost.priced and cost.money is None:
                found.setdefault(bill.after, {})[cost.who] = None
    return [f"unknown until {stage} is finished: {', '.join(names)}" for stage, names in found.items()]


def _unpriced(bills: Sequence[Bill]) -> list[str]:
    """Who has no price."""
    found: dict[str, dict[str, None]] = {}
    for bill in bills:
        for cost in bill.paid:
            if not cost.priced:
                found.setdefault(cost.setting, {})[cost.who] = None
    return [
        f"unknown, for no price is given: {', '.join(names)} ({setting or 'no setting holds it'})"
        for setting, names in found.items()
    ]


def _budgets(bills: Sequence[Bill]) -> list[str]:
    found: dict[str, None] = {}
    for bill in bills:
        for cost in bill.paid:
            if cost.budget is not None:
                found[f"{cost.who} stops at {cost.budget:g} {cost.currency}"] = None
    return list(found)


def _ready(item: Planned) -> bool:
    there = item.settled and item.reachable
    return there and all(out.manifest() is not None for out in item.upstream.values())


def _costs(
    config: RunConfig, item: Planned, *, train: Mapping[str, int], held_out: Mapping[str, int]
) -> Sequence[Cost]:
    """What a stage will take: by what it stands on where that is finished, else by the questions that it reads."""
    stage = item.stage
    if stage.forecast is not None and _ready(item):
        return stage.forecast(Context(config, item.out, item.upstream))
    if stage.expects is None:
        return []
    split = stage.portions(config).get("questions")
    return stage.expects(config, train if split == "train" else held_out)
