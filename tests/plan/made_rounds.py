"""Stages of a run of several rounds, sealed by hand as if they had run: what the rounds read of them is made up."""

import shutil
from pathlib import Path

import pyarrow as pa
from rollouts.test_candidates import generation
from sealed_runs import seal

from mralign.config import resolve_path
from mralign.evaluation.scoring import SCORES
from mralign.rows import to_table
from mralign.rows.schema import GENERATIONS, MATRICES, QUESTIONS, Generation
from mralign.rows.subjects import Subject, Way
from mralign.run.part_names import part_name

MODEL = resolve_path("pkg://mralign.miniworld/data/model")
DEV = 40  # questions
STATES = ("a", "b")


class Runner:
    """Takes the place of `pipeline.run`. `right`: of DEV questions, how many the policy of each round answers rightly,
    from the first model on; `negatives`: candidates of each round. `ran` lists (round, stage); `stop_at`: of these one
    before which it is killed."""

    def __init__(self, right, *, negatives=None, stop_at=None):
        self.right, self.negatives, self.stop_at = right, negatives or {}, stop_at
        self.ran = []

    def __call__(self, config, planned, *, start_ray, explain=True, title="", expected_s=None):
        from mralign.plan import pipeline

        for name in [item.stage.name for item in planned]:
            planned = pipeline.placed_again(config, planned)
            item = pipeline.find(planned, name)
            if item.manifest is None:
                if (round_of(config), name) == self.stop_at:
                    raise KeyboardInterrupt
                self.ran.append((round_of(config), name))
                figures = getattr(self, f"_{name}", self._nothing)(config, item) or {}
                seal(item, rows=1, figures=figures)
        return pipeline.placed_again(config, planned)

    def _nothing(self, config, item):
        return {}

    def _questions(self, config, item):
        row = {"question_id": "q", "dataset": "nq", "split": "train", "question": "Q?", "answers": ["a"], "extra": "{}"}
        item.out.commit(part_name("train-0"), pa.Table.from_pylist([row], schema=QUESTIONS), schema=QUESTIONS)
        return {"content": {"train": "t", "dev": "d", "test": "e"}, "train": 1, "dev": DEV, "test": DEV}

    def _rollouts(self, config, item):
        said = ["Paris", "Rome", "Rome"] if round_of(config) == 1 else ["Paris"] * 3
        rows = [generation("q", "on", draw, answer) for draw, answer in enumerate(said)]
        item.out.commit(part_name("train-0-x"), to_table(rows, Generation), schema=GENERATIONS)
        return {}

    def _candidates(self, config, item):
        negatives = self.negatives.get(round_of(config), 3)
        kept = [(1, 5), (-1, negatives)]
        return {"funnel": [{"filter": "kept", "polarity": sign, "rows_out": count} for sign, count in kept]}

    def _matrices(self, config, item):
        """P goes from .5 everywhere by .1 a round in its first row; P⁺ and P⁻ do not move."""
        for name in ("all", "positive", "negative"):
            moved = 0.1 * (round_of(config) - 1) * (name == "all")
            P = [[0.5 + moved, 0.5 - moved], [0.5, 0.5]]
            rows = []
            for source, line in zip(STATES, P, strict=True):
                for target, value in zip(STATES, line, strict=True):
                    found = {"matrix": name, "source": source, "target": target, "probability": value}
                    rows.append({**found, "responsibility": 1.0, "standard_error": None, "replicates": []})
            item.out.commit(part_name(name), pa.Table.from_pylist(rows, schema=MATRICES), schema=MATRICES)

    def _training(self, config, item):
        """The first model under another name: each round's policy has a content of its own."""
        place = Path(item.out.path("model"))
        shutil.copytree(MODEL, place, dirs_exist_ok=True)
        (place / "round.txt").write_text(str(round_of(config)))

    def _evaluation_base(self, config, item):
        name = Subject.BASE.method(Way.THINK_ON, name=config.evaluation.label)
        self._scores(item, method=name, right=self.right[round_of(config) - 1])

    def _evaluation(self, config, item):
        self._scores(item, method=config.training.method, right=self.right[round_of(config)])

    def _scores(self, item, *, method, right):
        rows = []
        for n in range(DEV):
            ids = {"row_id": f"{n}/on/0", "question_id": str(n), "dataset": "miniworld"}
            rows.append({**ids, "method": method, "acc": n < right, "mis": n >= right, "thought_tokens": 30})
        item.out.commit(part_name("dev-0"), pa.Table.from_pylist(rows, schema=SCORES), schema=SCORES)
        item.out.write_text("metrics.json", "{}")


def round_of(config):
    """The round by the run directory."""
    name = config.run.dir.rstrip("/").rsplit("/", 1)[-1]
    return int(name.removeprefix("round-")) if name.startswith("round-") else 1
