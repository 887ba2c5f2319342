"""Parts that appear whole, manifests written last, and digests that see what matters."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from mralign.rows.schema import REJECTS
from mralign.run.arrow_files import DamagedPart
from mralign.run.part_names import part_name
from mralign.run.rejects import Reject, to_table
from mralign.run.store import Directory, Manifest, StageDir, absolute, fingerprint

SCHEMA = pa.schema({"row_id": pa.string(), "n": pa.int32()})


def table(*ids, start=0):
    return pa.table({"row_id": list(ids), "n": list(range(start, start + len(ids)))})  # n is int64 here


def stage_dir(place):
    return StageDir(str(place), stage="counts", fingerprint="f00d")


def ids(out):
    return out.read(schema=SCHEMA).column("row_id").to_pylist()


@pytest.fixture(params=["path", "uri", "s3", "memory"])
def out(request, tmp_path):
    """The same stage directory by local path, by URI, and on two stores that are no disk."""
    place = tmp_path / "my run" / "counts"
    place.mkdir(parents=True)
    if request.param == "s3":
        request.getfixturevalue("bucket")
    uris = {"path": place, "uri": f"file://{tmp_path}/run/counts", "s3": "s3://bucket/run/counts"}
    return stage_dir(uris.get(request.param, f"memory://bucket{tmp_path}/counts"))


def stored(out, name):
    with out.filesystem.open_input_file(out.path(name)) as stream:
        return stream.read()


def test_what_is_committed_is_read_back_cast_and_in_the_order_of_the_parts(out):
    assert out.parts() == []
    assert out.read(schema=SCHEMA) == SCHEMA.empty_table()
    out.commit(part_name("b"), table("y"), schema=SCHEMA)
    out.commit(part_name("a"), table("x", "z").select(["n", "row_id"]), schema=SCHEMA)
    assert out.parts() == ["part-a.parquet", "part-b.parquet"]
    found = out.read(schema=SCHEMA)
    assert found.schema == SCHEMA
    assert found.to_pylist() == [{"row_id": "x", "n": 0}, {"row_id": "z", "n": 1}, {"row_id": "y", "n": 0}]
    assert out.read(schema=SCHEMA, columns=["n"]).to_pydict() == {"n": [0, 1, 0]}
    assert out.read_parts([part_name("b")], schema=SCHEMA).column("row_id").to_pylist() == ["y"]
    schema = pq.ParquetFile(pa.BufferReader(stored(out, "part-b.parquet"))).schema_arrow
    assert schema.field("n").type == pa.int32()


def test_a_table_that_does_not_fit_is_refused_by_name_and_leaves_nothing(out):
    odd = pa.table({"row_id": ["x"], "m": [1]})
    with pytest.raises(ValueError, match=r"missing columns \['n'\], unexpected columns \['m'\].*\['row_id', 'n'\]"):
        out.commit(part_name("a"), odd, schema=SCHEMA)
    with pytest.raises(pa.ArrowInvalid):
        out.commit(part_name("a"), pa.table({"row_id": ["x"], "n": [2**40]}), schema=SCHEMA)
    assert out.parts() == []


def test_what_a_killed_writer_left_is_no_part(tmp_path):
    out = stage_dir(tmp_path)
    out.commit(part_name("a"), table("x"), schema=SCHEMA)
    whole = (tmp_path / "part-a.parquet").read_bytes()
    (tmp_path / "_tmp-0123").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "rejects").mkdir()
    pq.write_table(to_table([Reject("r", "odd")]), tmp_path / "rejects" / "part-b.parquet")  # killed before its part
    assert out.parts() == ["part-a.parquet"]
    assert ids(out) == ["x"]
    assert out.read_rejects().num_rows == 0
    assert out.manifest() is None


def test_a_failed_write_leaves_the_old_content(tmp_path, monkeypatch):
    out = stage_dir(tmp_path)
    out.write_text("metrics.json", "old")

    class FullDisk:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return False

        def write(self, data):
            raise OSError("no space left on device")

    class Full:
        def __getattr__(self, name):
            return getattr(real, name)

        def open_output_stream(self, path):
            return FullDisk()

    real = out.filesystem
    monkeypatch.setitem(out.__dict__, "_opened", (Full(), out.path()))
    with pytest.raises(OSError, match="no space left"):
        out.write_text("metrics.json", "new")
    assert (tmp_path / "metrics.json").read_text() == "old"


def test_an_upload_that_fails_leaves_the_old_content_and_no_part(bucket):
    out = stage_dir("s3://bucket/run/counts")
    out.commit(part_name("a"), table("x"), schema=SCHEMA)
    bucket.refuses_uploads = True
    large = pa.table({"row_id": [os.urandom(4).hex() for _ in range(2**20)], "n": range(2**20)})  # by several requests
    for part, rows in (("a", table("y")), ("b", table("y")), ("a", large), ("b", large)):
        with pytest.raises(OSError, match="ACCESS_DENIED"):
            out.commit(part_name(part), rows, schema=SCHEMA)
    assert out.parts() == ["part-a.parquet"]
    assert ids(out) == ["x"]


def test_a_small_part_takes_one_request_to_write_and_two_to_read(bucket):
    out = stage_dir("s3://bucket/run/counts")
    out.commit(part_name("a"), table("x"), schema=SCHEMA)
    assert [(method, key) for method, key, _ in bucket.calls] == [("PUT", "run/counts/part-a.parquet")]
    bucket.calls.clear()
    assert ids(stage_dir(out.uri)) == ["x"]
    of_part = [method for method, key, _ in bucket.calls if key.endswith("part-a.parquet")]
    assert of_part == ["HEAD", "GET"]


def test_a_client_of_s3_makes_no_directories_and_travels_with_all_that_it_was_given(bucket):
    address = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    uri = f"s3://key:secret@bucket/a%20run?region=eu-west-1&scheme=http&endpoint_override={address}"
    out = stage_dir(uri)
    assert out.filesystem is Directory(f"{uri}").filesystem and out.path("x") == "bucket/a run/x"
    sent = pickle.loads(pickle.dumps(out.filesystem))  # as Ray Train sends it
    assert sent.equals(out.filesystem) and sent.region == "eu-west-1"
    sent.create_dir("bucket/a run/deep/er")
    bucket.calls.clear()
    with sent.open_output_stream("bucket/a run/deep/er/x") as stream:
        stream.write(b"x")
    assert [(method, key) for method, key, _ in bucket.calls] == [("PUT", "a run/deep/er/x")]
    assert list(bucket.objects) == ["a run/deep/er/x"]


def test_the_rejects_of_all_parts_are_found_by_two_listings(bucket):
    out = stage_dir("s3://bucket/run/counts")
    for number in range(12):
        bad = [Reject(f"r{number}", "odd")] if number % 3 == 0 else []
        out.commit(part_name(f"{number:02d}"), table(f"x{number}"), schema=SCHEMA, rejects=to_table(bad))
    bucket.calls.clear()
    assert out.read_rejects().column("row_id").to_pylist() == ["r0", "r3", "r6", "r9"]
    listings = [query for _, key, query in bucket.calls if key == "" and "prefix" in query]
    assert len(listings) == 2
    assert not [key for method, key, _ in bucket.calls if method == "HEAD" and "rejects/part-01" in key]


def test_a_part_committed_again_is_replaced_with_its_rejects(out):
    bad = [Reject("r1", "odd"), Reject("r2", "odd")]
    out.commit(part_name("a"), table("x", "y"), schema=SCHEMA, rejects=to_table(bad))
    out.commit(part_name("b"), table("z"), schema=SCHEMA, rejects=to_table([Reject("r3", "long")]))
    assert out.read_rejects().schema == REJECTS
    assert out.read_rejects().column("row_id").to_pylist() == ["r1", "r2", "r3"]
    out.commit(part_name("a"), table("w"), schema=SCHEMA, rejects=to_table([]))
    assert ids(out) == ["w", "z"]
    assert out.read_rejects().column("row_id").to_pylist() == ["r3"]
    assert not out.exists("rejects/part-a.parquet")


def test_a_manifest_is_read_back_equal(out):
    manifest = Manifest(
        stage="counts",
        fingerprint="f00d",
        config={"labels": "all", "plan": [1, 2.5, None]},
        upstream={"annotation": "beef"},
        inputs={"model": "cafe"},
        rows_in=10,
        rows_out=7,
        rejects={"odd": 2, "long": 1},
        seconds=1.25,
        versions={"python": "3.11.9"},
        figures={"all": {"iterations": 3}},
    )
    out.commit(part_name("a"), table("x"), schema=SCHEMA)
    assert out.manifest() is None
    out.seal(manifest)
    size = out.filesystem.get_file_info(out.path("part-a.parquet")).size
    assert out.manifest() == replace(manifest, parts={"part-a.parquet": [1, size]})
    assert out.parts() == ["part-a.parquet"]


def sealed(out, *, parts=3):
    """A finished stage; the rows and rejects of its parts are known."""
    for number in range(parts):
        bad = [Reject("r", "odd")] if number == 1 else []
        out.commit(part_name(f"{number}"), table(*"xyz"[: number + 1]), schema=SCHEMA, rejects=to_table(bad))
    out.seal(Manifest("counts", "f00d", {}, {}, {}, 6, 6, {"odd": 1}, 1.0, {}))


def test_a_finished_stage_knows_its_rows_without_a_footer(bucket):
    out = stage_dir("s3://bucket/run/counts")
    sealed(out)
    bucket.calls.clear()
    assert out.counts() == {"part-0.parquet": 1, "part-1.parquet": 2, "part-2.parquet": 3}
    assert sum(out.counts(["part-1.parquet"]).values()) == 2
    assert not [key for method, key, _ in bucket.calls if key.endswith(".parquet")]
    assert out.parts() == ["part-0.parquet", "part-1.parquet", "part-2.parquet"]
    assert out.read_rejects().num_rows == 1
    assert not [query for _, _, query in bucket.calls if "prefix" in query]


DAMAGES = {
    "missing": lambda path: path.unlink(),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["part-1.parquet", "rejects/part-1.parquet"])
def test_a_damaged_part_of_a_finished_stage_is_told(damage, name, tmp_path):
    out = stage_dir(str(tmp_path / "counts"))
    sealed(out)
    manifest, damaged = out.standing()
    assert manifest == out.manifest() and damaged == []
    DAMAGES[damage](Path(out.path(name)))
    assert out.standing() == (None, [name])
    out.unseal([name])
    assert out.manifest() is None and not out.exists(name) and out.exists("part-2.parquet")
    assert out.standing() == (None, [])


@pytest.mark.parametrize("torn", [b"", b'{"stage": "counts", "finge', b"null", b"\xff\xfe"])
def test_a_manifest_that_is_torn_is_told_and_the_stage_goes_on_from_its_parts(torn, tmp_path):
    out = stage_dir(str(tmp_path / "counts"))
    sealed(out)
    Path(out.path("manifest.json")).write_bytes(torn)
    again = stage_dir(str(tmp_path / "counts"))
    assert again.standing() == (None, ["manifest.json"])
    again.unseal(["manifest.json"])
    assert again.standing() == (None, []) and again.counts() == out.counts()
    assert again.read_rejects().num_rows == 1


def test_the_rejects_of_a_damaged_part_go_with_it_and_a_kill_meanwhile_is_found(tmp_path, monkeypatch):
    """A part of a map whose rejects alone were lost would pass for made."""
    out = stage_dir(str(tmp_path / "counts"))
    sealed(out)
    Path(out.path("rejects/part-1.parquet")).unlink()
    _, damaged = out.standing()
    gone, deleting = [], out.filesystem.delete_file

    class Dying:
        def __getattr__(self, name):
            return getattr(real, name)

        def delete_file(self, path):
            if gone:
                raise KeyboardInterrupt
            gone.append(path)
            deleting(path)

    real = out.filesystem
    monkeypatch.setitem(out.__dict__, "_opened", (Dying(), out.path()))
    with pytest.raises(KeyboardInterrupt):
        out.unseal(damaged)
    again = stage_dir(str(tmp_path / "counts"))
    manifest, damaged = again.standing()
    assert manifest is None and "part-1.parquet" in damaged
    again.unseal(damaged)
    assert again.parts() == ["part-0.parquet", "part-2.parquet"] and again.standing() == (None, [])


def test_a_part_that_cannot_be_read_is_named_with_what_to_do(tmp_path):
    out = stage_dir(str(tmp_path / "counts"))
    sealed(out)
    path = Path(out.path("part-1.parquet"))
    whole = path.read_bytes()
    for broken in (
        b"PAR1" + bytes(len(whole) - 8) + b"PAR1",
        whole[:40] + bytes(60) + whole[100:],
        b"no parquet at all",
    ):
        path.write_bytes(broken)
        with pytest.raises(DamagedPart, match=r"counts/part-1.parquet cannot be read: .* Delete that file and run"):
            out.read(schema=SCHEMA)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        out.read_parts(["part-1.parquet"], schema=SCHEMA)


def test_a_stage_directory_can_be_sent_to_another_process(out):
    out.commit(part_name("a"), table("x"), schema=SCHEMA)  # its file system is open, and file systems do not travel far
    sent = pickle.dumps(out)
    again = pickle.loads(sent)
    assert again == out
    assert (again.stage, again.fingerprint) == ("counts", "f00d")
    assert ids(again) == ["x"]
    assert b"FileSystem" not in sent
    again.commit(part_name("b"), table("y"), schema=SCHEMA)
    assert ids(out) == ["x", "y"]


def test_a_local_path_is_made_absolute_and_a_uri_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert absolute("runs/x") == f"{tmp_path}/runs/x"
    assert absolute("~/x") == "/home/somebody/x"
    assert absolute("s3://bucket/run/") == "s3://bucket/run"


def test_require_names_what_is_missing_and_where(tmp_path):
    Directory(str(tmp_path)).require("model")
    gone = str(tmp_path / "gone.jsonl")
    with pytest.raises(ValueError, match=r"question file of train/a: .*gone\.jsonl does not exist; correct the path"):
        Directory(gone).require("question file of train/a")
    Path(gone).touch()
    Directory(gone).require("question file of train/a")


def test_upload_copies_a_tree(out, tmp_path):
    from mralign.training.export import upload

    source = tmp_path / "source"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "a.json").write_text("{}")
    (source / "deep" / "er" / "w.bin").write_bytes(bytes(range(256)))
    upload(source, out=out, name="model")
    assert out.read_text("model/a.json") == "{}"
    assert stored(out, "model/deep/er/w.bin") == bytes(range(256))
    found = out.filesystem.get_file_info(fs.FileSelector(out.path("model"), recursive=True))
    assert sum(info.is_file for info in found) == 2


def test_a_fingerprint_changes_with_everything_that_matters_and_nothing_else():
    base = {
        "stage": "counts",
        "version": 1,
        "config": {"a": 1, "b": [1, 2]},
        "upstream": {"x": "1", "y": "2"},
        "inputs": {"model": "3"},
    }
    changes = [
        {"stage": "weights"},
        {"version": 2},
        {"config": {"a": 1, "b": [2, 1]}},
        {"config": {"a": 1.5, "b": [1, 2]}},
        {"upstream": {"x": "1", "y": "4"}},
        {"upstream": {"x": "2", "y": "1"}},
        {"inputs": {"model": "2"}},
        {"inputs": {}},
        {"upstream": {}, "inputs": {"x": "1", "y": "2", "model": "3"}},
    ]
    marks = [fingerprint(**base), *(fingerprint(**{**base, **change}) for change in changes)]
    assert len(set(marks)) == 10
    assert all(len(mark) == 16 and int(mark, 16) >= 0 for mark in marks)
    turned = {**base, "config": {"b": [1, 2], "a": 1}, "upstream": {"y": "2", "x": "1"}}
    assert fingerprint(**turned) == marks[0]
