"""`mralign distill`: a labeller of one's own, learned from what a panel has annotated in a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mralign.cli.arguments import RunDir
from mralign.plan.run_state import read_run
from mralign.run.store import absolute


def distill(
    run_dir: RunDir,
    *,
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where the labeller goes; default: labeller in the run directory."),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="A local sentence encoder (transformers, safetensors) whose vectors count beside the words.",
        ),
    ] = None,
) -> None:
    """Learn a small labeller from the annotators of a run: it labels thoughts as they do, for nothing.

    Needs a finished annotation (mralign align --until annotation). Says on questions held out how far the labeller
    agrees with the panel, and what it would change of matrices and weights. It is used as an annotator (engine:
    distilled), or in a cascade (annotation.cascade).
    """
    from mralign.annotation.labeller_file import write_labeller
    from mralign.annotation.labeller_fit import fit  # takes its time
    from mralign.annotation.segment_encoder import open_encoder
    from mralign.distillation.held_out import HeldOutWork, report, thoughts_per_second
    from mralign.distillation.panel import read_panel_work
    from mralign.distillation.weight_change import WeightSettings

    place = _place(run_dir, out=out)
    state = read_run(run_dir)
    if state.config is None:
        raise ValueError("; ".join([*state.faults, f"{state.uri} has no config.yaml that could be read"]))
    work = read_panel_work(state)
    fitted = fit(work.lessons, labels=work.labels, encoder=open_encoder(encoder) if encoder else None)
    first, second = (annotator.name for annotator in state.config.annotation.annotators)
    names = {"labels_a": first, "labels_b": second, "labels": "panel"}
    by = WeightSettings.of(state.config, states=work.states)
    found = report(HeldOutWork(work, fitted.held_out, names=names, by=by, seed=state.config.run.seed))
    write_labeller(place, fitted.labeller, report=found)  # without a time: learned again, the files are the same
    found["thoughts_per_second"] = thoughts_per_second(fitted.labeller, work=work)
    print("\n".join([*report_lines(found), *_closing(place)]))


def _place(run_dir: str, *, out: str | None) -> Path:
    place = out or f"{run_dir.rstrip('/')}/labeller"
    if "://" in place:
        raise ValueError(f"a labeller lies in a local directory, {place} is not local; give --out DIR")
    return Path(absolute(place))


def report_lines(found: Mapping[str, Any]) -> list[str]:
    """The figures as text."""
    weights, least = found["weights"], found["weights"]["least_count"]
    learned = f"learned from {found['trajectories']:,} trajectories of {found['questions']:,} questions"
    change = f"change of a log-weight: {_number(weights['mean_change'])} in the mean over steps"
    largest = _number(weights["largest_change"]) if weights["largest_change"] else "no such transition"
    steps = f"steps: {found['panel_steps']:,} of the panel, {found['labeller_steps']:,} of the labeller"
    return [
        f"{learned}; below, each question is labelled by a labeller that has not seen it",
        "",
        *_agreement_lines(found["agreement"]),
        "",
        change,
        f"the largest, where a transition occurs {least} times or more: {largest}",
        f"{steps}, on {found['segments']:,} segments",
        f"the probability of a label is off by {100 * found['calibration_error']:.1f} % in the mean",
        f"speed: {found['thoughts_per_second']:,} thoughts a second of one core",
    ]


def _agreement_lines(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table of agreements, a line a pair."""
    rows: list[tuple[str, ...]] = [("agreement (95 %)", "strict", "entail", "κ strict", "κ entail", "mean ℓ1")]
    for entry in entries:
        shares = [_share(entry[name]) for name in ("strict", "entail")]
        kappas = [_number(entry[name]) for name in ("kappa_strict", "kappa_entail")]
        distance = _share(entry["mean_l1"], digits=2) if "mean_l1" in entry else "–"
        rows.append((" – ".join(entry["pair"]), *shares, *kappas, distance))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [map(str.ljust, row, widths) for row in rows]
    return ["  ".join(cells).rstrip() for cells in padded]


def _share(found: Sequence[float], *, digits: int = 1) -> str:
    value, low, high = (f"{100 * part:.{digits}f}" for part in found)
    return f"{value} % [{low}, {high}]"


def _number(found: Sequence[float]) -> str:
    value, low, high = (f"{part:.3f}".replace("-", "−") for part in found)
    return f"{value} [{low}, {high}]"


def _closing(place: Path) -> list[str]:
    """Where the labeller lies, and how it is used."""
    return [
        "",
        f"labeller: {place}",
        f"as an annotator: {{name: own, engine: distilled, labeller: {place}}}",
        f"in a cascade: annotation.cascade={{labeller: {place}, budget: TRAJECTORIES}}",
    ]
