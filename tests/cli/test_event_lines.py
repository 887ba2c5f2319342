"""Events as JSON lines: the schema holds for each of them, and the page documents every field."""

import json
from pathlib import Path

import jsonschema
import pytest

from mralign.cli.event_lines import EventLines, kinds, line_of_json, page, schema
from mralign.run.events import (
    MoneySpent,
    Noted,
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

ROOT = Path(__file__).parents[2]
ONE_OF_EACH = (
    RunBegan(run_dir="s3://a/b", stages=(StageAhead(name="a", words="doing a", done=False, expected_s=1.5),)),
    StageSkipped(stage="a", rows_out=3),
    StageBegan(stage="b"),
    WorkBegan(stage="b", total=None),
    WorkAdvanced(stage="b", done=1, worked_s=0.5),
    MoneySpent(stage="b", spent=0.1, currency="USD"),
    TrainingStepped(stage="b", step=1, of=None, figures={"loss": float("nan"), "z0": 0.5}),
    Noted(stage="", level="WARNING", text="careful"),
    StageEnded(stage="b", rows_in=1, rows_out=1, rejects={"x": 1}),
    RunEnded(status=0, text="report  /a/b"),
)


def test_one_of_each_kind_is_there():
    assert {type(event) for event in ONE_OF_EACH} == set(kinds())


@pytest.mark.parametrize("event", ONE_OF_EACH, ids=lambda event: type(event).__name__)
def test_every_event_is_a_line_that_its_schema_allows(event):
    line = line_of_json(event, run="r", at=0.25)
    assert "\n" not in line and line.isascii()
    told = json.loads(line)
    assert told["time"] == "1970-01-01T00:00:00.250Z"
    jsonschema.validate(told, schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(told | {"more": 1}, schema())
    fewer = {name: value for name, value in told.items() if name != "run"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(fewer, schema())


def test_a_figure_that_is_no_number_is_null():
    told = json.loads(line_of_json(ONE_OF_EACH[6], run="r", at=0))
    assert (told["event"], told["figures"]) == ("training_stepped", {"loss": None, "z0": 0.5})


def test_how_far_the_work_is_comes_once_a_second_and_at_the_end():
    said, now = [], [0.0]
    listener = EventLines(said.append, run="r", clock=lambda: now[0])
    for done in range(1, 26):  # ten a second
        now[0] = done / 10
        listener(WorkAdvanced(stage="a", done=done, worked_s=now[0]))
    listener(StageEnded(stage="a", rows_in=25, rows_out=25))
    told = [json.loads(line) for line in said]
    assert [(row["event"], row.get("done")) for row in told] == [
        ("work_advanced", 1),
        ("work_advanced", 11),
        ("work_advanced", 21),
        ("work_advanced", 25),
        ("stage_ended", None),
    ]


def test_the_page_of_the_documentation_is_up_to_date():
    text = (ROOT / "docs" / "events.md").read_text()
    assert page() in text, "write what mralign.cli.event_lines.page() gives into docs/events.md"
