"""`mralign fetch` copies a directory, which appears when it is whole."""

import pytest
from command_line import ran

from mralign.run import shared_copies
from mralign.run.directory import Directory
from mralign.run.shared_copies import _BLOCK

pytestmark = pytest.mark.usefixtures("bucket")


def test_a_directory_is_copied_whole(capsys, tmp_path):
    store = Directory("s3://bucket/model")
    store.write_bytes("weights/a.bin", bytes(_BLOCK + 1))
    store.write_text("config.json", "{}")
    target = tmp_path / "new" / "model"
    code, out, _ = ran(capsys, "fetch", "s3://bucket/model/", str(target))
    assert (code, out) == (0, f"{target}: 2 files, {(_BLOCK + 3) / 2**20:,.1f} MiB\n")
    assert (target / "weights" / "a.bin").stat().st_size == _BLOCK + 1
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_what_is_there_is_left_alone(capsys, tmp_path):
    Directory("s3://bucket/model").write_text("config.json", "{}")
    (tmp_path / "model").mkdir()
    code, _, error = ran(capsys, "fetch", "s3://bucket/model", str(tmp_path / "model"))
    assert code == 2
    assert "is there already; delete it, or give another name" in error


def test_a_directory_that_is_not_there(capsys, tmp_path):
    code, _, error = ran(capsys, "fetch", "s3://bucket/none", str(tmp_path / "model"))
    assert code == 2
    assert "s3://bucket/none does not exist, or holds no file" in error
    assert not list(tmp_path.iterdir())


def test_a_copy_that_breaks_off_does_not_appear(capsys, tmp_path, monkeypatch):
    Directory("s3://bucket/model").write_text("config.json", "{}")
    monkeypatch.setattr(shared_copies, "_is_whole", lambda place, info: False)
    code, _, error = ran(capsys, "fetch", "s3://bucket/model", str(tmp_path / "model"))
    assert code != 0
    assert "config.json has another size than it was listed with" in error
    assert not list(tmp_path.iterdir())
