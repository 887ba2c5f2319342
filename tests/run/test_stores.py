"""A run directory is the same on a disk, in S3 and in Google's store: what is written, listed, moved and deleted."""

import pickle

import loopback_gcs
import pyarrow as pa
import pytest
from pyarrow import fs

from mralign.run.changes import newest_result
from mralign.run.directory import Directory
from mralign.run.filesystems import files_in, for_copies, is_store, open_filesystem
from mralign.run.manifest import Manifest
from mralign.run.part_names import part_name
from mralign.run.rejects import Reject, to_table
from mralign.run.store import StageDir
from mralign.training.kept_checkpoints import RAY_TRAIN, tidy

ROWS = pa.schema({"row_id": pa.string()})
LARGE = 5 * 2**20  # bytes of what is written in pieces


@pytest.fixture(params=["disk", "s3", "gcs"])
def home(request, tmp_path):
    """An empty run directory."""
    if request.param == "disk":
        return Directory(str(tmp_path / "run"))
    request.getfixturevalue("bucket" if request.param == "s3" else "google_bucket")
    return Directory("s3://bucket/run" if request.param == "s3" else f"{loopback_gcs.HOME}/run")


def level(home, name="", **how):
    """(name, whether it is a directory) of what is listed."""
    infos = home.filesystem.get_file_info(fs.FileSelector(home.path(name), **how))
    return sorted((info.base_name, info.type == fs.FileType.Directory) for info in infos)


def test_files_are_written_read_and_looked_for(home):
    assert not home.exists() and not home.holds("a.txt") and home.find_text("a.txt") is None
    home.write_text("a.txt", "first")
    home.write_text("a.txt", "second")
    home.write_bytes("deep/er/b.bin", bytes(LARGE))
    with home.new_file("deep/c.bin") as stream:
        stream.write(b"in pieces")
    assert home.read_text("a.txt") == "second"
    assert home.filesystem.get_file_info(home.path("deep/er/b.bin")).size == LARGE
    assert home.read_text("deep/c.bin") == "in pieces"
    assert home.exists("deep") and not home.holds("deep") and home.holds("a.txt")
    with pytest.raises(FileNotFoundError):
        home.read_text("deep/none")


def test_a_file_that_failed_leaves_nothing(home):
    home.write_text("a.txt", "there")
    with pytest.raises(RuntimeError, match="broke off"), home.new_file("b.bin") as stream:
        write_half(stream)
    assert level(home) == [("a.txt", False)]


def write_half(stream):
    stream.write(b"half")
    raise RuntimeError("broke off")


def test_one_level_has_the_directories_that_nobody_made(home):
    for name in ("config.yaml", "counts/f00d/part-a", "counts/f00d/rejects/part-a", "counts/beef/x", "weights/1/x"):
        home.write_text(name, "x")
    assert level(home) == [("config.yaml", False), ("counts", True), ("weights", True)]
    assert level(home, "counts") == [("beef", True), ("f00d", True)]
    assert level(home, "counts/f00d") == [("part-a", False), ("rejects", True)]
    assert home.folders() == {"counts", "weights"}
    assert level(home, "none", allow_not_found=True) == []
    there = [info.base_name for info in files_in(home.filesystem, home.path("counts/f00d"), recursive=False)]
    assert there == ["part-a"]
    assert files_in(home.filesystem, home.path("none"), recursive=False) == []
    with pytest.raises(OSError, match="run/none"):  # each store says it in its own way
        level(home, "none")
    all_levels = ["beef", "beef/x", "f00d", "f00d/part-a", "f00d/rejects", "f00d/rejects/part-a"]
    found = home.filesystem.get_file_info(fs.FileSelector(home.path("counts"), recursive=True))
    assert sorted(info.path.removeprefix(f"{home.path('counts')}/") for info in found) == all_levels
    assert sorted(info.base_name for info in found if info.type == fs.FileType.File) == ["part-a", "part-a", "x"]


def test_a_directory_is_deleted_with_all_that_is_in_it(home):
    for name in ("counts/f00d/part-a", "counts/f00d/rejects/part-a", "counted/x"):
        home.write_text(name, "x")
    Directory(f"{home.uri}/counts").remove()
    assert home.folders() == {"counted"}
    Directory(f"{home.uri}/counts").remove()
    below = home.path("counted")
    home.filesystem.delete_dir(below)
    assert not home.exists("counted")


def test_directories_that_another_client_made_are_listed_and_deleted(home):
    plain = plain_client(home.filesystem) if is_store(home.filesystem) else home.filesystem
    plain.create_dir(home.path("counts/f00d"), recursive=True)
    with plain.open_output_stream(home.path("counts/f00d/x")) as stream:
        stream.write(b"x")
    assert home.folders() == {"counts"}
    assert level(home, "counts/f00d") == [("x", False)]
    home.filesystem.delete_dir(home.path("counts/f00d"))
    assert level(home, "counts/f00d", allow_not_found=True) == []


def plain_client(filesystem):
    """pyarrow's own client of the same store."""
    kind = fs.S3FileSystem if isinstance(filesystem, fs.S3FileSystem) else fs.GcsFileSystem
    return kind(**filesystem.__reduce__()[1][1])


def test_a_stage_is_committed_sealed_and_found_by_another_process(home):
    out = StageDir(f"{home.uri}/counts/f00d", stage="counts", fingerprint="f00d")
    assert out.standing() == (None, [])
    out.commit(part_name("a"), pa.table({"row_id": ["x", "y"]}), schema=ROWS)
    out.commit_rejects(part_name("a"), to_table([Reject("z", "empty", "")]))
    out.seal(Manifest("counts", "f00d", {}, {}, {}, 3, 2, {}, 1.0, {}))
    other = pickle.loads(pickle.dumps(out))
    assert other.counts() == {part_name("a"): 2}
    assert other.read(schema=ROWS).column("row_id").to_pylist() == ["x", "y"]
    assert other.read_rejects().column("row_id").to_pylist() == ["z"]
    found = newest_result(StageDir(f"{home.uri}/counts/beef", stage="counts", fingerprint="beef"))
    assert found is not None
    assert (found[0].uri, found[1].rows_out) == (out.uri, 2)


def test_checkpoints_are_copied_listed_and_deleted_as_ray_train_does(home, tmp_path):
    source = tmp_path / "source"
    (source / "rank-0").mkdir(parents=True)
    (source / "state.json").write_text("{}")
    (source / "rank-0" / "weights.bin").write_bytes(bytes(100))
    copies = pickle.loads(pickle.dumps(for_copies(home.filesystem)))
    if not is_store(home.filesystem):
        copies.create_dir(home.path(f"{RAY_TRAIN}"), recursive=True)
    for number in (1, 2):
        place = home.path(f"{RAY_TRAIN}/checkpoint_2026-11-28_00-00-0{number}")
        if not is_store(home.filesystem):
            copies.create_dir(place)
        fs.copy_files(str(source), place, fs.LocalFileSystem(), copies)
    assert level(home, f"{RAY_TRAIN}/checkpoint_2026-11-28_00-00-01") == [("rank-0", True), ("state.json", False)]
    back = tmp_path / "back"
    copies = pickle.loads(pickle.dumps(for_copies(home.filesystem)))
    fs.copy_files(home.path(f"{RAY_TRAIN}/checkpoint_2026-11-28_00-00-01"), str(back), copies, fs.LocalFileSystem())
    assert (back / "rank-0" / "weights.bin").read_bytes() == bytes(100)
    orphans = tidy(home)  # no list names them
    assert len(orphans) == 2
    assert level(home, RAY_TRAIN, allow_not_found=True) == []


def test_a_client_is_made_once_a_bucket(home):
    if not is_store(home.filesystem):
        pytest.skip("a local disk has no client")
    other, path = open_filesystem(f"{home.uri}/deep")
    assert other is home.filesystem
    assert path == home.path("deep")
