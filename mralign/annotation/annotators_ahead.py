"""The annotators are asked about candidates while others are still sampled (run/ahead.py).

A configuration enters; who can be asked beside the rollouts leaves, or why nobody can. Only endpoints are: an engine of
the run would take the devices that the rollouts use. What they say is decided again, from the same replies, when the
stage runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mralign.annotation.ask import AskedAnnotator, Opinions, annotators_at
from mralign.annotation.decide import annotate_row
from mralign.annotation.resolved import resolve_annotation, roles_of
from mralign.asking.chats import SharedEngine
from mralign.asking.interview import money_spent
from mralign.config import RunConfig
from mralign.run.events import MoneySpent
from mralign.run.finished import add_tallies
from mralign.serving.endpoint import Endpoint


def no_overlap(config: RunConfig) -> str | None:
    """Why annotators cannot be asked while answers are sampled; None: they can."""
    if config.rollouts.import_on:
        return "the rollouts are imported, which takes no time"
    asked = [one for one in roles_of(config.annotation).values() if one.is_chat]
    if not asked:
        return "no annotator is asked in words, and the others take no time"
    if config.annotation.cascade is not None:
        return "the cascade chooses whom the panel is asked about when all candidates are known"
    for annotator in asked:
        name = f"annotator {annotator.name!r}"
        if annotator.engine == "vllm":
            return f"{name} is served by an engine of the run, which takes devices that the rollouts use"
        if annotator.http is None and config.rollouts.engine == "http":
            return f"{name} is asked at the endpoint that samples the rollouts; give it an http section of its own"
        if (annotator.http or config.http).batch:
            return f"{name} is asked in batches, which are gathered when all candidates are known"
    return None


def overlap_lines(config: RunConfig) -> list[str]:
    """What a plan says of it."""
    if not config.run.overlap:
        return []
    reason = no_overlap(config)
    if reason is None:
        return ["overlap: annotators are asked about candidates while further questions are sampled"]
    return [f"overlap: run.overlap=true is of no use here: {reason}"]


class AnnotatorsAhead:
    """The annotators and the adjudicator, all at once (run/ahead.py: Asker)."""

    def __init__(self, config: RunConfig) -> None:
        self.resolved = resolve_annotation(config)
        self.endpoints_by_role = {role: chat.http for role, chat in self.resolved.chats.items()}
        self.at_once = 2 * max(http.concurrency for http in self.endpoints_by_role.values() if http is not None)
        self.tallies: dict[str, Any] = {}
        self.annotators: dict[str, AskedAnnotator] = {}
        self.endpoints: list[Endpoint] = []

    async def __aenter__(self) -> AnnotatorsAhead:
        for roles in self.resolved.engines:
            engine = SharedEngine(self.resolved.served(roles))
            assert engine.endpoint is not None, roles
            self.endpoints.append(engine.endpoint)
            self.annotators |= annotators_at(self.resolved, roles, engine=engine)
        return self

    async def __aexit__(self, *error: Any) -> None:
        for endpoint in self.endpoints:
            await endpoint.close()

    async def ask(self, row: Mapping[str, Any]) -> None:
        """Ask all that the stage would ask about a candidate."""
        opinions = Opinions()
        try:
            await annotate_row(row, resolved=self.resolved, opinions=opinions, annotators=self.annotators)
        finally:
            self.tallies = add_tallies([self.tallies, opinions.tallies])

    def stop(self) -> None:
        """Begin no further request."""
        for endpoint in self.endpoints:
            endpoint.stop("the stage itself begins to ask")

    def spent(self) -> list[MoneySpent]:
        """What the replies have cost."""
        return money_spent(self.tallies, endpoints=self.endpoints_by_role)

    def took(self) -> Mapping[str, Any]:
        """The tallies by role."""
        return self.tallies


def annotators_ahead(config: RunConfig) -> AnnotatorsAhead | None:
    """Who can be asked before the stage begins; None: nobody."""
    return AnnotatorsAhead(config) if no_overlap(config) is None else None
