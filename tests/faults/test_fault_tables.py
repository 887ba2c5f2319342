"""The tables of killed and interrupted runs are what their results say; what was not run is not shown as run."""

import fault_tables
import pytest
from cells import Cell, cells
from fault_results import KILLS, SIGNALS, awaits_the_end, lines
from signal_moments import planned

EQUAL = {"result": "equal", "statuses": [-9, 0], "paid_again": None, "seconds": 30, "date": "2026-11-27"}


@pytest.mark.parametrize("name", fault_tables.PLACES)
def test_the_document_has_the_table_of_the_results(name):
    text = fault_tables.PLACES[name].read_text()
    made = fault_tables.placed(text, name=name, made=fault_tables.texts()[name])
    assert text == made, "run python tests/faults/fault_tables.py"


def test_every_result_is_of_a_cell_or_a_moment_that_is_planned():
    assert set(lines(KILLS)) <= {str(cell) for cell in cells()}
    assert set(lines(SIGNALS)) <= {f"{stage}: {moment}" for stage, moment, _ in planned()}


def test_a_cell_without_a_result_is_not_run_and_a_wrong_one_is_unequal():
    one, other = Cell("counts", "driver", 1, "disk"), Cell("counts", "raylet", 3, "s3")
    results = {str(one): EQUAL, str(other): EQUAL | {"result": "unequal"}}
    for nodes in (1, 3):
        for store in ("disk", "s3"):
            results[str(Cell("counts", "mapper", nodes, store))] = EQUAL | {"statuses": [0]}
    shown = fault_tables.kill_matrix(results)
    (row,) = (line for line in shown.splitlines() if line.startswith("| counts"))
    assert [cell.strip() for cell in row.split("|")[2:-1]] == [
        "equal: 1 disk; not run: 3 disk, 1 s3, 3 s3",
        "not run: 1 disk, 3 disk, 1 s3; unequal: 3 s3",
        "–",
        "–",
        "equal",
        "–",
        "–",
    ]
    assert f"5 of {len(cells())} killed runs ended equal" in shown
    assert "1 unequal); 4 of them went on by themselves, 1 ended" in shown


def test_a_signal_that_was_not_continued_is_no_success():
    line = {"kind": "SIGTERM", "status": 130, "seconds": 0.7, "left": 0, "result": "ended", "date": "2026-11-27"}
    results = {"counts: stage begins": line, "counts: stage ended": line | {"result": "equal"}}
    results["counts: manifest open"] = line | {"status": 0}
    results["counts: before the seal"] = line | {"result": "traceback"}
    shown = fault_tables.signals(results)
    (row,) = (line for line in shown.splitlines() if line.startswith("| counts"))
    cells_shown = [cell.strip() for cell in row.split("|")[2:-1]]
    assert cells_shown[0] == "TERM 0.7, not continued"
    assert cells_shown[-3:] == ["TERM 0.7, with a traceback", "TERM 0.7: status 0, 0 left", "TERM 0.7"]
    assert [name for name, one in results.items() if awaits_the_end(one)] == ["counts: stage begins"]
    assert f"1 of {len(planned())} moments" in shown
