"""What is untrusted meets what reads it: responses, names, texts, packed files. SECURITY.md names these tests."""

import asyncio
import gzip
import io
import json
import os
import re
import stat
import subprocess
import sys
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback_server import Fault, LoopbackServer

from mralign.config import Http, RunConfig, load
from mralign.questions import formats, streams
from mralign.questions.records import read_records
from mralign.questions.sources import check_source, read_batches
from mralign.report.sheets import escape_latex
from mralign.run.disk import own_temporary_directory
from mralign.run.local_ray import import_environment
from mralign.run.part_names import part_name
from mralign.run.rejects import Reject, to_table
from mralign.run.store import Directory, StageDir
from mralign.serving import endpoint
from mralign.serving.calls import Call, Failure
from mralign.serving.endpoint import Endpoint
from mralign.serving.streaming import worker_environment

ROOT = Path(__file__).parents[1]
PRESETS = ROOT / "mralign" / "presets"
KEY = "sk-hostile-0123456789abcdef"
ROWS = pa.schema([("row_id", pa.string())])


# --- Responses ---


async def answer_of(server, directory):
    settings = Http(base_url=server.base_url, max_retries=0, timeout_s=60)
    async with Endpoint(settings, cache=Directory(str(directory))) as asked:
        return await asked.complete(Call("row", "/completions", {"prompt": "p"}))


def asked(fault, directory):
    with LoopbackServer(lambda *_: fault) as server:
        return asyncio.run(answer_of(server, directory)), server.sent


def test_a_body_without_end_is_read_up_to_a_bound_and_becomes_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint, "LARGEST_BODY", 1_000_000)
    answer, sent = asked(Fault.ENDLESS, tmp_path)
    assert answer == Failure("malformed_reply", "the body is longer than 1000000 bytes")
    assert 1_000_000 <= sent < 50_000_000  # what the sockets hold was sent as well
    assert not list(tmp_path.rglob("*.json"))


def test_a_packed_body_is_bounded_by_what_it_unpacks_to(tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint, "LARGEST_BODY", 1_000_000)
    asked(Fault.NONE, tmp_path / "first")  # what is imported on the way is not measured
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        answer, _ = asked(Fault.BOMB, tmp_path / "second")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer == Failure("malformed_reply", "the body is longer than 1000000 bytes")
    # The server, in this process, holds the 100 MB once while it packs them; the client must not hold them again.
    assert peak - before < 150_000_000


# --- Names ---


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "", "a\x1b[2Jb", "a\nb", "a\x00b", "a\u202eb"])
def test_a_data_set_cannot_be_named_so(tmp_path, name):
    """A name of a data set begins every id; it is printed to terminals and stands in addresses."""
    path = tmp_path / "questions.jsonl"
    path.write_text('{"id": 1, "question": "a?", "answers": ["b"]}\n')
    with pytest.raises(ValueError, match="data set name"):
        check_source(str(path), name=name, split="train", fields={})


@pytest.mark.parametrize("identity", ["../../x", "..", "/etc/x", "a\x00b", "\x1b[2J"])
def test_an_id_of_a_question_file_becomes_no_path(tmp_path, identity):
    """Files are named by digests and numbers: neither a row's id nor what is asked of an endpoint is among them."""
    path = tmp_path / "in" / "questions.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps({"id": identity, "question": "a?", "answers": ["b"]}) + "\n")
    found = [
        row for table, _ in read_batches(str(path), name="x", split="train", fields={}) for row in table.to_pylist()
    ]
    assert [row["question_id"] for row in found] in ([f"x/{identity}"], [])
    place = tmp_path / "a" / "b" / "c" / "cache"
    with LoopbackServer() as server:
        settings = Http(base_url=server.base_url, max_retries=0)

        async def ask():
            async with Endpoint(settings, cache=Directory(str(place))) as asked:
                return await asked.complete(Call(f"x/{identity}", "/completions", {"prompt": identity}))

        assert not isinstance(asyncio.run(ask()), Failure)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != tmp_path / "in"]
    assert len(files) == 1
    assert files[0].is_relative_to(place)
    assert re.fullmatch(r"[0-9a-f]+\.json", files[0].name)


# --- Texts ---

HARMLESS = {
    *(r"\textbackslash", r"\textasciitilde", r"\textasciicircum", r"\lambda"),
    *(r"\&", r"\%", r"\$", r"\#", r"\_", r"\{", r"\}", r"\,"),
}


@given(st.text(alphabet=st.sampled_from("\\{}$&#^_~%abcinputwrite18/ \n–−λ"), max_size=60))
def test_no_text_becomes_a_command_of_latex(text):
    written = escape_latex(text)
    assert set(re.findall(r"\\(?:[a-zA-Z]+|.)", written, re.DOTALL)) <= HARMLESS
    bare = re.sub(r"\\(?:[a-zA-Z]+|.)", "", written, flags=re.DOTALL)
    assert not set(bare.replace("{}", "").replace("$", "")) & set("#%&_^~\\")
    assert "\n" not in written


# --- Packed files ---


@pytest.mark.parametrize("name", ["one.json.gz", "lines.jsonl.gz"])
def test_a_packed_question_file_is_bounded_in_memory(tmp_path, monkeypatch, name):
    """100 MB of one line or one document come out of 100 KB: neither is held."""
    monkeypatch.setattr(streams, "LARGEST_UNPACKED", 1_000_000)
    monkeypatch.setattr(streams, "LONGEST_LINE", 1_000_000)
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"[" + b" " * 100_000_000))
    assert path.stat().st_size < 200_000
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"unpacks to more than 1000000|longer than 1000000"):
            list(read_records(str(path)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000


def test_a_zip_that_lies_about_its_size_is_not_believed(tmp_path, monkeypatch):
    """The header says 10 bytes and the member holds 50 MB: no more than the header says is unpacked."""
    monkeypatch.setattr(formats, "LARGEST_UNPACKED", 1_000_000)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("SciQ/train.json", b" " * 50_000_000)
    size = (50_000_000).to_bytes(4, "little")
    (tmp_path / "SciQ.zip").write_bytes(buffer.getvalue().replace(size, (10).to_bytes(4, "little")))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"SciQ\.zip"):
            list(formats.PUBLISHED["sciq"].records(str(tmp_path / "SciQ.zip"), "train"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000


# --- Keys ---


def config_with_a_key() -> RunConfig:
    return load(
        "miniworld",
        overrides=["rollouts.engine=http", "http.base_url=http://127.0.0.1:1/v1", "http.key_env=HOSTILE_KEY"],
        presets_dir=PRESETS,
    )


def test_the_key_is_in_no_configuration_and_in_no_environment_that_ray_writes_down(monkeypatch):
    """Ray keeps the runtime environments of its workers and shows them on its dashboard."""
    monkeypatch.setenv("HOSTILE_KEY", KEY)
    config = config_with_a_key()
    assert KEY not in config.model_dump_json()
    assert KEY not in repr(config)
    assert config.http.key_env == "HOSTILE_KEY"
    for environment in (import_environment(), worker_environment(config.engine)):
        assert KEY not in str(environment)
        assert not [name for name in environment if re.search("KEY|TOKEN|SECRET", name)]


@pytest.mark.long
def test_the_key_is_in_no_argument_of_a_process_and_in_nothing_that_a_plan_prints(tmp_path):
    """A plan is made by a process of its own, which is watched while it lives, with its children."""
    environment = {**os.environ, "HOSTILE_KEY": KEY, "RAY_AUTH_MODE": "disabled"}
    settings = ["rollouts.engine=http", "http.base_url=http://127.0.0.1:1/v1", "http.key_env=HOSTILE_KEY"]
    command = [sys.executable, "-m", "mralign", "align", "--dry-run", f"run.dir={tmp_path / 'run'}", *settings]
    process = psutil.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    told = set()
    with process:
        while process.poll() is None:
            try:
                told |= {" ".join(one.cmdline()) for one in [process, *process.children(recursive=True)]}
                process.wait(timeout=0.05)
            except (psutil.NoSuchProcess, psutil.TimeoutExpired):
                continue
        printed = process.stdout.read()
    assert process.returncode == 0, printed
    assert told
    assert not [line for line in told if KEY in line]
    assert "rollouts" in printed
    assert KEY not in printed
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


# --- What a run leaves ---


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_nothing_that_a_run_leaves_is_more_open_than_the_user_asked_for(tmp_path, mask):
    before = os.umask(mask)
    try:
        out = StageDir(str(tmp_path / "run" / "stage" / "0"), stage="stage", fingerprint="0")
        reject = Reject("a", "reason", "detail", "set", "raw")
        out.commit(part_name("0"), pa.table({"row_id": ["b"]}, schema=ROWS), schema=ROWS, rejects=to_table([reject]))
        out.write_text("metrics.jsonl", "{}")
    finally:
        os.umask(before)
    made = list((tmp_path / "run").rglob("*"))
    assert len([path for path in made if path.is_file()]) >= 3
    for path in made:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert not mode & mask, f"{path}: {mode:o}"
        assert not mode & stat.S_IWOTH


def test_what_is_written_on_the_way_is_for_its_user_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    made = Path(own_temporary_directory("checkpoint"))
    assert made.is_relative_to(tmp_path)
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
