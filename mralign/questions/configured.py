"""The sources of questions that a configuration names, with their splits and with what their formats leave unsaid."""

from __future__ import annotations

from dataclasses import dataclass

from mralign.config import PLAIN_FORMATS, RunConfig, Source, resolve_path


@dataclass(frozen=True)
class SplitSource:
    """A configured source, the split it belongs to and its number there."""

    split: str
    number: int
    source: Source

    @property
    def key(self) -> str:
        """What the names of its parts begin with."""
        return f"{self.split}-{self.number:02d}"


def sources(config: RunConfig) -> list[SplitSource]:
    """All sources, train first; imported rollouts bring their own train questions."""
    train = config.questions.train
    if config.rollouts.import_on:
        fields = config.rollouts.import_fields
        train = (
            Source(
                name=config.rollouts.import_name,
                path=config.rollouts.import_on,
                fields={"id": fields.id, "question": fields.question, "answers": fields.answers},
            ),
        )
    groups = {"train": train, "dev": config.questions.dev, "test": config.questions.test}
    numbered: list[SplitSource] = []
    for split, group in groups.items():
        numbered += [SplitSource(split, number, source) for number, source in enumerate(group)]
    return numbered


def resolved(source: Source) -> Source:
    """The source with the path of its file; in a plain one the answers lie in `answer`."""
    plain = source.format in PLAIN_FORMATS
    usual = {"answers": "answer"} if plain else {}
    return source.model_copy(update={"path": resolve_path(source.path), "fields": {**usual, **source.fields}})
