"""What is read of finished stages in a far store is read once; what may still change is read anew."""

import pickle
import threading
import time

import loopback_s3
import pyarrow as pa
import pytest
from pyarrow import fs

from mralign.run.changes import newest_result
from mralign.run.filesystems import for_copies
from mralign.run.manifest import Manifest
from mralign.run.part_names import part_name
from mralign.run.recall import SMALL, Recall
from mralign.run.rejects import Reject, to_table
from mralign.run.store import READERS, Directory, StageDir, ahead

ROWS = pa.schema({"row_id": pa.string()})


@pytest.fixture
def store(monkeypatch):
    with loopback_s3.serve() as (store, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield store


def stage():
    return StageDir("s3://bucket/run/counts/f00d", stage="counts", fingerprint="f00d")


def seal(out):
    return out.seal(Manifest("counts", "f00d", {}, {}, {}, 1, 1, {}, 1.0, {}))


def asked(store, act):
    """What an act returns, and the requests that it made."""
    store.calls.clear()
    return act(), len(store.calls)


def test_a_finished_stage_is_read_once(store):
    out = stage()
    out.commit(part_name("a"), pa.table({"row_id": ["x"]}), schema=ROWS)
    out.write_text("metrics.json", "{}")
    seal(out)
    for act in (lambda: stage().read(schema=ROWS).num_rows, lambda: stage().read_text("metrics.json")):
        first, many = asked(store, act)
        again, none = asked(store, act)
        assert again == first and (many, none) == (2, 0)
    assert asked(store, lambda: stage().counts()) == ({part_name("a"): 1}, 0)
    assert asked(store, lambda: stage().manifest().rows_out) == (1, 0)


def test_a_folder_that_does_not_exist_is_not_asked_for_until_something_is_written_there(store):
    folder = "s3://bucket/run/counts"
    for write in (
        lambda out: out.write_text("metrics.json", "{}"),
        lambda out: out.write_table("metrics.json", pa.table({"row_id": ["x"]})),
        lambda out: out.new_file("metrics.json").__enter__().close(),
        lambda out: out.recalled.appears(out.uri),  # its workers will write
        lambda out: out.recalled.appears("s3://bucket/run"),
    ):
        out = stage()
        out.recalled.keep_missing([folder])
        assert asked(store, lambda out=out: (out.sizes(), out.standing(), out.find_text("x"))) == (
            ({}, (None, []), None),
            0,
        )
        assert newest_result(out) is None and not store.calls
        other = StageDir("s3://bucket/run/counts_by_content", stage="shelf", fingerprint="s")
        assert asked(store, other.sizes) == ({}, 1)
        write(out)
        assert asked(store, stage().sizes)[1] == 1
        store.objects.clear()


def test_a_folder_that_workers_fill_is_asked_for_whatever_another_thread_believes(store):
    out = stage()
    with out.recalled.filling(out.uri):
        out.recalled.keep_missing(["s3://bucket/run/counts", "s3://bucket/run/weights"])
        assert asked(store, out.sizes) == ({}, 1)
        assert out.recalled.is_missing("s3://bucket/run/weights/f")
    out.recalled.keep_missing(["s3://bucket/run/counts"])
    assert asked(store, out.sizes) == ({}, 0)


def test_a_stage_under_way_is_read_anew(store):
    out, other = stage(), stage()
    for text in ("one", "two"):
        out.write_text("metrics.json", text)
        out.commit(part_name("a"), pa.table({"row_id": [text]}), schema=ROWS)
        assert other.read_text("metrics.json") == text
        assert other.read(schema=ROWS).column("row_id").to_pylist() == [text]


def test_what_is_written_into_a_finished_stage_is_read_anew(store):
    out = stage()
    out.write_text("README.md", "before")
    seal(out)
    assert stage().read_text("README.md") == "before"
    stage().write_text("README.md", "after")
    assert stage().read_text("README.md") == "after"


def test_a_stage_that_is_unsealed_or_gone_is_forgotten(store):
    out = stage()
    out.commit(part_name("a"), pa.table({"row_id": ["x"]}), schema=ROWS)
    seal(out)
    assert stage().read(schema=ROWS).num_rows == 1
    store.objects["run/counts/f00d/part-a.parquet"] = b"cut short"
    manifest, damaged = stage().standing()
    assert manifest is None and damaged == [part_name("a")]
    stage().unseal(damaged)
    assert stage().manifest() is None and stage().parts() == []


def test_another_store_of_the_same_name_has_its_own(store, monkeypatch):
    seal(stage())
    with loopback_s3.serve() as (_, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert stage().manifest() is None


def test_files_make_room_for_those_that_are_used_later():
    kept = Recall(room=10)
    kept.keep_manifest("s3://b/run", Manifest("counts", "f", {}, {}, {}, 1, 1, {}, 1.0, {}))
    for name in "abc":
        kept.keep_file(f"s3://b/run/{name}", name.encode() * 4)
    assert [kept.file(f"s3://b/run/{name}") for name in "abc"] == [None, b"bbbb", b"cccc"]
    kept.keep_file("s3://b/run/large", bytes(SMALL + 1))
    kept.keep_file("s3://b/running/x", b"x")
    assert kept.file("s3://b/run/large") is None and kept.file("s3://b/running/x") is None


def test_one_request_tells_whether_a_file_is_there(store, tmp_path):
    out = stage()
    out.write_text("there", "x")
    assert [asked(store, lambda name=name: out.holds(name)) for name in ("there", "missing")] == [(True, 1), (False, 1)]
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    local = Directory(str(tmp_path))
    assert [local.holds(name) for name in ("file", "folder", "missing", "file/below")] == [True, False, False, False]


def test_a_stage_that_begins_where_nothing_lies_lists_nothing(store):
    out = stage()
    assert out.standing() == (None, []) and out.was_empty
    out.begun()
    assert not out.was_empty
    out.commit(part_name("a"), pa.table({"row_id": ["x"]}), schema=ROWS)
    again = stage()
    assert again.standing() == (None, []) and not again.was_empty


def test_rows_that_another_process_has_written_are_counted_from_the_listing(store):
    out = stage()
    size = stage().commit(part_name("a"), pa.table({"row_id": ["x", "y"]}), schema=ROWS)
    out.know_rows(part_name("a"), rows=2, size=size)
    assert asked(store, out.counts) == ({part_name("a"): 2}, 1)


def test_a_tree_is_copied_into_a_store_without_directories(store, tmp_path):
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "deep" / "deeper" / "file").write_bytes(b"abc")
    filesystem = pickle.loads(pickle.dumps(for_copies(stage().filesystem)))
    store.calls.clear()
    fs.copy_files(str(tmp_path), "bucket/run/tree", fs.LocalFileSystem(), filesystem)
    assert store.objects["run/tree/deep/deeper/file"] == b"abc"
    assert [call[:2] for call in store.calls] == [("PUT", "run/tree/deep/deeper/file")]
    assert filesystem.get_file_info("bucket/run/tree/deep").type == fs.FileType.Directory
    fs.copy_files("bucket/run/tree", str(tmp_path / "back"), filesystem, fs.LocalFileSystem())
    assert (tmp_path / "back" / "deep" / "deeper" / "file").read_bytes() == b"abc"
    filesystem.delete_dir("bucket/run/tree")
    assert not [name for name in store.objects if name.startswith("run/tree/deep")]
    assert for_copies(fs.LocalFileSystem()) == fs.LocalFileSystem()


def test_while_it_is_quiet_a_stage_is_listed_once_and_follows_what_is_written(store):
    out, lists = stage(), lambda: sum(kind == "GET" and not key for kind, key, _ in store.calls)
    stage().commit(part_name("a"), pa.table({"row_id": ["x"]}), schema=ROWS)
    out.quiet()
    store.calls.clear()
    out.commit(part_name("b"), pa.table({"row_id": ["y"]}), schema=ROWS, rejects=rejected("r"))
    assert out.parts() == [part_name("a"), part_name("b")] and out.counts() == {part_name("a"): 1, part_name("b"): 1}
    assert out.find_text("missing") is None and out.read_rejects([part_name("a")]).num_rows == 0
    assert out.read_rejects().column("row_id").to_pylist() == ["r"]
    out.commit_rejects(part_name("b"), rejected())
    assert out.read_rejects().num_rows == 0 and lists() == 1
    seal(out)
    assert lists() == 1 and stage().manifest().parts[part_name("b")][0] == 1
    stage().commit(part_name("c"), pa.table({"row_id": ["z"]}), schema=ROWS)
    out.unseal(["manifest.json"])
    out.loud()
    assert out.parts() == [part_name("a"), part_name("b"), part_name("c")]


def rejected(*row_ids):
    return to_table(Reject(row_id, "odd") for row_id in row_ids)


def test_what_is_deleted_while_it_is_quiet_is_gone_from_the_listing(store):
    out = stage()
    out.quiet()
    for name in "ab":
        out.commit(part_name(name), pa.table({"row_id": [name]}), schema=ROWS, rejects=rejected(name))
    assert len(out.parts()) == 2 and out.read(schema=ROWS).num_rows == 2
    out.delete_file(part_name("a"))
    out.commit_rejects(part_name("b"), rejected())
    assert out.parts() == [part_name("b")] and out.with_rejects(None) == []
    assert set(out.sizes()) == {part_name("b"), f"rejects/{part_name('a')}"}
    with pytest.raises(FileNotFoundError):
        out.read_parts([part_name("a")], schema=ROWS)


def test_a_listing_that_comes_after_others_write_again_is_not_kept(store):
    """A thread lists, and meanwhile the stage begins to work: what it saw is of before."""
    out = stage()
    out.quiet()
    answer, listing = out._list, []

    def late(*, recursive):
        found = answer(recursive=recursive)
        if not listing:
            listing.append(found)
            out.loud()
            stage().commit(part_name("a"), pa.table({"row_id": ["x"]}), schema=ROWS)
        return found

    out.__dict__["_list"] = late
    assert out.sizes() == {}
    assert out.parts() == [part_name("a")]


def test_a_shelf_that_another_process_adds_to_is_listed_anew_by_the_next_run(store):
    ours = StageDir("s3://bucket/run/shelf")
    ours.quiet()
    assert ours.parts() == []
    store.objects["run/shelf/part-z.parquet"] = b"by another process"
    again = StageDir("s3://bucket/run/shelf")
    again.quiet()
    assert again.parts() == ["part-z.parquet"]


def test_a_run_directory_is_forgotten_with_all_that_lies_in_it(store):
    out = stage()
    seal(out)
    below = StageDir(f"{out.uri}/raw")
    below.quiet()
    home = Directory("s3://bucket/run")
    home.recalled.forget(home.uri)
    assert not home.recalled.is_still(out.uri) and not home.recalled.is_still(below.uri)


def test_what_is_written_while_a_first_listing_is_under_way_is_in_it(tmp_path):
    out = StageDir(str(tmp_path), stage="counts", fingerprint="f00d")
    out.quiet()
    (known,) = out._quiet
    writer = threading.Thread(target=out._changed, args=("late", 7))

    def listed_too_early():
        writer.start()
        time.sleep(0.2)
        return {"early": 1}

    known.sizes(listed_too_early)
    writer.join()
    assert out.sizes() == {"early": 1, "late": 7}


def test_listing_and_writing_at_once_disturb_each_other_nowhere(tmp_path):
    out = StageDir(str(tmp_path), stage="counts", fingerprint="f00d")
    out.quiet()
    out.sizes()
    (known,) = out._quiet
    for n in range(100_000):
        known.note(f"tallies/{n}.json", 1)
    names = [part_name(f"{n}") for n in range(300)]

    def write(name):
        out._changed(f"rejects/{name}", 1)
        out._changed(f"rejects/{name}", None)
        return len(out.sizes())

    assert set(ahead(write, names)) <= {100_000 + n for n in range(READERS + 1)}
