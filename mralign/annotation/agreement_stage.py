"""Stages `human_labels` and `agreement`: how far the annotators of a run agree with one another (method.md §2c).

Annotated trajectories, a human's CSV if there is one, and the matrices that each annotator's labels give enter;
`agreement.json` with one entry a pair of annotators leaves. Annotations are read part by part and only counted, in the
driver: what is held is at most one count for each pair of label sets.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mralign.annotation.agreement import Agreement, LabelSet, agreement_of, count_pairs, macro_pairs, mean_l1
from mralign.annotation.human import Line, human_steps, read_lines, refine, reject
from mralign.annotation.taxonomy import Taxonomy
from mralign.config import RunConfig, resolve_path
from mralign.rows.schema import ANNOTATIONS, ANNOTATOR_FIELDS, HUMAN_FIELDS, HUMAN_STEPS, MATRICES
from mralign.run.part_names import part_name
from mralign.run.rejects import Reject, to_table
from mralign.run.stage import Context, Outcome, Stage
from mralign.run.store import Directory, StageDir

Roles = tuple[str, str]  # who of first, second, final and human is compared with whom


def _taxonomy(annotation: StageDir) -> Taxonomy:
    """The taxonomy that the annotated trajectories were labelled with."""
    written = json.loads(annotation.read_text("taxonomy.json"))
    return Taxonomy(labels=tuple(written["states"][1:-1]), macro=written["macro"])


def _human_lines(config: RunConfig) -> dict[str, list[Line]]:
    """The rows of the human's CSV by row_id; ValueError that names the file."""
    path = resolve_path(str(config.annotation.human))
    file = Directory(path)
    file.require("annotation.human")
    try:
        return read_lines(file.read_text(""))
    except UnicodeDecodeError as error:
        raise ValueError(f"annotation.human={path} is not UTF-8 ({error}); save it as CSV in UTF-8") from None
    except ValueError as error:
        raise ValueError(f"annotation.human={path}: {error}") from None


def _human_labels(context: Context) -> Outcome:
    lines, source = _human_lines(context.config), context.upstream["annotation"]
    taxonomy = _taxonomy(source)
    wanted = pa.array(list(lines), pa.string())
    rows, rejects, known = [], [], set()
    for part in source.parts():
        table = source.read_parts([part], schema=ANNOTATIONS)
        for row in table.filter(pc.is_in(table.column("row_id"), value_set=wanted)).to_pylist():
            known.add(row["row_id"])
            segments = sum(step["last_segment"] - step["first_segment"] + 1 for step in row["steps"])
            found = human_steps(lines[row["row_id"]], row_id=row["row_id"], segments=segments, taxonomy=taxonomy)
            if isinstance(found, Reject):
                rejects.append(found)
            else:
                rows.append(refine(row, human=found))
    rejects += [_unknown(name, lines=lines[name]) for name in lines if name not in known]
    table = pa.Table.from_pylist(rows, schema=HUMAN_STEPS)
    context.out.commit(part_name("0"), table, schema=HUMAN_STEPS, rejects=to_table(rejects))
    return Outcome(len(lines), len(rows), {"steps": sum(len(row["steps"]) for row in rows)})


def _unknown(row_id: str, *, lines: list[Line]) -> Reject:
    detail = "no annotated trajectory has this row_id; allowed are those of stage annotation"
    return reject(lines, row_id=row_id, reason="unknown_row", detail=detail)


def _agreement(context: Context) -> Outcome:
    annotation = context.upstream["annotation"]
    taxonomy, matrices = _taxonomy(annotation), context.upstream["annotator_matrices"]
    pairs = _compared(annotation, schema=ANNOTATIONS, fields=ANNOTATOR_FIELDS)
    named = {roles: ("annotation", counts) for roles, counts in pairs.items()}
    if "human_labels" in context.upstream:
        both = _compared(context.upstream["human_labels"], schema=HUMAN_STEPS, fields=HUMAN_FIELDS)
        named |= {roles: ("human_labels", counts) for roles, counts in both.items() if "human" in roles}
    found = _matrices(matrices, K=taxonomy.K)
    entries = [
        _entry(roles, names=_names(context.config), counts=counts, stage=stage, taxonomy=taxonomy, matrices=found)
        for roles, (stage, counts) in named.items()
        if counts
    ]
    context.out.write_text("agreement.json", json.dumps(entries, indent=1))
    rows_in = sum(annotation.counts().values())
    return Outcome(rows_in, len(entries), {"pairs": entries})


def _compared(
    source: StageDir, *, schema: pa.Schema, fields: Mapping[str, str]
) -> dict[Roles, Counter[tuple[LabelSet, LabelSet]]]:
    """Counted pairs of label sets for every two of `fields`, summed over the parts of `source`."""
    total: dict[Roles, Counter[tuple[LabelSet, LabelSet]]] = {pair: Counter() for pair in combinations(fields, 2)}
    for part in source.parts():
        table = source.read_parts([part], schema=schema, columns=["steps"])
        for x, y in total:
            total[x, y].update(count_pairs(table, x=fields[x], y=fields[y]))
    return total


def _names(config: RunConfig) -> dict[str, str]:
    """What each role is called: the annotators by the user's names."""
    first, second = (annotator.name for annotator in config.annotation.annotators)
    return {"first": first, "second": second, "final": "final", "human": "human"}


def _matrices(source: StageDir, *, K: int) -> dict[str, np.ndarray]:
    """The matrices of stage `annotator_matrices` by name, float64 (K, K); all have their states in one order."""
    table = source.read(schema=MATRICES, columns=["matrix", "probability"])
    names = pc.unique(table.column("matrix")).to_pylist()
    rows = {name: table.filter(pc.equal(table.column("matrix"), name)) for name in names}
    return {name: found.column("probability").to_numpy().reshape(K, K) for name, found in rows.items()}


def _entry(
    roles: Roles,
    *,
    names: Mapping[str, str],
    counts: Counter[tuple[LabelSet, LabelSet]],
    stage: str,
    taxonomy: Taxonomy,
    matrices: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """One pair for agreement.json; null is a kappa where p_e = 1, and an l1 where an annotator has no label at all."""
    p, other = (matrices.get(f"{stage}-{role}") for role in roles)
    macro = _figures(agreement_of(macro_pairs(counts, taxonomy=taxonomy)))
    return {
        "pair": [names[role] for role in roles],
        **_figures(agreement_of(counts)),
        "macro": {name: value for name, value in macro.items() if name not in ("steps", "unlabelled")},
        "mean_l1": None if p is None or other is None else mean_l1(p, other=other),
    }


def _figures(found: Agreement) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in asdict(found).items()}


def _check_human(config: RunConfig) -> None:
    _human_lines(config)


HUMAN_STAGE = Stage(
    name="human_labels",
    words="reading human labels",
    run=_human_labels,
    upstream=("annotation",),
    inputs=lambda config: {"human": str(config.annotation.human)},
    check=_check_human,
)


def agreement_stage(*, human: bool) -> Stage:
    """The agreement of the annotators; with `human`, stage `human_labels` is one more."""
    return Stage(
        name="agreement",
        words="comparing annotators",
        run=_agreement,
        reads=("annotation",),
        upstream=("annotation", "annotator_matrices", *(["human_labels"] if human else [])),
    )
