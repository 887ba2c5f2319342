"""Plain lines: what they say, that they are plain, and how many there are."""

from mralign.cli.progress_lines import ProgressLines
from mralign.run.events import (
    MoneySpent,
    RunBegan,
    StageAhead,
    StageBegan,
    StageEnded,
    StageSkipped,
    TrainingStepped,
    WorkAdvanced,
    WorkBegan,
)


class Clock:
    """A clock that the test turns."""

    now = 0.0

    def __call__(self):
        return self.now


def lines_of(*timed):
    """What is said of (time, event) pairs."""
    clock, said = Clock(), []
    listener = ProgressLines(said.append, clock=clock)
    for now, event in timed:
        clock.now = now
        listener(event)
    return said


PLAN = RunBegan(
    run_dir="/run",
    stages=(
        StageAhead(name="questions", words="reading questions", done=True),
        StageAhead(name="rollouts", words="sampling answers", done=False),
    ),
)


def test_a_line_at_the_begin_and_at_the_end_of_a_stage():
    assert lines_of(
        (0, PLAN),
        (0, StageSkipped(stage="questions", rows_out=10)),
        (0, StageBegan(stage="rollouts")),
        (9, StageEnded(stage="rollouts", rows_in=9, rows_out=8, rejects={"x": 1}, seconds=9.04)),
    ) == [
        "[1/2] questions: done before (10 rows), skipped",
        "[2/2] rollouts: starts (sampling answers)",
        "[2/2] rollouts: 9 rows in, 8 out, rejects {'x': 1}, 9.0 s",
    ]


def test_a_stage_that_goes_on_says_from_where():
    went = lines_of((0, PLAN), (0, StageBegan(stage="rollouts", kept_parts=3)))
    assert went == ["[2/2] rollouts: goes on from 3 committed parts (sampling answers)"]


def test_between_them_at_most_one_line_every_half_minute():
    """1000 rows at 10 a second: 100 s, so lines at 30, 60 and 90 s."""
    work = [(n / 10, WorkAdvanced(stage="rollouts", done=n, worked_s=n / 10, rejects=n // 300)) for n in range(1, 1001)]
    begin = [(0, PLAN), (0, StageBegan(stage="rollouts"))]
    begin.append((0, WorkBegan(stage="rollouts", unit="rows", total=1000)))
    assert lines_of(*begin, *work)[1:] == [
        "rollouts: 300 of 1,000 rows, 10 rows/s, 1 min 10 s left, the run about 1 min 10 s, 1 rejects",
        "rollouts: 600 of 1,000 rows, 10 rows/s, 40 s left, the run about 40 s, 2 rejects",
        "rollouts: 900 of 1,000 rows, 10 rows/s, 10 s left, the run about 10 s, 3 rejects",
    ]


def test_money_and_the_figures_of_a_training_are_said():
    told = lines_of(
        (0, PLAN),
        (0, MoneySpent(stage="rollouts", spent=1.5, currency="USD")),
        (40, TrainingStepped(stage="rollouts", step=3, of=9, figures={"loss": 0.25, "reward_chosen": 1.0})),
    )
    assert told == ["rollouts: 3 of 9 steps, USD 1.50 spent, loss 0.250, reward chosen 1.000"]


def test_hostile_words_stay_in_their_line():
    rejects = {"bad\r\x1b[2Jreason\n\u202eevil": 1}
    (line,) = lines_of((0, StageEnded(stage="a", rows_in=1, rows_out=0, rejects=rejects)))
    assert line.isprintable()
