"""A disk that is full under each stage in turn: one sentence; with room again, the undisturbed result.

Each stage's directory is a file system of its own, of one page that is taken already: whatever the stage writes there,
in whichever process, is refused by the kernel. One local Ray and one engine serve all the tries.
"""

import logging
import os
import subprocess

import pyarrow.parquet as pq
import pytest
from align_process import SMALL

from mralign.config import load
from mralign.plan import pipeline
from mralign.presets import PRESETS
from mralign.run.faults import user_sentence
from mralign.run.held import holding

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.fixture
def ray_with_room(tmp_path_factory):
    import ray

    directory = tmp_path_factory.mktemp("ray", numbered=True)
    ray.init(
        address="local",
        num_cpus=6,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        _temp_dir=f"/tmp/full-{os.getpid()}",
        runtime_env={"env_vars": {"HF_HUB_OFFLINE": "1", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}},
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield directory
    ray.shutdown()


def full(place):
    """A file system at `place` on which nothing more can be written."""
    place.mkdir(parents=True, exist_ok=True)
    mounting = ["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(place)]
    mounted = subprocess.run(mounting, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    (place / "filler").write_bytes(b"x" * 4096)


def walk(run_dir):
    """Run what is left; the plan as it ended."""
    config = load("miniworld", overrides=[f"run.dir={run_dir}", *SMALL], presets_dir=PRESETS)
    return pipeline.run(config, pipeline.plan(config), start_ray=lambda: None)


def tables(run):
    """The rows of every stage, in no order."""
    found = {}
    for path in sorted(run.glob("*/*/part-*.parquet")):
        found.setdefault(path.parts[len(run.parts)], []).extend(map(str, pq.read_table(path).to_pylist()))
    return {stage: sorted(rows) for stage, rows in found.items()}


@pytest.mark.usefixtures("ray_with_room")
def test_a_full_disk_in_each_stage_costs_one_sentence_and_nothing_that_was_made(tmp_path):
    run, said = tmp_path / "run", {}
    config = load("miniworld", overrides=[f"run.dir={run}", *SMALL], presets_dir=PRESETS)
    with holding():
        for stage in (item.name for item in pipeline.stages(config)):
            full(run / stage)
            try:
                with pytest.raises(Exception) as caught:  # noqa: PT011
                    walk(run)
            finally:
                subprocess.run(["umount", "-l", str(run / stage)], check=True)
            said[stage] = user_sentence(caught.value) or f"{type(caught.value).__name__}: {caught.value}"
        walk(run)
        walk(tmp_path / "undisturbed")
    print(*said.items(), sep="\n")
    wrong = {stage: text for stage, text in said.items() if not text.startswith("no space left")}
    assert not wrong
    assert all(f"/{stage}" in text and "make room there" in text for stage, text in said.items())
    found, expected = tables(run), tables(tmp_path / "undisturbed")
    assert set(found) == set(expected)
    for stage, rows in expected.items():
        assert found[stage] == rows, stage
    assert not list(run.rglob("_tmp-*"))
