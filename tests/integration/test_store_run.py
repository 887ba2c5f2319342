"""A whole run on an object store, killed twice: the tables of an undisturbed run on a disk.

The stores are S3 on loopback (tests/loopback_s3.py), which refuses and drops requests, and Google's (loopback_gcs.py).
Both are reached by pyarrow's own clients and by Ray Train's copies.
"""

import re
import subprocess
import sys

import loopback_gcs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from align_process import SMALL, environment, finish, kill, start, wait_for
from pyarrow import fs

from mralign.run.directory import Directory

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]

PART = re.compile(r"run/(\w+)/[0-9a-f]{16}/(part-[^/]*\.parquet)")
BATCHES = "engine.batch_size=50"  # several a part of questions


def tables(files):
    """The rows of every stage, in no order, and how many parts each has; `files`: path -> bytes."""
    rows, parts = {}, {}
    for path, data in files.items():
        if found := PART.fullmatch(path):
            stage = found[1]
            rows.setdefault(stage, []).extend(map(str, pq.read_table(pa.BufferReader(data)).to_pylist()))
            parts[stage] = parts.get(stage, 0) + 1
    return {stage: sorted(some) for stage, some in rows.items()}, parts


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What `tables` says of a run on a disk."""
    home = tmp_path_factory.mktemp("disk")
    finish(start(home / "run", *SMALL, BATCHES, log=home / "log"), log=home / "log")
    return tables(on_disk(home))


def in_store(uri):
    """path below the bucket -> what is in it; of parts alone."""
    home = Directory(uri)
    paths = [path for path in keys(home) if PART.fullmatch(path)]
    return {path: home.filesystem.open_input_file(f"bucket/{path}").readall() for path in paths}


def keys(home):
    """Of all files of a run directory, below the bucket."""
    found = home.filesystem.get_file_info(fs.FileSelector(home.path(), recursive=True, allow_not_found=True))
    return [info.path.removeprefix("bucket/") for info in found if info.is_file]


def on_disk(home):
    return {str(path.relative_to(home)): path.read_bytes() for path in home.glob("run/*/*/part-*.parquet")}


def test_a_run_on_a_faulty_s3_that_is_killed_twice_is_the_run_on_a_disk(tmp_path, bucket, undisturbed):
    bucket.refused_share = bucket.dropped_share = 0.05
    killed_twice("s3://bucket/run", log=tmp_path / "log")
    bucket.refused_share = bucket.dropped_share = 0.0
    compare("s3://bucket/run", undisturbed)


@pytest.mark.usefixtures("google_bucket")
def test_a_run_in_google_s_store_that_is_killed_twice_is_the_run_on_a_disk(tmp_path, undisturbed):
    uri = f"{loopback_gcs.HOME}/run"
    killed_twice(uri, log=tmp_path / "log")
    compare(uri, undisturbed)
    command = [sys.executable, "-m", "mralign", "status", uri]
    status = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment())
    assert re.search(r"^ *\d+ +training +finished", status.stdout, re.MULTILINE), status.stdout


def killed_twice(uri, *, log):
    """Run to the end, killed within the rollouts and within the training."""
    for name in ("rollouts/[0-9a-f]+/part-", "training/[0-9a-f]+/ray_train/checkpoint_[^/]+/state.json"):
        process = start(uri, *SMALL, BATCHES, log=log)
        wait_for(
            lambda wanted=name: any(re.search(wanted, key) for key in keys(Directory(uri))), process=process, log=log
        )
        kill(process)
    finish(start(uri, *SMALL, BATCHES, log=log), log=log)
    assert "Traceback" not in log.read_text()


def compare(uri, undisturbed):
    found, parts = tables(in_store(uri))
    expected, expected_parts = undisturbed
    assert set(found) == set(expected)
    for stage, rows in expected.items():
        assert found[stage] == rows, stage
    assert parts == expected_parts and parts["rollouts"] == 1  # of three batches each
    assert not [key for key in keys(Directory(uri)) if "/merging-" in key]
