"""The kill matrix: which process is killed in which stage, and where in it; how many nodes, and where the run lies.

A stage of the second model runs the code of the same stage of the first one, and thoughts are labelled, counted and
estimated by the code of annotation, counts and matrices: each code has one row. `responses` stands apart, since there
an engine exchanges its weights.
"""

from dataclasses import dataclass

from moments import Moment

VICTIMS = ("driver", "raylet", "engine", "annotator", "mapper", "train worker", "train controller")
NODES = (1, 3)
STORES = ("disk", "s3")

# The stages in their order; of each, the write at which a process is held: one part is committed, or should be, and
# another is open.
MIDDLE = {
    "questions": Moment("write .*/questions/.*/raw/part-", 2),
    "rollouts": Moment("write .*/rollouts/[^/]+/part-", 2),
    "candidates": Moment("write .*/candidates/[^/]+/part-", 2),
    "annotation": Moment("write .*/annotation/[^/]+/part-", 2),
    "counts": Moment("write .*/counts/[^/]+/part-", 2),
    "matrices": Moment("write .*/matrices/[^/]+/part-", 2),
    "weights": Moment("write .*/weights/[^/]+/part-", 2),
    "signal": Moment("write .*/signal/[^/]+/", 2),
    "annotator_matrices": Moment("write .*/annotator_matrices/[^/]+/part-", 2),
    "agreement": Moment("write .*/agreement/[^/]+/agreement"),  # its only file
    "examples": Moment("write .*/examples/[^/]+/part-", 2),
    "reference": Moment("write .*/reference_by_content/part-", 2),
    "training": Moment("write .*/training/[^/]+/metrics.jsonl", 2),  # a checkpoint stands, the next one is made
    "evidence": Moment("write .*/evidence/[^/]+/part-", 2),
    "responses_base": Moment("write .*/responses_by_content/.*part-", 2),
    "judgements_base": Moment("write .*/judgements_base/[^/]+/part-"),
    "evaluation_base": Moment("write .*/evaluation_base/[^/]+/part-", 2),
    "responses": Moment("write .*/responses_by_content/.*part-", 2),
    "thoughts_base": Moment("write .*/thoughts_base/[^/]+/part-", 2),
}
ENGINE = Moment("call mralign.serving.warm.KeptEngine.answer_for", 2)  # an engine with a second batch
# Who works in a stage besides the driver and the node: victim -> where it is held; None: it holds the middle itself.
WORKERS = {
    "questions": {"mapper": None},
    "rollouts": {"engine": ENGINE},
    "candidates": {"mapper": None},
    "annotation": {"annotator": None},
    "counts": {"mapper": None},
    "matrices": {"mapper": Moment("call mralign.transitions.matrices.estimate_named", 2)},
    "weights": {"mapper": None},
    "annotator_matrices": {"mapper": Moment("call mralign.transitions.counts.count", 2)},
    "examples": {"mapper": None},
    "reference": {"mapper": None},
    "training": {"train worker": None, "train controller": Moment("write .*/training/[^/]+/metrics.jsonl")},
    "evidence": {"annotator": None},  # the same kind of process, which asks a search
    "responses_base": {"engine": ENGINE},
    "judgements_base": {"annotator": None},
    "responses": {"engine": ENGINE},
    "thoughts_base": {"mapper": None},
}


# The stages in the order of the run as far as a cell's own: those of the trained model that have no row stand in it.
ROAD = [
    name for stage in MIDDLE for name in ((stage, "judgements", "evaluation") if stage == "responses" else (stage,))
]


@dataclass(frozen=True)
class Cell:
    """One killed run."""

    stage: str
    victim: str
    nodes: int
    store: str

    @property
    def applies(self):
        """Whether there is such a process in the stage."""
        return self.victim in ("driver", "raylet") or self.victim in WORKERS.get(self.stage, {})

    @property
    def moment(self):
        """Where in the stage a process is held."""
        return WORKERS.get(self.stage, {}).get(self.victim) or MIDDLE[self.stage]

    def __str__(self):
        return f"{self.stage}-{self.victim}-{self.nodes}-{self.store}".replace(" ", "_")


@dataclass(frozen=True)
class Chain:
    """Killed runs that follow one another in one run directory: `victims` in their stages."""

    name: str
    victims: tuple[str, ...]
    nodes: int
    store: str

    def cells(self):
        """The cells in the order of the stages."""
        found = [Cell(stage, victim, self.nodes, self.store) for stage in MIDDLE for victim in self.victims]
        return [cell for cell in found if cell.applies]

    def __str__(self):
        return f"{self.name}-{self.nodes}-{self.store}"


def chains():
    """Every chain, one node on the local disk first."""
    groups = {"workers": VICTIMS[2:], "driver": VICTIMS[:1], "raylet": VICTIMS[1:2]}
    return [
        Chain(name, victims, nodes, store) for store in STORES for nodes in NODES for name, victims in groups.items()
    ]


def cells():
    """Every cell that applies."""
    return [cell for chain in chains() for cell in chain.cells()]
