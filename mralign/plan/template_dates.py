"""Which day a chat template writes for today, settled once for a run.

A configuration enters; one leaves in which every model whose template writes a date has one: its own, or that of the
day on which the run directory was made. The day lies in the run directory, so that a run that goes on tomorrow asks as
it did today. Where no template writes a date nothing changes, and no fingerprint tells of any of this.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

from mralign.chat.model_files import template_text, writes_date
from mralign.config import Annotator, Model, RunConfig, Section, resolve_path
from mralign.plan import model_hub, places
from mralign.run.store import Directory

_NAME = "template_date.txt"


def settle(config: RunConfig, *, today: datetime.date | None = None) -> RunConfig:
    """The configuration with `template_date` filled in where a template needs one and none is given.

    It is the day that the run directory remembers, else today (of this machine's clock). Raises ValueError for a far
    model that cannot be looked at.
    """
    paths = _model_paths(config)
    places.check_inputs(config, paths=paths)
    model_hub.ask_cache_alone(paths)
    day = _remembered(config) or today or datetime.date.today()

    def fill(model: Model) -> Model:
        if model.template_date is not None or not writes_date(template_text(resolve_path(model.path))):
            return model
        return model.model_copy(update={"template_date": day})

    settled: RunConfig = _changed(config, fill)
    return settled


def remember(config: RunConfig) -> None:
    """Write the day that the models' templates write into the run directory, unless one lies there."""
    directory = Directory(config.run.dir)
    days = _days(config)
    if days and not directory.holds(_NAME):
        directory.write_text(_NAME, f"{days[0].isoformat()}\n")


def _model_paths(config: RunConfig) -> list[str]:
    found: list[str] = []

    def note(model: Model) -> Model:
        found.append(model.path)
        return model

    _changed(config, note)
    return found


def _remembered(config: RunConfig) -> datetime.date | None:
    if places.run_directory_fault(config, write=False):
        return None  # the plan says so, with all else that is wrong
    directory = Directory(config.run.dir)
    found = directory.find_text(_NAME)
    if found is None:
        return None
    text = found.strip()
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{directory.uri}/{_NAME} holds {text!r:.40} and no date; write YYYY-MM-DD there, the day of this run's "
            f"prompts, or give model.template_date"
        ) from None


def _days(config: RunConfig) -> list[datetime.date]:
    found: list[datetime.date] = []

    def note(model: Model) -> Model:
        found.extend([model.template_date] if model.template_date else [])
        return model

    _changed(config, note)
    return found


def _changed(value: Any, change: Callable[[Model], Model]) -> Any:
    """`value` with every Model in it changed; what holds no other Model stays the very same object."""
    if isinstance(value, Model):
        return change(value)
    if isinstance(value, tuple):
        changed = tuple(_changed(item, change) for item in value)
        return changed if any(new is not old for new, old in zip(changed, value, strict=True)) else value
    if not isinstance(value, Section) or _asks_no_model(value):
        return value
    updates = {}
    for name in type(value).model_fields:
        old = getattr(value, name)
        new = _changed(old, change)
        if new is not old:
            updates[name] = new
    return value.model_copy(update=updates) if updates else value


def _asks_no_model(value: Section) -> bool:
    """Whether it is an annotator whose model, if it names one, is not ours to render for."""
    return isinstance(value, Annotator) and value.engine != "vllm"
