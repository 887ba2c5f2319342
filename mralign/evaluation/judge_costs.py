"""What judging some responses is expected to take, before there is one.

The number of responses by data set and the judges enter; one `Cost` a judge leaves, and one of the search where
evidence is searched for. How long an answer is, and how many claims it makes, is assumed (the numbers stand below and
are told in the plan); the instructions are counted. A token is taken to have four characters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mralign.config import Annotator, RunConfig
from mralign.evaluation.benchmarks import find
from mralign.evaluation.benchmarks.benchmark import ROLES, Role, Step
from mralign.run.forecast import Cost, chat_cost

_CHARACTERS = 4  # of a token
_SHORT = 150  # tokens of question, gold answers and answer that a judge of one verdict is shown
_LONG = 600  # tokens of an answer that is taken apart into claims
_CLAIMS = 17  # of a long answer: the paper's Table 2 has 13 to 19
_EVIDENCE = 60  # tokens of a snippet that a verifier is shown
_CLAIM = 25  # tokens of a claim
_VERDICT = 15  # tokens of a reply that is one verdict
ASSUMED = (
    f"judges: {_SHORT} tokens of question and answers, {_LONG} of a long answer, in which {_CLAIMS} claims, "
    f"{_EVIDENCE} of a snippet"
)


@dataclass
class _Asked:
    """What one judge is asked, over all data sets; not `known`: the size of one of them is not."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    known: bool = True


def judge_costs(
    config: RunConfig,
    *,
    responses: Mapping[str, int | None],
    benchmarks: Mapping[str, str],
    judges: Mapping[Role, Annotator],
) -> list[Cost]:
    """Expected costs of judging so many `responses` of each data set (None: unknown), by who is asked. `judges` have
    their endpoint."""
    asked: dict[Role, _Asked] = {}
    queries: int | None = 0
    for dataset, count in responses.items():
        for step in find(benchmarks[dataset]).steps:
            role = asked.setdefault(step.role, _Asked())
            if count is None:
                role.known = False
                queries = None if step.searched else queries
                continue
            requests = count * (_CLAIMS if step.searched else 1)
            shown, said = _lengths(step, evidence=config.evaluation.longfact.evidence)
            role.requests += requests
            role.prompt_tokens += requests * (len(step.instruction) // _CHARACTERS + shown)
            role.completion_tokens += requests * said
            if step.searched and queries is not None:
                queries += requests
    found = [_cost(f"{role} {judges[role].name}", judges[role], asked[role]) for role in ROLES if role in asked]
    return found if queries == 0 else [*found, search_cost(config, queries=queries)]


def _cost(who: str, judge: Annotator, asked: _Asked) -> Cost:
    http = judge.http if judge.engine == "http" else None
    if not asked.known:
        return chat_cost(who, http=http)
    return chat_cost(
        who,
        http=http,
        requests=asked.requests,
        prompt_tokens=asked.prompt_tokens,
        completion_tokens=asked.completion_tokens,
    )


def _lengths(step: Step, *, evidence: int) -> tuple[int, int]:
    """Tokens that a judge is shown besides its instruction, and tokens of its reply."""
    if step.searched:
        return _CLAIM + evidence * _EVIDENCE, _VERDICT
    if step.role == "extractor":
        return _LONG, _CLAIMS * _CLAIM
    return _SHORT, _VERDICT


def search_cost(config: RunConfig, *, queries: int | None) -> Cost:
    """So many queries to the search endpoint, whose price no setting holds; a corpus of ours costs nothing."""
    far = config.evaluation.retrieval.engine == "http"
    return Cost("search", paid=far, requests=queries, priced=False, setting="")
