"""Clusters of names get a name, a meaning and a macro-strategy each, and become a taxonomy (method.md §2b).

The typical names of each cluster enter; the request to whoever names them, the reader of its reply, and the text of the
taxonomy file leave. All clusters are named in one request, so that their names differ and their groups fit together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, ConfigDict, Field, create_model

from mralign.annotation.open_labels import MAX_NAME, StrategyName
from mralign.annotation.taxonomy import Taxonomy
from mralign.asking.json_reply import Fault, JsonReply, read_reply, reply_schema
from mralign.serving.conversation import ChatRequest, Message

_MAX_MEANING = 300  # characters
_INSTRUCTION = """\
Annotators named, in their own words, the thinking strategies that they saw in many thoughts. The names were put into \
clusters by their meaning. You are given each cluster as its most typical names, with how often each was used. Make \
one strategy out of each cluster:

- name: one to three words in snake_case that cover the whole cluster. All names must differ, and an annotator must be \
able to tell any two of the strategies apart.
- meaning: one sentence in the present tense that says what a thinker does who uses the strategy. Subject-free, \
such as "draws the next result from the one before".
- macro: the broader group that the strategy belongs to, in a few words. Use between two and six groups for all \
clusters together (one where there are very few clusters), each written the same way every time.

Reply with one JSON object and nothing else, with one key for each cluster:
{"cluster_1": {"name": "...", "meaning": "...", "macro": "..."}, "cluster_2": {...}}"""


def _one_line(text: str) -> str:
    """A text on one line, its white space made single blanks."""
    line = " ".join(text.split())
    if not line or not line.isprintable():
        raise ValueError("it must be a text of one line that can be printed")
    return line


class Strategy(JsonReply):
    """What one cluster is called."""

    model_config = ConfigDict(extra="ignore")

    name: StrategyName
    meaning: Annotated[str, Field(min_length=1, max_length=_MAX_MEANING), AfterValidator(_one_line)]
    macro: Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(_one_line)]


class NamingReply(JsonReply):
    """A strategy for each cluster, by its number from 1: `cluster_1`, `cluster_2` ..."""

    @classmethod
    def reason(cls, field: str) -> str:
        return "bad_labels"


def naming_request(typical: Sequence[Sequence[str]], *, frequency: Mapping[str, int]) -> ChatRequest:
    """The request to name the clusters, given the typical names of each."""
    lines = []
    for number, names in enumerate(typical, start=1):
        shown = ", ".join(f"{name} ({frequency[name]})" for name in names)
        lines.append(f"cluster_{number}: {shown}")
    messages = (Message("system", _INSTRUCTION), Message("user", "\n".join(lines)))
    return ChatRequest("taxonomy", messages, schema=naming_schema(len(typical)))


def naming_reply(clusters: int) -> type[NamingReply]:
    """The class of a reply on so many clusters."""
    fields: Any = {f"cluster_{number}": (Strategy, ...) for number in range(1, clusters + 1)}
    return create_model("NamingReply", __base__=NamingReply, **fields)


def naming_schema(clusters: int) -> dict[str, Any]:
    """The JSON schema of a reply on so many clusters."""
    return reply_schema(naming_reply(clusters))


def read_naming(text: str, *, clusters: int) -> tuple[Strategy, ...] | Fault:
    """One strategy a cluster, in order."""
    reply = read_reply(text, naming_reply(clusters))
    if isinstance(reply, Fault):
        return reply
    strategies = tuple(strategy for _, strategy in reply)
    names = [strategy.name for strategy in strategies]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        return Fault("bad_labels", f"the names {repeated!r:.300} occur more than once; each must differ")
    return strategies


def assemble(strategies: Sequence[Strategy], *, instances: Sequence[int]) -> Taxonomy:
    """The taxonomy: groups, and strategies inside a group, with most instances first."""
    total: dict[str, int] = {}
    for strategy, count in zip(strategies, instances, strict=True):
        total[strategy.macro] = total.get(strategy.macro, 0) + count
    pairs = sorted(
        zip(strategies, instances, strict=True),
        key=lambda pair: (-total[pair[0].macro], pair[0].macro, -pair[1], pair[0].name),
    )
    return Taxonomy(
        labels=tuple(strategy.name for strategy, _ in pairs),
        macro={strategy.name: strategy.macro for strategy, _ in pairs},
        meaning={strategy.name: strategy.meaning for strategy, _ in pairs},
    )


def to_yaml(taxonomy: Taxonomy) -> str:
    """The text of the file that `load_taxonomy` reads back."""
    entries = []
    for label in taxonomy.labels:
        entry = {"label": label, "macro": taxonomy.macro[label]}
        if label in taxonomy.meaning:
            entry["meaning"] = taxonomy.meaning[label]
        entries.append(entry)
    return yaml.safe_dump({"labels": entries}, sort_keys=False, allow_unicode=True, width=120)
