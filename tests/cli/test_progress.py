"""The state of a run from events and a clock; every expected number is computed by hand."""

import pytest

from mralign.cli.progress import RunProgress, Standing, TimeLeft
from mralign.run.events import (
    MoneySpent,
    RunBegan,
    RunEnded,
    StageAhead,
    StageBegan,
    StageEnded,
    StageSkipped,
    TrainingStepped,
    WorkAdvanced,
    WorkBegan,
)


def began(*expected, done=()):
    """A run of stages a, b, c, with the seconds that older results took."""
    ahead = []
    for name, seconds in zip("abc", expected, strict=False):
        ahead.append(StageAhead(name=name, words=f"doing {name}", done=name in done, expected_s=seconds))
    return RunBegan(run_dir="/run", stages=tuple(ahead))


def after(*timed):
    """The state after (time, event) pairs."""
    progress = RunProgress()
    for now, event in timed:
        progress = progress.after(event, now=now)
    return progress


def start(stage, kept=0):
    return StageBegan(stage=stage, kept_parts=kept)


def test_a_stage_goes_from_ahead_to_done():
    ended = StageEnded(stage="a", rows_in=9, rows_out=7, rejects={"x": 1, "y": 1}, seconds=3.5)
    steps = [(0, began(None, None)), (1, start("a")), (4.5, ended)]
    assert [after(*steps[:n]).stages[0].standing for n in (1, 2, 3)] == ["ahead", "running", "done"]
    stage = after(*steps).stages[0]
    assert (stage.rows_out, stage.rejects, stage.seconds, stage.words) == (7, 2, 3.5, "doing a")
    assert after(*steps).finished == 1


def test_what_was_done_before_counts_as_finished():
    skipped = StageSkipped(stage="a", rows_out=5)
    progress = after((0, began(None, None, done="a")), (0, skipped))
    assert (progress.finished, progress.stages[0].standing, progress.stages[0].rows_out) == (1, Standing.SKIPPED, 5)


def test_the_rate_begins_with_the_first_answer_and_leaves_out_what_was_kept():
    """40 of 100 were there; an engine took 50 s to start, and 30 rows came in the 10 s after that: 3 a second."""
    work = WorkBegan(stage="a", unit="rows", total=100, done=40)
    waiting = after((0, began(None)), (1, start("a")), (2, work))
    assert waiting.stages[0].rate is None
    assert waiting.stages[0].left_s(now=40) is None
    going = waiting.after(WorkAdvanced(stage="a", done=70, worked_s=10.0, rejects=2), now=62)
    stage = going.stages[0]
    assert (stage.rate, stage.share, stage.rejects) == (3.0, 0.7, 2)
    assert stage.left_s(now=62) == pytest.approx(10.0)
    assert stage.left_s(now=66) == pytest.approx(6.0)  # nothing came since, and time went by
    assert stage.left_s(now=99) == 0.0


def test_a_second_piece_of_work_is_counted_anew():
    progress = after(
        (0, began(None)),
        (0, start("a")),
        (0, WorkBegan(stage="a", what="reading", total=None)),
        (5, WorkAdvanced(stage="a", done=8, worked_s=5.0)),
        (6, WorkBegan(stage="a", what="repeats", total=4)),
    )
    stage = progress.stages[0]
    assert (stage.what, stage.done, stage.total, stage.rate, stage.share) == ("repeats", 0, 4, None, 0.0)


@pytest.mark.parametrize(
    ("expected", "left"),
    [
        ((None, 20.0, 30.0), TimeLeft(5 + 50, whole=True)),
        ((None, None, 30.0), TimeLeft(5 + 30, whole=False)),
        ((None, None, None), TimeLeft(5, whole=False)),
        ((99.0, 1.0, 1.0), TimeLeft(5 + 2, whole=True)),  # what comes in now tells more than what was
    ],
)
def test_the_time_left_of_the_run(expected, left):
    """2 of 12 rows in 1 s: 10 more take 5 s."""
    timed = [(0, began(*expected)), (0, start("a")), (0, WorkBegan(stage="a", total=12))]
    progress = after(*timed, (1, WorkAdvanced(stage="a", done=2, worked_s=1.0)))
    assert progress.left_s(now=1) == left


def test_before_the_first_answer_the_older_result_tells_the_time():
    assert after((0, began(None)), (0, start("a"))).left_s(now=3) is None
    assert after((0, began(20.0)), (0, start("a"))).left_s(now=3) == TimeLeft(17.0, whole=True)


def test_money_is_forecast_from_what_was_expected_and_then_from_what_came():
    """10 rows are left of 30; 4 of them cost 0.2, so 10 cost 0.5."""
    timed = [(0, began(None, None)), (0, start("a")), (0, WorkBegan(stage="a", unit="rows", total=30, done=20))]
    timed.append((0, MoneySpent(stage="a", spent=0.0, currency="EUR", expected=0.8)))
    assert after(*timed).money() == {"EUR": (0.0, 0.8)}
    timed.append((1, WorkAdvanced(stage="a", done=24, worked_s=1.0)))
    timed.append((1, MoneySpent(stage="a", spent=0.2, currency="EUR")))
    ((spent, forecast),) = after(*timed).money().values()
    assert (spent, forecast) == (0.2, pytest.approx(0.5))
    timed.append((2, StageEnded(stage="a", rows_in=30, rows_out=30, seconds=2.0)))
    timed += [(3, start("b")), (3, MoneySpent(stage="b", spent=1.0, currency="USD"))]
    assert after(*timed).money() == {"EUR": (0.2, 0.2), "USD": (1.0, None)}


def test_the_steps_of_a_training_that_goes_on():
    """It goes on after step 6; steps 7 and 8 of 12 come 2 and 4 s later: 4 more take 8 s."""
    timed = [(0, began(None)), (0, start("a")), (10, TrainingStepped(stage="a", step=6))]
    assert after(*timed).stages[0].rate is None
    timed.append((12, TrainingStepped(stage="a", step=7, of=12, figures={"loss": 0.6})))
    timed.append((14, TrainingStepped(stage="a", step=8, of=12, figures={"loss": 0.5, "margin": 0.1})))
    stage = after(*timed).stages[0]
    assert (stage.rate, stage.left_s(now=14), stage.share) == (0.5, 8.0, 8 / 12)
    assert dict(stage.figures) == {"loss": 0.5, "margin": 0.1}


def test_what_was_under_way_at_the_end_has_stopped():
    progress = after((0, began(None, None)), (1, start("a")), (5, RunEnded(status=130)))
    assert [stage.standing for stage in progress.stages] == [Standing.STOPPED, Standing.AHEAD]
    assert progress.stages[0].elapsed_s(now=99) == 4
