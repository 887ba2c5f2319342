"""What stands in each section of the page about the way to the trained model.

Finished stages enter; blocks leave. Each function may rely on its stage being finished: `document.py` asks before.

Axes: K states of the chain (row: from, column: to).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mralign.report import annotator_rows, labeller_rows, wording
from mralign.report.blocks import Bar, Bars, Block, Curves, Facts, Grid, Series, Text
from mralign.report.findings import Act, Labelling, figures, finished, read_history, read_labelling
from mralign.rows import Polarity
from mralign.transitions.signal_sentence import rows_of, weights_of

_TONES = {None: "plain", 1: "positive", -1: "negative", 0: "neutral"}
_SPENT = ("Annotator", "Requests", "Repaired", "Rejected", "Prompt tokens", "Completion tokens", "Money")
_PROPOSED = ("Label", "First annotator", "Second annotator", "Final", "Escalated")
_STEP = "Optimizer step"
# (title, title of the values, columns of the history with the tone of each)
_CHARTS: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    ("Loss", "Loss", {"loss": "plain"}),
    ("Rewards", "Mean reward", {"reward_chosen": "positive", "reward_rejected": "negative"}),
    ("Margin and z0", "Reward", {"margin": "plain", "z0": "neutral"}),
    ("Gradient norm", "Norm", {"grad_norm": "plain"}),
    ("Learning rate", "Rate", {"learning_rate": "plain"}),
)


def questions(acts: Mapping[str, Act]) -> list[Block]:
    lead = "Records read, and what became of them. A question that stands twice, or in a held-out split, is put aside."
    rows = wording.source_rows(figures(acts, "questions").get("funnel", []))
    return [Text(lead), Grid("Sources", ("Split", "Data set", "Read", "Put aside", "Kept"), rows)]


def candidates(acts: Mapping[str, Act]) -> list[Block]:
    funnel = figures(acts, "candidates").get("funnel", [])
    lead = "Positive: thinking was right and not thinking was wrong in every draw. Negative: the other way round."
    blocks: list[Block] = [Text(lead)]
    for name in dict.fromkeys(row["dataset"] for row in funnel):
        steps = wording.funnel_steps(funnel, dataset=name)
        bars = [Bar(label, float(n), wording.number(n), _TONES[polarity]) for label, n, polarity in steps]
        blocks.append(Bars(f"Funnel of {name}", bars))
    head = ("Data set", "Filter", "Polarity", "Unit", "In", "Out")
    rows = [_funnel_row(row) for row in funnel]
    return [*blocks, Grid("Rows in and out of every filter", head, rows, folded=True)]


def _funnel_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    polarity = wording.polarity_name(row["polarity"])
    return row["dataset"], row["filter"], polarity, row["unit"], f"{row['rows_in']}", f"{row['rows_out']}"


def annotation(acts: Mapping[str, Act]) -> list[Block]:
    out = finished(acts, "annotation")
    assert out is not None
    found, written = read_labelling(out), figures(acts, "annotation")
    adjudicated = written.get("adjudicated")
    note = "" if adjudicated is None else f"{wording.percent(adjudicated)} % of the steps went to the adjudicator."
    lead = "Share of each label among all labels of a polarity, and the rule by which each step got its labels."
    blocks: list[Block] = [Text(lead), *_label_bars(found)]
    blocks.append(Grid("Consensus rules", ("Rule", "Steps", "%"), wording.rule_rows(found.rules), note))
    spent = annotator_rows.annotator_rows(written.get("annotators", {}))
    if spent:
        blocks.append(Grid("Annotators, and what they cost", _SPENT, spent))
    blocks += labeller_rows.labeller_blocks(written)
    by_label = annotator_rows.label_rows(written.get("by_label", {}))
    if by_label:
        blocks.append(Grid("Labels from proposal to consensus", _PROPOSED, by_label, folded=True))
    return [*blocks, _label_counts(found)]


def _sides(found: Labelling) -> list[int]:
    return [int(polarity) for polarity in Polarity if polarity in found.labels]


def _label_bars(found: Labelling) -> list[Block]:
    """A drawing a polarity, all on the scale of the most frequent label."""
    order, polarities = wording.label_order(found.labels), _sides(found)
    totals = {polarity: sum(found.labels[polarity].values()) or 1 for polarity in polarities}
    top = max((count / totals[p] for p in polarities for count in found.labels[p].values()), default=1)
    drawn: list[Block] = []
    for polarity in polarities:
        bars = []
        for label in order:
            share = found.labels[polarity].get(label, 0) / totals[polarity]
            bars.append(Bar(label, share, f"{wording.percent(share)} %", _TONES[polarity]))
        name = wording.polarity_name(polarity).capitalize()
        drawn.append(Bars(f"{name}, {found.trajectories[polarity]} trajectories", bars, top))
    return drawn


def _label_counts(found: Labelling) -> Grid:
    polarities = _sides(found)
    head = ("Label", *(wording.polarity_name(polarity).capitalize() for polarity in polarities))
    rows = [_counts(found, label, polarities=polarities) for label in wording.label_order(found.labels)]
    return Grid("Counts of labels", head, rows, folded=True)


def _counts(found: Labelling, label: str, *, polarities: Sequence[int]) -> tuple[str | int, ...]:
    return label, *(found.labels[polarity].get(label, 0) for polarity in polarities)


def signal(acts: Mapping[str, Act]) -> list[Block]:
    """Whether transitions tell good from bad thoughts that the weights have not seen."""
    record = figures(acts, "signal")
    rows = rows_of(record)
    if not rows:
        return [Text(record["sentence"])]
    lead = (
        "AUC: the probability that a positive trajectory has a higher score than a negative one, both left out when "
        "the score was estimated. .5 is chance."
    )
    note = f"Weights: {weights_of(record)}."
    head = ("Held-out score", "AUC", "95 % interval, or what chance gives")
    return [Text(record["sentence"]), Text(lead, quiet=True), Grid("What tells them apart", head, rows, note)]


def agreement(acts: Mapping[str, Act]) -> list[Block]:
    """Every pair of annotators, and the paper's figures beside them."""
    lead = (
        "Strict: both give a step the same set of labels. Entail: one set lies within the other, as an empty set "
        "always does. pₑ is the share of steps on which both would give the same set by chance, each drawing its sets "
        "as often as it does, but without looking at the step; κ is the share of the agreement left above it that was "
        "reached, for both with the same pₑ. Macro: labels replaced by their strategies. ℓ1: the mean difference "
        "between the entries of the transition matrices that each one's labels give. The final labels are made from "
        "both annotators', so their agreement with either is high by construction."
    )
    rows = annotator_rows.agreement_rows(figures(acts, "agreement")["pairs"])
    head = ("Pair", "Level", "Steps", "Unlabelled", "Strict %", "Entail %", "pₑ", "κ strict", "κ entail", "ℓ1 %")
    shown: Block = Grid("Pairs", head, rows) if rows else Text("No two annotators have a step in common.")
    paper = Grid(
        "Published, for scale",
        ("", "Share", "κ"),
        annotator_rows.PUBLISHED,
        "Wang et al., arXiv 2510.24794, of other annotators on other trajectories. Published figures, no result of "
        "this run.",
        published=tuple(range(len(annotator_rows.PUBLISHED))),
    )
    return [Text(lead + _of_the_human(acts)), shown, paper]


def _of_the_human(acts: Mapping[str, Act]) -> str:
    act = acts.get("human_labels")
    if act is None or act.manifest is None:
        return ""
    return (
        f" The human's labels of {act.manifest.rows_out} of {act.manifest.rows_in} given trajectories are in use; they "
        "are compared on these, cut wherever the human or the final steps have a boundary."
    )


def training(acts: Mapping[str, Act]) -> list[Block]:
    out = finished(acts, "training")
    assert out is not None
    history = read_history(out)
    lead = (
        f"{len(history)} optimizer steps. Margin is the mean reward of positives minus that of negatives; z0 is the "
        "reference point of the loss."
    )
    last = history[-1] if history else {}
    facts = [(key.replace("_", " "), wording.figure(value)) for key, value in last.items()]
    chosen = _chosen_by_memory(figures(acts, "training").get("memory", {}))
    return [Text(lead), *curves(history), Facts("Last step", facts), *chosen]


def _chosen_by_memory(found: Mapping[str, Any]) -> list[Block]:
    """What was chosen by `training.memory`, or came of memory that ran out; nothing where neither was."""
    facts = []
    for key, value in found.items():
        shown = str(value).lower() if isinstance(value, bool | str) else wording.figure(value)
        facts.append((key.replace("_", " "), shown))
    return [Facts("Memory", facts)] if facts else []


def curves(history: Sequence[Mapping[str, Any]], *, tone: str = "", name: str = "") -> list[Curves]:
    """The learning curves of a run; `tone` and `name` are its own where several runs are drawn together."""
    drawn = []
    for title, y_title, columns in _CHARTS:
        series = []
        for column, own_tone in columns.items():
            rows = [row for row in history if row.get(column) is not None]  # a batch of one class has no margin
            if rows:
                label = f"{name}: {column.replace('_', ' ')}" if name else column.replace("_", " ")
                steps, values = [row["step"] for row in rows], [row[column] for row in rows]
                series.append(Series(label, steps, values, tone or own_tone))
        if series:
            drawn.append(Curves(title, _STEP, y_title, series))
    return drawn


def rejects(acts: Mapping[str, Act]) -> list[Block]:
    """Reasons by stage. No share for candidates: they drop questions out of generations, and that is their purpose."""
    rows = []
    for act in acts.values():
        found, rows_in = (act.manifest.rejects, act.manifest.rows_in) if act.manifest else ({}, 0)
        for reason, count in found.items():
            share = count / rows_in if rows_in and act.name != "candidates" else None
            rows.append((act.name, reason, count, wording.percent(share)))
    lead = "Rows put aside, with their reason. They lie beside the parts of their stage, in rejects/."
    if not rows:
        return [Text(lead), Text("No stage rejected a row.")]
    return [Text(lead), Grid("Rejects", ("Stage", "Reason", "Rows", "% of rows in"), rows)]
