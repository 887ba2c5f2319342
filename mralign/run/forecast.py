"""What a stage is expected to take of whoever is paid: requests, tokens, money.

The rooms make `Cost` values, before the stage that they stand on is finished or after; the plan adds them up. None is
what cannot be known yet. Money is that of the configured prices, in `run.currency`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mralign.config import Http


@dataclass(frozen=True)
class Cost:
    """What one annotator, judge or search is expected to take. `paid`: it stands behind an endpoint.

    `most`: not more than that. `priced`: the configuration has a price of it; without one its money is not known.
    """

    who: str
    paid: bool
    requests: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    money: float | None = None
    priced: bool = True
    most: bool = False
    setting: str = "http.price_prompt and price_completion"  # which gives the price; empty: none does
    currency: str = ""
    budget: float | None = None
    prefix_share: float = 0.0  # of the prompt tokens that is priced as found in a prefix cache

    @property
    def known(self) -> bool:
        """Whether its money is known."""
        return not self.paid or (self.priced and self.money is not None)


def chat_cost(
    who: str,
    *,
    http: Http | None,
    requests: int | None = None,
    prompt_tokens: int | None = None,
    completion_tokens: int | None = None,
    most: bool = False,
    measured_share: float = 0.0,
) -> Cost:
    """The cost of a chat model behind an endpoint, or (`http` None) on an engine of ours, which has no price.

    `measured_share`: of the prompt tokens, what earlier answers found in the endpoint's prefix cache; it is used where
    such tokens have a price of their own.
    """
    priced = http is not None and http.priced
    share = measured_share if http is not None and http.price_cached is not None else 0.0
    money = None
    if http is not None and priced and prompt_tokens is not None and completion_tokens is not None:
        whole = http.money(prompt=prompt_tokens, completion=completion_tokens, prefix=prompt_tokens * share)
        money = float(whole) * http.price_share
    return Cost(
        who,
        paid=http is not None,
        requests=requests,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        money=money,
        priced=priced,
        most=most,
        currency=http.currency if http else "",
        budget=http.budget if http else None,
        prefix_share=share,
    )


def describe_costs(costs: Sequence[Cost]) -> list[str]:
    """One line each: who is asked how much."""
    return [f"{cost.who}: {_amount(cost)}, {_money(cost)}" for cost in costs]


def _amount(cost: Cost) -> str:
    if cost.requests is None:
        return "as many requests as there are rows"
    most = "at most " if cost.most else ""
    found = f"{most}{cost.requests:,} requests"
    if cost.prompt_tokens is None or cost.completion_tokens is None:
        return found
    return f"{found}, about {cost.prompt_tokens:,} prompt and {cost.completion_tokens:,} completion tokens"


def _money(cost: Cost) -> str:
    if not cost.paid:
        return "on engines of your own"
    if not cost.priced:
        return f"money unknown: give {cost.setting}" if cost.setting else "money unknown: no setting holds its price"
    if cost.money is None:
        return "money unknown yet"
    share = cost.prefix_share
    cached = f" (assumed: {share:.0%} of the prompts cached, as measured before)" if share else ""
    return f"money {cost.money:,.2f} {cost.currency}{cached}"
