"""The results of an evaluation in the cards of the model that it measured.

The stages of a run enter; the README.md beside its adapter and its model leave with the table of results, and with
the index of them that the hub reads. The cards were written when the training ended; a run that is not evaluated
leaves them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mralign.config import RunConfig
from mralign.evaluation.benchmarks import find
from mralign.plan.pipeline import Planned
from mralign.report.findings import METRIC_STAGES, finished, merged_metrics, survey
from mralign.report.result_tables import result_sheet, result_table
from mralign.report.sheets import to_markdown
from mralign.training.card import title, with_results

_PLACES = ("adapter/README.md", "model/README.md")


def complete_cards(config: RunConfig, planned: Sequence[Planned]) -> None:
    """Write the results into the cards of the trained model, where there are both."""
    acts = survey(planned)
    training, evaluation = finished(acts, "training"), finished(acts, METRIC_STAGES[1])
    if training is None or evaluation is None:
        return
    own = json.loads(evaluation.read_text("metrics.json"))
    table = to_markdown(result_sheet(result_table(merged_metrics(acts))))
    level = 100 * config.evaluation.level
    text = f"{table}\nIn brackets: {level:g} % intervals, by a bootstrap over questions. "
    text += f"`{config.evaluation.label}_` is the model before training."
    written = {}
    for place in _PLACES:
        before = training.find_text(place)
        if before is not None:
            after = with_results(before, text=text, index=results_index(own, level=level), name=title(config))
            if after != before:
                written[place] = after
    training.write_texts(written)


def results_index(metrics: Mapping[str, Mapping[str, Mapping[str, Any]]], *, level: float) -> list[dict[str, Any]]:
    """What the hub shows of {method: {benchmark: figures}}: one entry a method and benchmark, its chief measures."""
    entries = []
    for method, benchmarks in metrics.items():
        for name, figures in benchmarks.items():
            measured = []
            for measure in find(str(figures["kind"])).measures:
                value = figures.get(measure.key)
                if measure.terminal and value is not None:
                    low_high = figures.get(f"{measure.key}_ci")
                    said = f", {level:g} % interval [{low_high[0]:.3f}, {low_high[1]:.3f}]" if low_high else ""
                    measured.append({"type": measure.key, "name": f"{measure.title}{said}", "value": round(value, 4)})
            task = {"type": "text-generation", "name": method}
            entries.append({"task": task, "dataset": {"type": name, "name": name}, "metrics": measured})
    return entries
