"""Digests of inputs see what matters, wherever they lie."""

import os
import shutil

import pytest

from mralign.run.digests import digest
from mralign.run.filesystems import open_filesystem

MIB = 2**20


def test_the_digest_of_a_file_follows_its_content_alone(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("one")
    second.write_text("one")
    assert digest(str(first)) == digest(str(second)) == digest(f"file://{first}")
    second.write_text("two")
    assert digest(str(first)) != digest(str(second))


def test_the_digest_of_a_directory_leaves_its_card_aside(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    before = digest(str(tmp_path))
    (tmp_path / "README.md").write_text("results")
    assert digest(str(tmp_path)) == before


def test_the_digest_of_a_directory_follows_names_and_contents_not_its_place(tmp_path):
    here, there = tmp_path / "here", tmp_path / "far" / "there"
    here.mkdir()
    for name, text in (("config.json", "{}"), ("weights", "1 2 3"), ("other", "1 2 3")):
        (here / name).write_text(text)
    shutil.copytree(here, there)
    before = digest(str(here))
    assert digest(str(there)) == before
    (there / "config.json").write_text("{ }")
    assert digest(str(there)) != before
    (there / "config.json").write_text("{}")
    assert digest(str(there)) == before
    (there / "weights").rename(there / "weights2")
    assert digest(str(there)) != before
    (there / "weights2").unlink()
    assert digest(str(there)) != before


def put(path, offset, data):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize("size", [64 * MIB + 1, 64 * MIB + 2, 127 * MIB, 300 * MIB + 17])
def test_a_large_file_is_sampled_from_its_first_to_its_last_byte(tmp_path, size):
    path = tmp_path / "weights"
    path.touch()
    os.truncate(path, size)  # sparse: no disk is used
    middle = 31 * (size - MIB) // 63  # the 32nd of 64 blocks, evenly spread
    seen = {digest(str(path))}
    for offset in (0, middle, middle + MIB - 1, size - 1):
        put(path, offset, b"\x01")
        seen.add(digest(str(path)))
        put(path, offset, b"\x00")
    os.truncate(path, size + 1)
    seen.add(digest(str(path)))
    assert len(seen) == 6


def test_a_path_that_is_not_there_is_its_own_digest():
    assert digest("Qwen/Qwen3-8B") == "name:Qwen/Qwen3-8B"
    assert digest("/nowhere/at all") == "name:/nowhere/at all"


def test_a_file_behind_an_address_that_only_fsspec_knows_is_read(tmp_path):
    import functools
    import http.server
    import threading

    (tmp_path / "q.jsonl").write_text("one\ntwo\n")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}/q.jsonl"
        filesystem, path = open_filesystem(uri)
        with filesystem.open_input_stream(path) as stream:
            assert bytes(stream.read()) == b"one\ntwo\n"
        assert digest(uri) == digest(str(tmp_path / "q.jsonl"))
        assert digest(uri + "x") == f"name:{uri}x"
        server.shutdown()
    with pytest.raises(ValueError, match=r"cannot be opened: .*; allowed are local paths"):
        open_filesystem("nosuchscheme://a/b")
