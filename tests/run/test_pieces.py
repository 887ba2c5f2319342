"""Rows and rejects of a stage, some parts at a time."""

import pyarrow as pa

from mralign.run.part_names import part_name
from mralign.run.pieces import reject_count, rejects_by_part, rejects_in_pieces, rows_in_pieces
from mralign.run.rejects import REASONED, Reject, count_reasons, to_table
from mralign.run.store import StageDir

ROWS = pa.schema({"row_id": pa.string(), "text": pa.string()})


def stage(tmp_path, *, parts):
    """Parts of two rows; every third has a reject, whose raw text is long."""
    out = StageDir(str(tmp_path / "out"), stage="some", fingerprint="f")
    for number in range(parts):
        rows = [{"row_id": f"{number}/{place}", "text": "t"} for place in range(2)]
        rejects = [Reject(f"{number}/x", f"reason {number % 2}", f"detail {number}", "raw " * 1000)]
        refused = to_table(rejects if number % 3 == 0 else [])
        out.commit(part_name(f"{number:04d}"), pa.Table.from_pylist(rows, ROWS), schema=ROWS, rejects=refused)
    out.commit_rejects(part_name("9999"), to_table([Reject("left", "over", "of a part that is not committed", "")]))
    return out


def test_pieces_hold_all_rows_and_rejects_in_order_and_no_more_than_16_parts_at_once(tmp_path):
    out = stage(tmp_path, parts=150)
    pieces = list(rows_in_pieces(out, schema=ROWS, columns=["row_id"]))
    assert [piece.num_rows for piece in pieces] == [32] * 9 + [12]
    assert pa.concat_tables(pieces).column("row_id").to_pylist() == [f"{n}/{k}" for n in range(150) for k in range(2)]
    refused = list(rejects_in_pieces(out, columns=["row_id"]))
    assert pa.concat_tables(refused).column("row_id").to_pylist() == [f"{n}/x" for n in range(0, 150, 3)]
    (few,) = rejects_in_pieces(out, columns=["row_id"], parts=[part_name("0003"), part_name("0004")])
    assert few.to_pylist() == [{"row_id": "3/x"}]
    assert reject_count(out) == 50
    assert [part for part, _ in rejects_by_part(out)] == [part_name(f"{n:04d}") for n in range(0, 150, 3)]
    assert all(len(table.column("raw")[0].as_py()) == 4000 for _, table in rejects_by_part(out))


def test_reasons_are_counted_over_the_pieces_with_the_detail_that_came_last(tmp_path):
    out = stage(tmp_path, parts=150)
    found = count_reasons(rejects_in_pieces(out, columns=REASONED))
    assert list(found.counts.items()) == [("reason 0", 25), ("reason 1", 25)]
    assert found.details == {"reason 0": "detail 144", "reason 1": "detail 147"}
