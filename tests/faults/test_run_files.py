"""What of two run directories is compared: rows, whatever their parts; and a row too many or too few is seen."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import run_files


def parquet(rows):
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def run(*parts, shelf=()):
    said = {"fingerprint": "f", "upstream": {}, "rows_in": 3, "rows_out": 3, "rejects": {}, "seconds": len(parts)}
    files = {"counts/f/manifest.json": json.dumps(said).encode()}
    files |= {f"counts/f/part-{n}.parquet": parquet(rows) for n, rows in enumerate(parts)}
    return files | dict(shelf)


ROWS = [{"row_id": "a", "n": 1}, {"row_id": "b", "n": 2}, {"row_id": "c", "n": 3}]


def differ(found, wanted):
    return run_files.differences(run_files.tables(found, "counts"), run_files.tables(wanted, "counts"))


def test_the_cut_into_parts_does_not_matter_and_each_row_does():
    whole = run(ROWS)
    assert differ(run(ROWS[2:], ROWS[:2]), whole) == []
    assert differ(run(ROWS[:2]), whole) == ["rows of the stage: 2 for 3, 1 differ"]
    assert differ(run(ROWS, ROWS[:1]), whole) == ["rows of the stage: 4 for 3, 0 differ"]
    changed = run([*ROWS[:2], {"row_id": "c", "n": 4}])
    assert differ(changed, whole) == ["rows of the stage: 3 for 3, 2 differ"]


def test_a_response_counts_by_what_lies_where_it_points():
    pointers = [{"row_id": "a", "part": "responses_by_content/x/part-0.parquet"}]
    other = [{"row_id": "a", "part": "responses_by_content/x/part-9.parquet"}]
    said = {"responses_by_content/x/part-0.parquet": parquet(ROWS)}
    moved = {"responses_by_content/x/part-9.parquet": parquet(ROWS[:1])}
    changed = {"responses_by_content/x/part-9.parquet": parquet([{"row_id": "a", "n": 7}])}
    assert differ(run(other, shelf=moved), run(pointers, shelf=said)) == []
    assert differ(run(other, shelf=changed), run(pointers, shelf=said)) == ["rows of the stage: 1 for 1, 2 differ"]


def test_a_cell_begins_with_what_stood_before_its_stage_and_the_shelves_of_that():
    index = json.dumps([{"shelf": "responses_by_content/x"}]).encode()
    files = dict.fromkeys(
        [
            *("questions/f/part-0.parquet", "counts/f/part-0.parquet", "counts_by_content/part-0.parquet"),
            *("training/f/model/a.safetensors", "training/f/ray_train/checkpoint_1/x", "logs/now.log"),
            *("responses_by_content/x/part-0.parquet", "responses_by_content/y/part-0.parquet"),
            "responses/f/parts.json",
        ],
        b"",
    )
    files["responses_base/f/parts.json"] = index
    road = ("questions", "counts", "training", "responses_base", "responses")
    assert set(run_files.before(files, stage="counts", road=road)) == {"questions/f/part-0.parquet"}
    assert set(run_files.before(files, stage="responses", road=road)) == {
        *("questions/f/part-0.parquet", "counts/f/part-0.parquet", "counts_by_content/part-0.parquet"),
        *("training/f/model/a.safetensors", "responses_base/f/parts.json", "responses_by_content/x/part-0.parquet"),
    }
