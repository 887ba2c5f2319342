"""Events: who hears them, of which stage they are, and how often counted work is told."""

import ast
import itertools
import threading
from pathlib import Path

import pytest

from mralign.cli.event_lines import kinds
from mralign.config import load
from mralign.plan import pipeline
from mralign.presets import PRESETS
from mralign.run import events
from mralign.run.events import WorkAdvanced, WorkBegan, counted, listening, tell, within


def test_an_event_is_of_the_stage_that_is_under_way():
    with within("a"):
        with within("b"):
            assert WorkBegan().stage == "b"
        assert WorkBegan().stage == "a"
    assert WorkBegan().stage == ""


def test_nobody_needs_to_listen_and_who_has_left_hears_nothing():
    heard = []
    tell(WorkBegan())
    with listening(heard.append), listening(heard.append):
        tell(WorkBegan(what="a"))
    tell(WorkBegan(what="b"))
    assert [event.what for event in heard] == ["a", "a"]


def test_events_of_several_threads_come_one_at_a_time():
    inside, most = [0], [0]

    def listener(event):
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        threading.Event().wait(0.001)
        inside[0] -= 1

    with listening(listener):
        threads = [threading.Thread(target=tell, args=(WorkBegan(),)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == [1]


@pytest.mark.parametrize(
    ("step", "told"),
    [(1.0, [1, 2, 3, 4]), (0.06, [1, 4]), (0.08, [1, 4]), (0.15, [1, 3, 4])],
)
def test_counted_work_is_told_a_few_times_a_second_and_at_the_end(monkeypatch, step, told):
    """At least 0.2 s apart; the clock goes on by `step` whenever it is looked at."""
    ticks = itertools.count()
    monkeypatch.setattr(events.time, "monotonic", lambda: next(ticks) * step)
    heard = []
    with listening(heard.append):
        assert list(counted("abcd", total=4, what="reading")) == list("abcd")
    assert heard[0] == WorkBegan(what="reading", total=4)
    assert [event.done for event in heard[1:]] == told


def test_no_items_are_told_as_none():
    heard = []
    with listening(heard.append):
        assert list(counted([], total=0)) == []
    assert heard == [WorkBegan(total=0)]


@pytest.mark.parametrize("settings", [(), ("evaluation.reannotate=20", "annotation.human=labels.csv")])
def test_every_stage_says_in_words_what_it_does(settings):
    config = load("miniworld", overrides=settings, presets_dir=PRESETS)
    assert [stage.name for stage in pipeline.stages(config) if not stage.words.strip()] == []


def test_an_event_is_plain_and_frozen():
    for kind in kinds():
        assert kind.__dataclass_params__.frozen, kind
    with pytest.raises(AttributeError):
        WorkAdvanced(done=1, worked_s=0.0).done = 2


def test_every_stage_that_is_declared_says_in_words_what_it_does():
    """Also those that no preset has."""
    source = Path(events.__file__).parents[1]
    declared = [node for file in source.rglob("*.py") for node in ast.walk(ast.parse(file.read_text()))]
    stages = [node for node in declared if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Stage"]
    assert len(stages) > 15
    for stage in stages:
        assert "words" in {argument.arg for argument in stage.keywords}, ast.unparse(stage)[:200]
