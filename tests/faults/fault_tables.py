"""The tables that documents show of the runs with faults, made of their results.

    python tests/faults/fault_tables.py    # write them into the documents

Each stands between two comments. A cell that has no result is shown as not run, one that went wrong as unequal.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent)]

from cells import MIDDLE, NODES, STORES, VICTIMS, Cell, cells  # noqa: E402
from fault_results import SIGNALS, lines  # noqa: E402
from signal_moments import MOMENTS, REPORT, START, moments_of, planned  # noqa: E402

PLACES = {"kill matrix": ROOT / "cluster" / "README.md", "signals": ROOT / "docs" / "real-inputs.md"}
MARKS = {(nodes, store): f"{nodes} {store}" for store in STORES for nodes in NODES}
SHORT = {"SIGINT": "INT", "SIGTERM": "TERM", "SIGHUP": "HUP", "second SIGINT": "INT INT", "closed pipe": "pipe"}


def kill_matrix(results):
    """The table of kills, and what it sums up to. `results`: lines of kills.jsonl by name."""
    rows = [["stage", *VICTIMS]]
    rows += [[stage, *(_cell(stage, victim, results=results) for victim in VICTIMS)] for stage in MIDDLE]
    return f"{table(rows)}\n\n{_summary(results)}"


def _cell(stage, victim, *, results):
    """What became of the runs with this stage and victim: one word where all ended alike, else each."""
    if not Cell(stage, victim, 1, "disk").applies:
        return "–"
    found = {}
    for (nodes, store), mark in MARKS.items():
        line = results.get(str(Cell(stage, victim, nodes, store)))
        found.setdefault("not run" if line is None else line["result"], []).append(mark)
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{word}: {', '.join(marks)}" for word, marks in sorted(found.items()))


def _summary(results):
    wanted = [str(cell) for cell in cells()]
    known = [results[name] for name in wanted if name in results]
    equal = [line for line in known if line["result"] == "equal"]
    alone = sum(line["statuses"] == [0] for line in equal)
    again = sum(line["paid_again"] or 0 for line in equal)
    asked = sum(line["paid_again"] is not None for line in equal)
    dates = sorted({line["date"] for line in known}) or ["no day"]
    minutes = sum(line["seconds"] for line in known) / 60
    return (
        f"{len(equal)} of {len(wanted)} killed runs ended equal ({len(wanted) - len(known)} not run, "
        f"{len(known) - len(equal)} unequal); {alone} of them went on by themselves, {len(equal) - alone} ended and "
        f"went on by the same command. The {asked} that asked endpoints asked {again} requests twice, which were in "
        f"flight at the kill. Run on {' and '.join(dates)}, two shared cores, {minutes:.0f} minutes in all."
    )


def signals(results):
    """The table of signals, and what it sums up to. `results`: lines of signals.jsonl by name."""
    rows = [["stage", *MOMENTS]]
    rows += [[stage, *(_ended(stage, moment, results=results) for moment in MOMENTS)] for stage in MIDDLE]
    others = []
    for stage, moments in (("start", START), ("report", REPORT)):
        others += [[stage, moment, _ended(stage, moment, results=results)] for moment in moments]
    return f"{table(rows)}\n\n{table([['', 'moment', 'ended'], *others])}\n\n{_signal_summary(results)}"


def _ended(stage, moment, *, results):
    if moment not in moments_of(stage):
        return "–"
    line = results.get(f"{stage}: {moment}")
    if line is None:
        return "not run"
    said = f"{SHORT[line['kind']]} {line['seconds']}"
    if line["status"] != 130 or line["left"]:
        return f"{said}: status {line['status']}, {line['left']} left"
    words = {"equal": said, "ended": f"{said}, not continued", "traceback": f"{said}, with a traceback"}
    return words[line["result"]]


def _signal_summary(results):
    wanted = [f"{stage}: {moment}" for stage, moment, _ in planned()]
    known = [results[name] for name in wanted if name in results]
    good = [line for line in known if line["result"] == "equal"]
    kinds = [f"{kind} {sum(line['kind'] == kind for line in good)}" for kind in SHORT]
    longest = max((line["seconds"] for line in good), default=0.0)
    dates = sorted({line["date"] for line in known}) or ["no day"]
    return (
        f"{len(good)} of {len(wanted)} moments ended with status 130 and nothing left running, at most {longest} s "
        f"after the signal, and the next starts made the undisturbed run's tables "
        f"({len(wanted) - len(known)} not run): {', '.join(kinds)}. Run on {' and '.join(dates)}, two shared cores."
    )


def table(rows):
    """A Markdown table; the first row is its head."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, f"|{'---|' * len(rows[0])}", *body])


def texts():
    """Each table by its name."""
    return {"kill matrix": kill_matrix(lines()), "signals": signals(lines(SIGNALS))}


def placed(text, *, name, made):
    """A document with the table `made` between the comments that name it."""
    begin, end = f"<!-- {name}: tests/faults/fault_tables.py -->", f"<!-- end of {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    assert pattern.search(text), f"there is no {begin} ... {end}"
    return pattern.sub(lambda _: f"{begin}\n\n{made}\n\n{end}", text)


if __name__ == "__main__":
    for name, made in texts().items():
        page = PLACES[name]
        page.write_text(placed(page.read_text(), name=name, made=made))
