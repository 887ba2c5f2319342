"""Results of the runs with faults, a JSON line each: `kills.jsonl` and `signals.jsonl` beside this file."""

import json
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent
KILLS, SIGNALS = HERE / "kills.jsonl", HERE / "signals.jsonl"


def lines(path=KILLS):
    """Results by name: of a cell of the kill matrix, or `stage: moment`."""
    if not path.exists():
        return {}
    found = map(json.loads, path.read_text().splitlines())
    return {line["name"]: line for line in found}


def done(path=KILLS):
    """Names of what ended as it should."""
    return {name for name, line in lines(path).items() if line["result"] == "equal"}


def keep(name, *, path=KILLS, **result):
    """Put a result in the place of an older one of that name."""
    found = lines(path)
    found[name] = {"name": name, "date": datetime.now(UTC).date().isoformat(), **result}
    ordered = [json.dumps(found[name]) for name in sorted(found)]
    path.write_text("".join(f"{line}\n" for line in ordered))


def keep_signal(stage, moment, *, traceback, **result):
    """Put what came of a signal in the place of an older result; the run has not gone on yet. `traceback`: whether it
    ended with one."""
    keep(f"{stage}: {moment}", path=SIGNALS, **result, result="traceback" if traceback else "ended")


def confirm_signals(stage):
    """Say of the signals of a stage that the run went on after them and that its tables are the undisturbed run's."""
    for name, line in lines(SIGNALS).items():
        if awaits_the_end(line) and name.startswith(f"{stage}: "):
            keep(path=SIGNALS, **{**line, "result": "equal"})


def awaits_the_end(line):
    """Whether a signal ended a start as it should, and its run has not come to the end of the stage yet."""
    return line["result"] == "ended" and line["status"] == 130 and not line["left"]
