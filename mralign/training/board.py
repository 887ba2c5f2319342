"""The board on which a training says where it is, for the driver to show.

Workers and Ray Train's controller write: the last row of figures, the step of the last checkpoint, where each worker
runs, who was lost. The driver reads, and tells it in sentences that name nodes, numbers of workers and steps. Ray makes
an actor of the board (stage.py); nothing here knows of it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from mralign.run.printable import one_line

_LONGEST = 300  # characters of what a worker said last


@dataclass(frozen=True)
class Place:
    """Where a worker runs. `node`: Ray's id of it."""

    node: str
    host: str
    address: str

    def __str__(self) -> str:
        return f"{self.host} ({self.address}, {self.node[:8]})"


@dataclass(frozen=True)
class Resumed:
    """A training goes on after `step`; `before`: the workers that had come so far."""

    step: int
    workers: int
    before: int

    @property
    def level(self) -> int:
        """As which it is logged: another number of workers is worth a warning."""
        return logging.INFO if self.workers == self.before else logging.WARNING

    def __str__(self) -> str:
        text = f"training goes on after step {self.step} with {_workers(self.workers)}"
        if self.workers == self.before:
            return text
        return (
            f"{text}, {self.before} before: weights and optimizer are as they were saved, cut anew; from here on the "
            f"result is that of an undisturbed training up to rounding"
        )


@dataclass(frozen=True)
class Lost:
    """Workers of a training have failed. `places`: of all workers by rank; `said`: what the failed ones said last."""

    places: Mapping[int, Place]
    said: Mapping[int, str]
    step: int  # of the last checkpoint

    def sentence(self, *, alive: Collection[str], lacks: Sequence[str]) -> str:
        """What happened, and how it goes on. `alive`: ids of the nodes that are there; `lacks`: what these lack for the
        workers that are needed."""
        # Ray Train may not have taken note of the last checkpoint before the workers were gone.
        kept = f"it goes on from step {self.step}, or the checkpoint before it"
        after = kept if self.step else "it begins anew, there is no checkpoint yet"
        room = f" as soon as there is room: {'; '.join(lacks)}" if lacks else ""
        return f"{self._happened(alive)}; {after}{room}"

    def gone(self, *, alive: Collection[str]) -> list[Place]:
        """Where the workers ran whose nodes are gone, one for each of them."""
        return [place for place in self.places.values() if place.node not in alive]

    def _happened(self, alive: Collection[str]) -> str:
        gone = self.gone(alive=alive)
        number = len(self.places)
        if gone:
            nodes = ", ".join(dict.fromkeys(map(str, gone)))
            left = _workers(number - len(gone))
            return f"training lost the node {nodes} with {len(gone)} of its {_workers(number)} and has {left} left"
        rank, said = min(self.said.items())
        where = f" on {self.places[rank]}" if rank in self.places else ""
        return f"worker {rank} of the training failed{where} ({one_line(said, longest=_LONGEST)})"


@dataclass(frozen=True)
class Told:
    """A sentence of a worker that the user should see."""

    text: str
    level: int = logging.INFO

    def __str__(self) -> str:
        return self.text


def _workers(number: int) -> str:
    return f"{number} worker{'' if number == 1 else 's'}"


class Board:
    """The actor. What is told once is read once."""

    def __init__(self) -> None:
        self.row: dict[str, float] = {}
        self.reason = ""
        self.step = 0
        self.places: dict[int, Place] = {}
        self.news: list[Resumed | Lost | Told] = []
        self.tokens: int | None = None

    def write(self, row: dict[str, float]) -> None:
        self.row = row

    def kept(self, step: int) -> None:
        """There is a checkpoint of this step."""
        self.step = step

    def begun(self, rank: int, workers: int, place: Place) -> None:
        """A worker of a group of so many has begun."""
        self.places = {r: there for r, there in self.places.items() if r < workers} | {rank: place}

    def resumed(self, step: int, workers: int, before: int) -> None:
        self.step = step
        self.news.append(Resumed(step, workers, before))

    def lost(self, said: dict[int, str]) -> None:
        self.news.append(Lost(dict(self.places), said, self.step))

    def tell(self, text: str) -> None:
        self.news.append(Told(text))

    def warn(self, text: str) -> None:
        self.news.append(Told(text, logging.WARNING))

    def lessen(self, tokens: int) -> None:
        """Memory ran out: the next try takes micro-batches of no more than so many tokens."""
        self.tokens = min(tokens, self.tokens or tokens)
        # Which worker is heard last is chance: one that waited for this one fails as well, with other words.
        text = f"memory ran out; training goes on with micro-batches of {tokens} tokens"
        self.news.append(Told(text, logging.WARNING))

    def most_tokens(self) -> int | None:
        """Tokens of a micro-batch at the most, if memory ran out before."""
        return self.tokens

    def read(self) -> tuple[dict[str, float], list[Resumed | Lost | Told]]:
        """The last row, and what happened since the last look."""
        news, self.news = self.news, []
        return self.row, news

    def stop(self, reason: str) -> None:
        """Say why another try would end as this one."""
        self.reason = reason

    def stopped(self) -> str:
        return self.reason
