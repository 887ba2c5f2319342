"""Where a training process finds what it trains on.

Committed stages enter (examples, weights, reference); a `Task` leaves, the same in every process. An objective reads
weights, a reference and negatives only if it says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mralign.config import Model, Training, resolve_path
from mralign.rows.schema import REFERENCE
from mralign.run.store import StageDir
from mralign.training.index import read_index
from mralign.training.loop import Task
from mralign.training.objectives import find
from mralign.training.pairs import Plan
from mralign.training.reader import Reader, Shelf


def local_model(model: Model) -> Model:
    """The model with its local paths absolute: a training worker has another working directory than the driver."""

    def absolute(path: str) -> str:
        place = Path(resolve_path(path))
        return str(place.absolute()) if "://" not in path and place.exists() else path

    changed = {name: absolute(path) for name in ("path", "adapter") if (path := getattr(model, name)) is not None}
    return model.model_copy(update=changed)


@dataclass(frozen=True)
class Sources:
    """Where a worker finds what it trains on."""

    settings: Training
    model: Model
    seed: int
    examples: StageDir
    weights: StageDir | None = None  # None: every token weighs 1
    reference: StageDir | None = None  # None: an objective without reference, or the reference is being made
    shelf: StageDir | None = None

    def load(self) -> Task:
        """The task. Reads the index and the addresses of the reference, no tokens."""
        s = self.settings
        objective = find(s.method)
        index = read_index(self.examples, negatives=objective.negatives)
        plan = Plan(
            index.question_N,
            seed=self.seed,
            epochs=s.epochs,
            batch_size=s.batch_size,
            max_steps=s.max_steps,
            pairs=s.pairs if objective.pairs else "none",
            kl_every=s.kl_every,
            kl_pairs=s.kl_pairs,
            kind_N=index.kind_N,
        )
        reader = Reader(index, examples=self.examples, weights=self.weights, shelf=self._shelf())
        return Task(self.model, s, self.seed, reader, plan)

    def _shelf(self) -> Shelf | None:
        if self.reference is None:
            return None
        assert self.shelf is not None
        addresses: dict[str, dict[str, str]] = {"matched": {}, "pairs": {}}
        for row in self.reference.read(schema=REFERENCE).to_pylist():
            addresses[row["kind"]][row["name"]] = row["address"]
        return Shelf(self.shelf, addresses["matched"], addresses["pairs"])


def check_shelf(sources: Sources) -> None:
    """Raise ValueError if the shelf has lost what the sealed stage `reference` points to."""
    if sources.reference is None or sources.shelf is None:
        return
    addresses = sources.reference.read(schema=REFERENCE, columns=["address"]).column("address").to_pylist()
    lost = set(addresses) - set(sources.shelf.parts())
    if lost:
        raise ValueError(
            f"{len(lost)} of {len(set(addresses))} blocks of the reference are gone from {sources.shelf.uri}; delete "
            f"{sources.reference.uri} and run the same command again: they are scored anew"
        )
