"""The picture of a run at several widths and heights, drawn by rich into a text."""

import io

import pytest
from rich.console import Console

from mralign.cli.picture import picture
from mralign.cli.progress import RunProgress
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

HOSTILE = "evil\x1b[2J\x1b[31mred\r\n\u202egnp\u2066\x07[bold]not markup[/bold] \ud800"


def drawn(progress, *, now, width, height=None, **console):
    """The lines of the picture; none may be wider than the terminal."""
    stream = io.StringIO()
    given = {"force_terminal": False, "_environ": {}} | console
    Console(file=stream, width=width, height=height or 99, **given).print(
        picture(progress, now=now, width=width, height=height)
    )
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert all(len(line) <= width for line in lines) or given["force_terminal"]
    return lines


def played(*timed):
    progress = RunProgress()
    for now, event in timed:
        progress = progress.after(event, now=now)
    return progress


def run(stages=6, *, words="doing {}", run_dir="/runs/first"):
    """Stage s0 done before, s1 done with rejects, s2 under way with money."""
    ahead = [StageAhead(name=f"s{n}", words=words.format(n), done=n == 0, expected_s=60.0) for n in range(stages)]
    return [
        (0, RunBegan(run_dir=run_dir, stages=tuple(ahead))),
        (0, StageSkipped(stage="s0", rows_out=350)),
        (0, StageBegan(stage="s1")),
        (33, StageEnded(stage="s1", rows_in=900, rows_out=897, rejects={"a": 3}, seconds=33.2)),
        (34, StageBegan(stage="s2")),
        (36, WorkBegan(stage="s2", unit="rows", total=450)),
        (40, WorkAdvanced(stage="s2", done=120, worked_s=4.0, rejects=2)),
        (40, MoneySpent(stage="s2", spent=0.12, currency="USD")),
    ]


def test_a_wide_terminal_has_all_of_it():
    """330 more rows at 30 a second take 11 s, 2 of which are over; three later stages took a minute each."""
    lines = drawn(played(*run()), now=42, width=120)
    assert lines[0] == "/runs/first  42 s"
    table = [" ".join(line.split()) for line in lines[1:7]]
    bar = table[2].split()[3]
    assert table == [
        "✓ doing 0 350 rows done before",
        "✓ doing 1 897 rows 33 s 3 rejects",
        f"▸ doing 2 {bar} 120 of 450 30 rows/s 9 s left 2 rejects, USD 0.1200",
        "· doing 3",
        "· doing 4",
        "· doing 5",
    ]
    assert set(bar) <= set("━╸╺")
    assert lines[7] == ("2 of 6 stages done  about 3 min 09 s left  USD 0.1200 spent  about USD 0.4500 forecast")


@pytest.mark.parametrize("width", [20, 40, 59, 60, 80, 119, 120, 200])
def test_nothing_is_lost_or_wrapped_at_any_width(width):
    lines = drawn(played(*run(words="a stage with a rather long name, number {}")), now=42, width=width)
    text = " ".join(" ".join(lines).split())
    told = ["9 s", "3 min 09 s"]
    if width >= 40:
        told += ["30 rows/s", "2 rejects", "USD 0.1200 spent"]
    assert [words for words in told if words not in text] == []
    assert [line[0] for line in lines[1:7]] == list("✓✓▸···")


@pytest.mark.parametrize("height", [8, 10, 15])
def test_a_low_terminal_shows_the_stage_under_way_and_counts_the_others(height):
    lines = drawn(played(*run(stages=25)), now=42, width=80, height=height)
    assert len(lines) < height
    marks = [line for line in lines if line[0] in "✓▸·"]
    assert sum(line.startswith("▸ doing 2") for line in marks) == 1
    assert marks[-1] == f"· {25 - shown(marks)} stages to come"


def shown(marks):
    """How many stages the lines before the last one stand for."""
    first = marks[0].split()
    folded = int(first[1]) - 1 if first[2].startswith("stage") else 0
    return len(marks) - 1 + folded


def test_a_training_shows_its_step_loss_and_rewards():
    figures = {"loss": 0.5, "reward_chosen": 0.25, "reward_rejected": -0.125, "margin": 0.375, "learning_rate": 1e-3}
    steps = [(50 + n, TrainingStepped(stage="s2", step=n, of=8, figures=figures)) for n in (1, 2)]
    lines = drawn(played(*run(), *steps), now=52, width=120)
    (row,) = (line for line in lines if line.startswith("▸"))
    assert "2 of 8" in row and "1.0 steps/s" in row and "6 s left" in row
    assert "loss 0.500  reward chosen 0.250  reward rejected -0.125  margin 0.375" in lines


def test_the_last_picture_of_a_run_that_stopped_says_where():
    lines = drawn(played(*run(), (50, RunEnded(status=130))), now=50, width=80)
    assert [line[:10].strip() for line in lines if line.startswith("✗")] == ["✗ doing 2"]
    assert not any("left" in line for line in lines)


def test_hostile_text_steers_nothing():
    events = run(words=HOSTILE + "{}", run_dir=HOSTILE)
    events.append((41, WorkBegan(stage="s2", what=HOSTILE)))
    events.append((41, MoneySpent(stage="s2", spent=1.0, currency=HOSTILE)))
    for width in (40, 80, 120):
        lines = drawn(played(*events), now=42, width=width)
        assert all(line.isprintable() for line in lines)
        assert lines[0].startswith("evilred gnp[bold]not")


def test_no_color_is_heeded():
    """Bold and dim are no colours; a red stage is."""
    progress = played(*run(), (50, RunEnded(status=2)))

    def sequences(environment):
        console = {"force_terminal": True, "color_system": "standard", "_environ": environment}
        return "\n".join(drawn(progress, now=50, width=80, **console))

    assert "31m" in sequences({"TERM": "xterm"})
    assert "31m" not in sequences({"TERM": "xterm", "NO_COLOR": "1"})
