"""Events as JSON, one object a line, for programs that watch a run (`--json`).

Every object has `event` (the name of its class in lower case with underscores), `time` (UTC), `run` (the id by which
the log file is called) and the fields of the event; a figure that is no number is null. `schema` is derived from the
classes, and docs/events.md from the words beside their fields.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter

from mralign.run.events import Event, StageAhead, TrainingStepped, WorkAdvanced

EVERY_S = 1.0  # between two lines that say how far a piece of work is; its last item is always told

_ENVELOPE = {
    "event": "name of the event",
    "time": "when it was told, UTC, ISO 8601",
    "run": "id of this start of the command; the log file is called by it",
}


class EventLines:
    """A listener that hands on lines of JSON. `clock` gives seconds since the epoch."""

    def __init__(self, write: Callable[[str], None], *, run: str, clock: Callable[[], float] = time.time) -> None:
        self.write, self.run, self.clock = write, run, clock
        self.held: Event | None = None  # how far the work is, not told yet
        self.told = -math.inf

    def __call__(self, event: Event) -> None:
        """Hear an event; of those that say how far a piece of work is, hand on one a second and the last."""
        now = self.clock()
        counts = isinstance(event, WorkAdvanced | TrainingStepped)
        if counts and now - self.told < EVERY_S:
            self.held = event
            return
        if self.held is not None and not counts:
            self.write(line_of_json(self.held, run=self.run, at=now))
        self.held = None
        self.told = now if counts else self.told
        self.write(line_of_json(event, run=self.run, at=now))


def line_of_json(event: Event, *, run: str, at: float) -> str:
    """One event as a line of JSON, without the line break."""
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    head = {"event": name_of(type(event)), "time": moment.replace("+00:00", "Z"), "run": run}
    return json.dumps(head | _finite(asdict(event)), ensure_ascii=True, allow_nan=False)


def name_of(kind: type) -> str:
    """RunBegan is told as run_began."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def kinds() -> tuple[type, ...]:
    """The classes of all events."""
    return get_args(Event)


def schema() -> dict[str, Any]:
    """The JSON schema of a line."""
    ahead = TypeAdapter(StageAhead).json_schema() | {"additionalProperties": False}
    lines = [_schema_of(kind) for kind in kinds()]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": {"StageAhead": ahead}, "oneOf": lines}


def _schema_of(kind: type) -> dict[str, Any]:
    made = TypeAdapter(kind).json_schema()
    made.pop("$defs", None)  # they stand once, at the top
    envelope: dict[str, Any] = {name: {"type": "string"} for name in _ENVELOPE}
    envelope["event"] = {"const": name_of(kind)}
    properties = envelope | made["properties"]
    if kind is TrainingStepped:  # a loss that is no number is null
        properties["figures"] = {"type": "object", "additionalProperties": {"type": ["number", "null"]}}
    return {**made, "properties": properties, "required": sorted(properties), "additionalProperties": False}


def page() -> str:
    """The part of docs/events.md that says what each event holds."""
    lines = ["| every line | |", "|---|---|", *(f"| `{name}` | {words} |" for name, words in _ENVELOPE.items()), ""]
    for kind in (*kinds(), StageAhead):
        name = "an entry of `stages`" if kind is StageAhead else f"`{name_of(kind)}`"
        summary = (kind.__doc__ or "").splitlines()[0]
        lines += [f"### {name}", "", summary, "", "| field | |", "|---|---|"]
        lines += [f"| `{field}` | {words} |" for field, words in words_of(kind).items()]
        lines.append("")
    return "\n".join(lines)


def words_of(kind: type) -> dict[str, str]:
    """By field of an event, what it holds."""
    hints = get_type_hints(kind, include_extras=True)
    return {one.name: hints[one.name].__metadata__[0] for one in fields(kind)}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
