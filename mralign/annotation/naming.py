"""Clusters of names get a name, a meaning and a macro-strategy each, and become a taxonomy (METHOD.md §2b).

The typical names of each cluster enter; the request to whoever names them, the reader of its reply, and the text of the
taxonomy file leave. All clusters are named in one request, so that their names differ and their groups fit together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from mralign.annotation.open_labels import MAX_NAME, snake_case
from mralign.annotation.taxonomy import Taxonomy
from mralign.asking.json_reply import Fault, ShapeError, fields, object_schema, parse_object, reader
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


@dataclass(frozen=True)
class Strategy:
    """What one cluster is called."""

    name: str
    meaning: str
    macro: str


def naming_request(typical: Sequence[Sequence[str]], *, frequency: Mapping[str, int]) -> ChatRequest:
    """The request to name the clusters, given the typical names of each."""
    lines = [
        f"cluster_{number}: " + ", ".join(f"{name} ({frequency[name]})" for name in names)
        for number, names in enumerate(typical, start=1)
    ]
    messages = (Message("system", _INSTRUCTION), Message("user", "\n".join(lines)))
    return ChatRequest("taxonomy", messages, schema=naming_schema(len(typical)))


def naming_schema(clusters: int) -> dict[str, Any]:
    """The JSON schema of a reply on so many clusters."""
    short, long = ({"type": "string", "minLength": 1, "maxLength": size} for size in (MAX_NAME, _MAX_MEANING))
    entry = object_schema(name=short, meaning=long, macro=short)
    return object_schema(**{f"cluster_{number}": entry for number in range(1, clusters + 1)})


@reader
def read_naming(text: str, *, clusters: int) -> tuple[Strategy, ...] | Fault:
    """One strategy a cluster, in order."""
    return _strategies(parse_object(text), clusters=clusters)


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
    entries = [
        {"label": label, "macro": taxonomy.macro[label]}
        | ({"meaning": taxonomy.meaning[label]} if label in taxonomy.meaning else {})
        for label in taxonomy.labels
    ]
    return yaml.safe_dump({"labels": entries}, sort_keys=False, allow_unicode=True, width=120)


def _strategies(body: Any, *, clusters: int) -> tuple[Strategy, ...]:
    keys = [f"cluster_{number}" for number in range(1, clusters + 1)]
    found = fields(body, *keys, what="the reply")
    odd = sorted(set(found) - set(keys))
    if odd:
        raise ShapeError("wrong_shape", f"the reply names {odd!r:.200}; allowed are cluster_1 to cluster_{clusters}")
    strategies = tuple(_strategy(found[key], what=key) for key in keys)
    names = [strategy.name for strategy in strategies]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ShapeError("bad_labels", f"the names {repeated!r:.300} occur more than once; each must differ")
    return strategies


def _strategy(value: Any, *, what: str) -> Strategy:
    found = fields(value, "name", "meaning", "macro", what=what)
    name = snake_case(_line(found["name"], what=f"{what}: name", longest=MAX_NAME))
    if not any(character.isalpha() for character in name) or len(name) > MAX_NAME:
        raise ShapeError("bad_labels", f"{what}: {found['name']!r:.100} is no name; allowed are words in snake_case")
    meaning = _line(found["meaning"], what=f"{what}: meaning", longest=_MAX_MEANING)
    return Strategy(name, meaning, _line(found["macro"], what=f"{what}: macro", longest=MAX_NAME))


def _line(value: Any, *, what: str, longest: int) -> str:
    """A text on one line, its white space made single blanks."""
    text = " ".join(value.split()) if isinstance(value, str) else ""
    if not text or len(text) > longest or not text.isprintable():
        raise ShapeError("bad_labels", f"{what} is {value!r:.100}; it must be a text of 1 to {longest} characters")
    return text
