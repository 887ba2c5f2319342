"""The log file of a run, beside the run and on a store that is far away."""

import json
import logging
from datetime import UTC, datetime

import pytest

from mralign.cli.run_log import JsonLine, PlainLine, RunLog, new_run_id
from mralign.run.events import within
from mralign.run.store import Directory


@pytest.fixture
def log():
    """A logger of its own."""
    logger = logging.Logger("mralign", level=logging.DEBUG)
    yield logger
    for handler in logger.handlers:
        handler.close()


def test_the_name_tells_when_and_by_whom():
    assert new_run_id(datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC), process=89) == "20260304-050607-89"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_run_on_a_store_has_its_log_there_at_the_end(bucket, log, as_json):
    kept = RunLog("s3://bucket/runs/first", run="id", as_json=as_json)
    log.addHandler(kept.handler)
    name = "id.jsonl" if as_json else "id.log"
    assert kept.place == f"s3://bucket/runs/first/logs/{name}"
    with within("rollouts"):
        log.warning("caution: %s", "evil\x1b[2J\u202e")
    kept.keep()
    there = Directory("s3://bucket/runs/first/logs").read_text(name)
    if as_json:
        told = json.loads(there)
        assert (told["message"], told["stage"], told["run"], told["level"]) == (
            "caution: evil",
            "rollouts",
            "id",
            "WARNING",
        )
    else:
        assert there.endswith(" WARNING mralign [rollouts] caution: evil\n")
    log.info("later")
    kept.keep()
    assert "later" in Directory("s3://bucket/runs/first/logs").read_text(name)
    bucket.calls.clear()
    kept.keep()
    assert not bucket.calls  # nothing has been said since


def test_a_log_that_cannot_be_copied_stays_here(bucket, log):
    kept = RunLog("s3://bucket/runs/first", run="id", as_json=False)
    log.addHandler(kept.handler)
    log.warning("caution")
    bucket.refuses_uploads = True
    kept.keep()
    assert kept.place == str(kept.file)
    assert kept.file.read_text().endswith("caution\n")
    kept.close()
    assert kept.file.exists()
    bucket.refuses_uploads = False
    kept.keep()
    assert kept.place == "s3://bucket/runs/first/logs/id.log"


def test_a_log_that_was_copied_does_not_stay_here(bucket, log):
    kept = RunLog("s3://bucket/runs/first", run="id", as_json=False)
    log.addHandler(kept.handler)
    log.warning("caution")
    log.removeHandler(kept.handler)
    kept.close()
    assert not kept.file.parent.exists()
    assert Directory("s3://bucket/runs/first/logs").read_text("id.log").endswith("caution\n")
    assert kept.place == "s3://bucket/runs/first/logs/id.log"


def test_a_log_in_a_local_run_directory_stays(tmp_path):
    kept = RunLog(str(tmp_path), run="id", as_json=False)
    kept.close()
    assert kept.file.exists()


def test_two_starts_have_a_file_each(tmp_path):
    for run in ("one", "two"):
        RunLog(str(tmp_path), run=run, as_json=False).handler.close()
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["one.log", "two.log"]


def test_a_traceback_is_part_of_its_line(log):
    try:
        raise KeyError("\x1b[31mred")
    except KeyError as error:
        record = log.makeRecord(
            "mralign", logging.ERROR, "", 0, "it %s", ("broke",), (KeyError, error, error.__traceback__)
        )
    record.stage = "a"
    told = json.loads(JsonLine(run="id").format(record))
    assert (told["message"], told["stage"]) == ("it broke", "a")
    assert told["traceback"].splitlines()[-1] == "KeyError: '\\x1b[31mred'"
    record.exc_text = None
    lines = PlainLine(full=True).format(record).splitlines()
    assert lines[0].endswith(" ERROR mralign [a] it broke")
    assert lines[1] == "Traceback (most recent call last):"
