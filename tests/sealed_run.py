"""Run directories made by hand: stages under the fingerprints of a real plan, sealed without anything having run."""

import json

import pyarrow as pa

from mralign.config import load, to_yaml
from mralign.plan import pipeline
from mralign.presets import SUITES
from mralign.run.store import Directory, Manifest

COLUMNS = pa.schema([("row_id", pa.string())])


def rows(count):
    return pa.table({"row_id": [str(n) for n in range(count)]}, schema=COLUMNS)


def seal(item, *, rows_out=7, upstream=None, **figures):
    """Finish a planned stage: 9 rows in, 2 rejects, 61 seconds."""
    mark, stands_on = item.out.fingerprint, upstream or {name: out.fingerprint for name, out in item.upstream.items()}
    made = Manifest(item.stage.name, mark, {}, stands_on, {}, 9, rows_out, {"malformed_json": 2}, 61.0, {}, figures)
    item.out.seal(made)


def planned(uri, *overrides):
    """The stages of the miniworld's evaluation in a run directory, by name; its configuration lies there."""
    config = load("miniworld", overrides=[f"run.dir={uri}", *overrides], presets_dir=SUITES)
    Directory(str(uri)).write_text("config.yaml", to_yaml(config))
    return {item.stage.name: item for item in pipeline.survey(config)}


def evaluated(uri):
    """A finished evaluation of the miniworld with figures of one method."""
    stages = planned(uri, "evaluation.methods=[think_on]")
    figures = {"kind": "short_answer", "n": 40, "draws": 40, "thought_tokens_mean": 1234.5}
    for name in ("", "_contains"):
        figures |= {f"acc{name}": 0.625, f"acc{name}_ci": [0.5, 0.75], f"mis{name}": 0.25, f"mis{name}_ci": [0.2, 0.3]}
    figures |= {"invalid_share": 0.0375, "truncated_share": 0.025, "format_failure_share": 0.0125}
    stages["evaluation_base"].out.write_text("metrics.json", json.dumps({"base_think_on": {"miniworld": figures}}))
    stages["responses_base"].out.write_text("parts.json", "[]")
    for item in stages.values():
        seal(item, test=40, train=0, dev=0)
    return stages
