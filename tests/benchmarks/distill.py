"""What a labeller and a cascade cost the weights: money for the panel against the error of the weights.

    python tests/benchmarks/distill.py [--quick] [--repeats 5] [--encoder DIR]

The panel are the cue phrases of the package. First the report of a labeller that learns from all it says, and with
`--encoder` of one that sees the vectors of a sentence encoder as well (curves are without). Then the panel labels
some trajectories (the pilot), a labeller learns from them, and of all others the panel is asked about a share, chosen
in three ways: at random, by the labeller's doubt (the entropy of its label sets, summed over the steps), and by the
expected error of the weights (annotation/cascade.py). The rest is the labeller's. The error is the mean change of a
log-weight over all steps against the weights by the panel alone. Beside it: the trajectories that were asked about at
random and no others, and each rule book alone, which is the floor that costs nothing. Money: the expected tokens of
the two annotators (four characters a token) at the prices of the example in docs/annotators.md.

The worlds are thoughts by the grammar of the embedded world, and the 800 real thoughts where the development data lie
beside the checkout; these have no verdict that depends on thinking, so an attempted answer stands for positive.
"""

import argparse
import json
import os
import platform
import random
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402

from mralign.annotation.cascade import choose, foresee  # noqa: E402
from mralign.annotation.costs import expect  # noqa: E402
from mralign.annotation.decide import annotate_here  # noqa: E402
from mralign.annotation.instruction import trajectory_of  # noqa: E402
from mralign.annotation.labeller_fit import fit  # noqa: E402
from mralign.annotation.resolved import resolve_annotation  # noqa: E402
from mralign.annotation.segment_encoder import open_encoder  # noqa: E402
from mralign.cli.distill import report_lines  # noqa: E402
from mralign.config import parse  # noqa: E402
from mralign.distillation.held_out import (  # noqa: E402
    HeldOutWork,
    labelled_table,
    panel_table,
    report,
    thoughts_per_second,
)
from mralign.distillation.panel import panel_work  # noqa: E402
from mralign.distillation.weight_change import WeightSettings, matrices_of, weigh, weight_change  # noqa: E402
from mralign.miniworld.world import WorldParams, draw_trace, make_world  # noqa: E402
from mralign.rollouts import segments as segment_spans  # noqa: E402
from mralign.rows.schema import CANDIDATES  # noqa: E402

TRACES = ROOT.parent / "shared" / "data" / "traces" / "qwen3-8b_simpleqa.jsonl"
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75)
WAYS = ("random", "doubt", "error")
PRICED = {"base_url": "https://api.deepseek.com/v1", "model": "m", "price_prompt": 0.3, "price_completion": 1.1}


def candidate(number, text, *, positive, question):
    spans = segment_spans(text, start=text.find("<think>") + len("<think>"), end=text.find("</think>"))
    empty = dict.fromkeys(CANDIDATES.names)
    return empty | {
        "row_id": f"w/{number}/on/0",
        "question_id": f"w/{number}",
        "dataset": "w",
        "question": question,
        "answers": ["?"],
        "polarity": 1 if positive else -1,
        "text": text,
        "segment_start": [start for start, _ in spans],
        "segment_end": [end for _, end in spans],
    }


def embedded(limit):
    """Thoughts about invented facts; positive where the answer is right."""
    dice, world = random.Random(1), make_world(7, params=WorldParams())
    for number, fact in enumerate(world.facts[:limit]):
        trace = draw_trace(fact, world=world, rng=dice)
        text = "<think>" + "\n\n".join(segment.text for segment in trace.segments) + f"</think>{trace.answer}"
        yield candidate(number, text, positive=trace.answer == fact.gold, question=fact.question)


def real(limit):
    for line in TRACES.read_text(encoding="utf-8").splitlines()[:limit]:
        row = json.loads(line)
        if "</think>" in row["thought"]:
            yield candidate(row["id"], row["thought"], positive=row["grading"] != "C", question=row["problem"])


class Panel:
    """All that the cue phrases say of some trajectories, and the weights that follow."""

    def __init__(self, rows):
        config = parse({"questions": {"train": [{"name": "w", "path": "w"}]}})
        resolved = resolve_annotation(config)
        annotated, rejects = annotate_here(pa.Table.from_pylist(rows, schema=CANDIDATES), resolved=resolved)
        assert not rejects
        self.trajectories = {row["row_id"]: trajectory_of(row) for row in rows}
        segments = {name: trajectory.segments for name, trajectory in self.trajectories.items()}
        self.work = panel_work(annotated, segments=segments, states=resolved.taxonomy.states)
        self.by = WeightSettings.of(config, states=resolved.taxonomy.states)
        self.table = panel_table(self.work)
        self.weighed = weigh(self.table, by=self.by)
        self.matrices = matrices_of(self.table, by=self.by)
        self.rows = self.table.to_pylist()

    def error(self, table, *, field="labels"):
        """Mean change of a log-weight where a table takes the place of the panel's."""
        other = matrices_of(table, by=self.by, field=field)
        changes = weight_change(self.weighed, of=self.matrices, other=other, by=self.by, replicate=0, least=10)
        return changes.mean

    def money(self, row_ids):
        chats = {name: {"name": name, "engine": "http", "http": PRICED} for name in ("a", "b")}
        annotators = {"annotators": list(chats.values())}
        resolved = resolve_annotation(
            parse({"questions": {"train": [{"name": "w", "path": "w"}]}, "annotation": annotators})
        )
        asked = [self.trajectories[name] for name in row_ids]
        costs = expect(asked, rows=len(asked), resolved=resolved, count=lambda text: len(text) // 4)
        return sum(cost.money for cost in costs)


def orders(panel, *, labeller, pool, dice):
    """By way, which of the pool (places) the panel is asked about at each budget."""
    work, L = panel.work, len(panel.work.labels)
    foreseen = []
    for place in pool:
        row, prediction = work.rows[place], labeller.predict(work.lessons[place].segments)
        foreseen.append(foresee(row["row_id"], polarity=row["polarity"], prediction=prediction, L=L))
    place_of = {one.row_id: place for one, place in zip(foreseen, pool, strict=True)}
    shuffled = dice.permutation(pool).tolist()
    doubtful = [place_of[one.row_id] for one in sorted(foreseen, key=lambda one: -one.entropy)]
    return {
        "random": lambda budget: shuffled[:budget],
        "doubt": lambda budget: doubtful[:budget],
        "error": lambda budget: [place_of[name] for name in choose(foreseen, budget=budget)],
    }


def curve(panel, *, pilot_size, seed):
    """{(share, way): (error, money)} of one pilot."""
    dice = np.random.default_rng(seed)
    order = dice.permutation(len(panel.rows)).tolist()
    pilot, pool = order[:pilot_size], order[pilot_size:]
    labeller = fit([panel.work.lessons[place] for place in pilot], labels=panel.work.labels).labeller
    predictions = [labeller.predict(lesson.segments) for lesson in panel.work.lessons]
    own = labelled_table(panel.work, predictions).to_pylist()
    found = {}
    chosen = orders(panel, labeller=labeller, pool=pool, dice=dice)
    for share in SHARES:
        for way in WAYS:
            asked = {*pilot, *chosen[way](round(share * len(pool)))}
            rows = [panel.rows[place] if place in asked else own[place] for place in range(len(own))]
            money = panel.money([panel.rows[place]["row_id"] for place in asked])
            found[share, way] = panel.error(pa.Table.from_pylist(rows, schema=panel.table.schema)), money
            if way == "random":
                alone = [panel.rows[place] for place in asked]
                found[share, "asked only"] = (
                    panel.error(pa.Table.from_pylist(alone, schema=panel.table.schema)),
                    money,
                )
    return found


def learned(panel, *, encoder=None):
    """The report of a labeller that learns from all that the panel says, printed; its agreement."""
    fitted = fit(panel.work.lessons, labels=panel.work.labels, encoder=encoder)
    names = {"labels_a": "first", "labels_b": "second", "labels": "panel"}
    found = report(HeldOutWork(panel.work, fitted.held_out, names=names, by=panel.by))
    found["thoughts_per_second"] = thoughts_per_second(fitted.labeller, work=panel.work)
    print("\n".join(report_lines(found)))
    return {"strict": found["agreement"][0]["strict"], "weights": found["weights"]["mean_change"]}


def world(name, rows, *, pilot_size, repeats, encoder):
    """The curve of a world, printed; its figures."""
    panel = Panel(rows)
    print(f"\n{name}: {len(rows)} trajectories")
    agreed = {"words": learned(panel)}
    if encoder is not None:
        print("\nwith the encoder")
        agreed["encoder"] = learned(panel, encoder=encoder)
    curves = [curve(panel, pilot_size=pilot_size, seed=seed) for seed in range(repeats)]
    mean = {key: tuple(statistics.mean(one[key][part] for one in curves) for part in range(2)) for key in curves[0]}
    whole = panel.money([row["row_id"] for row in panel.rows])
    floor = {field: panel.error(panel.table, field=field) for field in ("labels_a", "labels_b")}
    print(f"\na pilot of {pilot_size}, {repeats} pilots")
    print(
        f"the panel about all costs {whole:.3f}; one rule book alone errs by "
        + ", ".join(f"{e:.4f}" for e in floor.values())
    )
    print(
        f"{'asked':>6} " + " ".join(f"{way:>18}" for way in (*WAYS, "asked only")) + "   (error of a log-weight, money)"
    )
    for share in SHARES:
        cells = [f"{mean[share, way][0]:10.4f} {mean[share, way][1]:7.3f}" for way in (*WAYS, "asked only")]
        print(f"{100 * share:5.0f}% " + " ".join(cells))
    figures = {f"{way} {share:g}": [round(value, 5) for value in mean[share, way]] for share, way in mean}
    ratio = {way: round(mean[0.25, way][0] / max(mean[0.25, "random"][0], 1e-12), 3) for way in ("doubt", "error")}
    return ratio, figures | {"floor": floor, "whole": whole, "labeller": agreed}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--encoder", help="directory of a sentence encoder")
    args = parser.parse_args()
    repeats = args.repeats or (1 if args.quick else 5)
    encoder = open_encoder(args.encoder) if args.encoder else None
    ratios, figures = {}, {}
    worlds = {"embedded": (embedded, 300 if args.quick else 600, 30)}
    if TRACES.exists():
        worlds["real"] = (real, 200 if args.quick else 800, 60 if args.quick else 150)
    for name, (rows, limit, pilot_size) in worlds.items():
        ratio, found = world(name, list(rows(limit)), pilot_size=pilot_size, repeats=repeats, encoder=encoder)
        ratios |= {f"{name}: {way} over random at a quarter": value for way, value in ratio.items()}
        figures[name] = found
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(json.dumps({"benchmark": "distill", "ratios": ratios, "figures": figures, "machine": machine}))


if __name__ == "__main__":
    main()
