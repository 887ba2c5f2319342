"""A whole run on a store that refuses and drops requests, killed twice: the tables of an undisturbed run on a disk.

The store is S3 on loopback (tests/loopback_s3.py), reached by pyarrow's own client and by Ray Train's copies.
"""

import re

import loopback_s3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from align_process import SMALL, finish, kill, start, wait_for

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


def on_disk(home):
    return {str(path.relative_to(home)): path.read_bytes() for path in home.glob("run/*/*/part-*.parquet")}


def test_a_run_on_a_faulty_store_that_is_killed_twice_is_the_run_on_a_disk(tmp_path, monkeypatch):
    log, plain = tmp_path / "log", tmp_path / "plain-log"
    finish(start(tmp_path / "run", *SMALL, BATCHES, log=plain), log=plain)
    with loopback_s3.serve() as (store, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        store.refused_share = store.dropped_share = 0.05
        for name in ("rollouts/[0-9a-f]+/part-", "training/[0-9a-f]+/ray_train/checkpoint_[^/]+/state.json"):
            process = start("s3://bucket/run", *SMALL, BATCHES, log=log)
            wait_for(
                lambda wanted=name: any(re.search(wanted, key) for key in list(store.objects)), process=process, log=log
            )
            kill(process)
        finish(start("s3://bucket/run", *SMALL, BATCHES, log=log), log=log)
        store.refused_share = store.dropped_share = 0.0
        found, parts = tables(store.objects)
    expected, expected_parts = tables(on_disk(tmp_path))
    assert set(found) == set(expected)
    for stage, rows in expected.items():
        assert found[stage] == rows, stage
    assert parts == expected_parts and parts["rollouts"] == 1  # of three batches each
    assert "Traceback" not in log.read_text()
    assert not [key for key in store.objects if "/merging-" in key]
