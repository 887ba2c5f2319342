"""A finished run that loses parts of its stages, and one that is moved: the command mends it, has nothing to do."""

import pyarrow.parquet as pq
import pytest
from align_process import SMALL, finish, start

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.long]

# A stage of each kind: a map over parts, a stream to endpoints or cues, counts, a statistic, training's tables, scores.
LOSE = ("candidates", "annotation", "counts", "weights", "examples", "evaluation")


def tables(run):
    """The rows of every stage, in no order."""
    found = {}
    for path in sorted(run.glob("*/*/part-*.parquet")):
        stage = path.parts[len(run.parts)]
        found.setdefault(stage, []).extend(map(str, pq.read_table(path).to_pylist()))
    return {stage: sorted(rows) for stage, rows in found.items()}


def test_lost_parts_are_made_anew_and_a_moved_run_is_finished(tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    finish(start(run, *SMALL, log=log), log=log)
    before = tables(run)
    for stage in LOSE:
        next(iter(sorted(run.glob(f"{stage}/*/part-*.parquet")))).unlink()
    assert tables(run) != before
    log.write_text("")
    finish(start(run, *SMALL, log=log), log=log)
    said = log.read_text()
    for stage in LOSE:
        assert f"{stage} was finished, but part-" in said
    assert tables(run) == before

    moved = run.rename(tmp_path / "elsewhere")
    log.write_text("")
    finish(start(moved, *SMALL, log=log), log=log)
    assert "runs anew" not in log.read_text() and "made anew" not in log.read_text()
    assert tables(moved) == before
