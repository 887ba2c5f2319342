"""What keeps a finished result from being used again, in words."""

import os

import pytest

from mralign.run.changes import differences, newest_result
from mralign.run.store import Manifest, StageDir


def manifest(*, fingerprint="old", config=None, upstream=None, inputs=None):
    given = {"config": config or {}, "upstream": upstream or {}, "inputs": inputs or {}}
    return Manifest("s", fingerprint, **given, rows_in=1, rows_out=1, rejects={}, seconds=1.0, versions={})


@pytest.mark.parametrize(
    ("was", "now", "lines"),
    [
        ({"run.seed": 0}, {"run.seed": 1}, ["run.seed 0 -> 1"]),
        ({"t": {"rate": 1e-05, "n": 3}}, {"t": {"rate": 2e-05, "n": 3}}, ["t.rate 1e-05 -> 2e-05"]),
        ({"t": {"names": ["a"]}}, {"t": {"names": ["a", "b"]}}, ['t.names ["a"] -> ["a", "b"]']),
        ({"a": [{"n": 1}, {"n": 2}]}, {"a": [{"n": 1}, {"n": 3}]}, ["a.1.n 2 -> 3"]),
        ({"t": {"n": 1}}, {"t": {"n": 1, "new": None}}, ["t.new nothing -> null"]),
        (
            {"t": 1, "code.objective": "ab"},
            {"t": 1, "code.objective": "cd"},
            ["the program's own objective has changed"],
        ),
        ({"t": "x" * 99}, {"t": "y"}, [f't "{"x" * 59}... -> "y"']),
        ({"t": list(range(9))}, {"t": list(range(9))}, ["it was made by another version of this program"]),
        ({"threshold": 7}, {"annotation": {"threshold": 7}}, ["it was made by another version of this program"]),
        (
            dict.fromkeys("abcdefg", 0),
            dict.fromkeys("abcdefg", 1),
            [*(f"{n} 0 -> 1" for n in "abcde"), "and 2 more"],
        ),
    ],
)
def test_each_setting_that_differs_is_a_line(was, now, lines):
    assert differences(manifest(config=was), settings=now, upstream={}, inputs={}) == lines


def test_a_file_that_differs_is_a_line_and_a_result_upstream_is_none():
    old = manifest(config={"t": 1}, upstream={"a": "1"}, inputs={"model": "x", "book": "y"})
    given = {"settings": {"t": 1}, "upstream": {"a": "2"}}
    assert differences(old, inputs={"model": "z", "book": "y"}, **given) == ["the content of model has changed"]
    assert differences(old, inputs=dict(old.inputs), **given) == []


def test_the_newest_other_result_is_the_one_to_compare_with(tmp_path):
    def sealed(mark, at):
        out = StageDir(f"{tmp_path}/s/{mark}", stage="s", fingerprint=mark)
        out.seal(manifest(fingerprint=mark))
        os.utime(tmp_path / "s" / mark / "manifest.json", (at, at))
        return out

    wanted = StageDir(f"{tmp_path}/s/now", stage="s", fingerprint="now")
    assert newest_result(wanted) is None
    sealed("first", 1000)
    sealed("second", 3000)
    sealed("third", 2000)
    sealed("now", 4000)
    (tmp_path / "s" / "unfinished").mkdir()
    (tmp_path / "s" / "metrics.json").write_text("{}")  # the stage `evaluation` has files beside its results
    out, found = newest_result(wanted)
    assert (out.fingerprint, found.fingerprint) == ("second", "second")
    (tmp_path / "s" / "second" / "manifest.json").write_text("broken")
    assert newest_result(wanted)[0].fingerprint in ("third", "first")
