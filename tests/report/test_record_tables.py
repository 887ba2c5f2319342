"""Which trajectories a page has: read from committed tables of small runs, through the store."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from report.answered import fill_responses, fill_scores
from report.test_report import Item, Named, make_config, make_run

from mralign.report.findings import survey
from mralign.report.record_shelves import shelve
from mralign.report.record_tables import read_records
from mralign.rows.schema import ANNOTATIONS, QUESTIONS, REJECTS
from mralign.run.part_names import part_name

BEFORE = {
    "nq_open/1": "<think>It is Paris.\n\nNo, Rome.</think>Rome",
    "nq_open/2": "<think>Surely Paris.</think>Paris",
    "nq_open/3": "<think>Rome.</think>Rome",
}
AFTER = {**BEFORE, "nq_open/1": "<think>It is Paris.</think>Paris", "nq_open/2": "<think>Rome?</think>Rome"}


def add_answers(home: Path, planned: list[Item]) -> list[Item]:
    """The plan with responses and scores of both models."""
    items = list(planned)
    for name, said, method in (("_base", BEFORE, "base_think_on"), ("", AFTER, "mralign")):
        out, rows = fill_responses(home, f"responses{name}", said, method=method)
        items.append(Item(Named(f"responses{name}"), out))
        fill_scores(next(item.out for item in planned if item.stage.name == f"evaluation{name}"), rows)
    return items


def test_an_evaluated_question_has_both_models_side_by_side(tmp_path):
    config, planned = make_run(tmp_path)
    found = list(read_records(config, acts=survey(add_answers(tmp_path, planned))))
    evaluated = {record.row_id: record for record in found if record.shelf == "evaluation"}
    assert {name: record.outcome for name, record in evaluated.items()} == {
        "nq_open/1/on/0": "won",
        "nq_open/2/on/0": "lost",
        "nq_open/3/on/0": "missed",
    }
    assert {record.row_id: record.stratum for record in evaluated.values()} == {
        "nq_open/1/on/0": "inconsistent",  # the thought held it, the answer did not
        "nq_open/2/on/0": "both correct",
        "nq_open/3/on/0": "both wrong",
    }
    base, trained = evaluated["nq_open/1/on/0"].sides
    assert (base.method, base.role, trained.method, trained.role) == ("base_think_on", "base", "mralign", "trained")
    assert base.verdict == {"thought holds gold": True, "answer right": False, "misleading": True}
    assert trained.verdict == {"thought holds gold": True, "answer right": True, "misleading": False}
    assert [step.segments for step in base.steps] == [[["It is ", "Paris", "."]], [["No, Rome."]]]
    assert [record.shelf for record in found] == ["evaluation"] * 3 + ["training"] * 4


def test_what_was_put_aside_has_its_reason_and_its_question(tmp_path):
    config, planned = make_run(tmp_path)
    out = {item.stage.name: item.out for item in planned}
    asked = {"question_id": "nq_open/9", "dataset": "nq_open", "split": "train", "question": "Who?", "answers": ["X"]}
    table = pa.Table.from_pylist([asked | {"choices": None, "extra": "{}"}], schema=QUESTIONS)
    out["questions"].commit(part_name("0"), table, schema=QUESTIONS)
    rejects = [
        {"row_id": "nq_open/9", "reason": "undecided", "detail": "z_on=1,0", "raw": "Who?", "dataset": "nq_open"},
        {"row_id": "nq_open/9/on/1", "reason": "few_segments", "raw": "<think>..", "polarity": 1},
        {"row_id": "../../x/1", "reason": "truncated", "raw": None, "dataset": "../../x"},
    ]
    out["candidates"].commit_rejects(part_name("0"), pa.Table.from_pylist(rejects, schema=REJECTS))
    out["candidates"].seal(out["candidates"].manifest())
    found = [record for record in read_records(config, acts=survey(planned)) if record.shelf == "put aside"]
    assert [(record.reason, record.stage, record.question, record.dataset) for record in found] == [
        ("undecided", "candidates", "Who?", "nq_open"),
        ("few_segments", "candidates", "Who?", "nq_open"),
        ("truncated", "candidates", "", "../../x"),
    ]


def test_labels_are_found_in_the_batches_that_a_part_of_the_candidates_was_annotated_in(tmp_path):
    config, planned = make_run(tmp_path)
    acts = survey(planned)
    before = list(read_records(config, acts=acts))
    annotation = next(item.out for item in planned if item.stage.name == "annotation")
    whole = annotation.read(schema=ANNOTATIONS)
    annotation.unseal(annotation.parts())
    for row, batch in enumerate(("0-a", "0-b")):
        annotation.commit(part_name(batch), whole.slice(row, 1 if row == 0 else None), schema=ANNOTATIONS)
    assert any(step.labels for record in before for side in record.sides for step in side.steps)
    assert list(read_records(config, acts=acts)) == before


def test_answers_whose_texts_are_gone_are_left_out_with_a_word(tmp_path, caplog):
    config, planned = make_run(tmp_path)
    items = add_answers(tmp_path, planned)
    shutil.rmtree(tmp_path / "responses_by_content" / "responses")
    found = list(read_records(config, acts=survey(items)))
    assert [len(record.sides) for record in found if record.shelf == "evaluation"] == [1, 1, 1]
    assert "the page shows no answers of stage responses: " in caplog.text


def test_a_run_that_only_evaluates_has_no_training_trajectories(tmp_path):
    out, rows = fill_responses(tmp_path, "responses_base", BEFORE, method="base_think_on")
    found = list(read_records(make_config(tmp_path), acts=survey([Item(Named("responses_base"), out)])))
    assert [(record.shelf, record.outcome) for record in found] == [("evaluation", "not scored")] * 3
    assert len(rows) == 3 and all(len(record.sides) == 1 for record in found)


@pytest.mark.parametrize(("most", "full"), [(2, True), (7, False), (8, False)])
def test_a_page_that_cannot_hold_all_says_so(tmp_path, most, full):
    config, planned = make_run(tmp_path)
    acts = survey(add_answers(tmp_path, planned))
    index = shelve(read_records(config, acts=acts), most=most).index
    assert len(index["columns"]["id"]) == min(most, 7)
    assert index["full"] is full
