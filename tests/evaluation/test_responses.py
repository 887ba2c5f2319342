"""What a stage `responses` leaves and how it is read again, without an engine: the shelf is filled here."""

import pyarrow as pa
import pytest

from mralign.config import load
from mralign.evaluation.responses import (
    Asked,
    asked_questions,
    content_parts,
    methods_of,
    read_asked,
    read_response_part,
    read_responses,
    response_parts,
    shelf_name,
    shelf_of,
    trained_name,
    write_parts,
)
from mralign.presets import PRESETS
from mralign.rows.schema import GENERATIONS, QUESTIONS
from mralign.rows.subjects import Subject, Way, way_of
from mralign.run.part_names import part_key, part_name
from mralign.run.rejects import Reject, to_table
from mralign.run.store import StageDir
from mralign.serving.requests import build_requests, sampling_of_evaluation


def questions(dataset, count):
    rows = [
        {"question_id": f"{dataset}/{n}", "dataset": dataset, "split": "test", "question": f"{dataset} {n}?"}
        | {"answers": [f"a{n}"], "extra": "{}"}
        for n in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=QUESTIONS)


@pytest.fixture
def out(tmp_path):
    return StageDir(f"{tmp_path}/run/responses_base/0123", stage="responses_base", fingerprint="0123")


def generation(request, *, turn="", answer="a0"):
    behind = f"/{turn}" if turn else ""
    row = dict.fromkeys(GENERATIONS.names) | request
    return row | {
        "row_id": request["row_id"] + behind,
        "mode": request["mode"] + behind,
        "text": answer,
        "answer": answer,
        "thought_start": -1,
        "thought_end": -1,
    }


def lay_out(out, tables, *, methods, turns=()):
    """Ask all of `tables`: a row a request and turn, but a reject for the last question of each table."""
    asked = Asked("plain", "responses_by_content/x", (), methods, draws=1, seed=3)
    place = asked_questions(out, asked)
    asked = Asked("plain", "responses_by_content/x", content_parts(tables, out=place), methods, draws=1, seed=3)
    shelf = shelf_of(out, asked)
    for name, table in zip(asked.questions, tables, strict=True):
        requests = build_requests(table, modes=("off", "on"), draws=1, seed=3).to_pylist()
        good = requests[:-2]
        rows = [generation(r) for r in good]
        rows += [generation(r, turn=turn, answer=turn) for r in good if r["mode"] == "on" for turn in turns]
        rejects = [Reject(r["row_id"], "prompt_too_long", "", r["question"]) for r in requests[-2:]]
        part = pa.Table.from_pylist(rows, schema=GENERATIONS)
        shelf.commit(part_name(f"{part_key(name)}-b0"), part, schema=GENERATIONS, rejects=to_table(rejects))
    write_parts(out, [asked])
    return asked


def test_every_method_gets_its_rows_and_what_could_not_be_asked_is_a_row(out):
    methods = {"off": "base_think_off", "on": "base_think_on", "refined": "base_self_refine"}
    lay_out(out, [questions("a", 3)], methods=methods, turns=("feedback-1", "revise-1"))
    (table,) = read_responses(out)
    found = {
        name: [(r["question_id"], r["answer"], r["invalid"]) for r in table.to_pylist() if r["method"] == name]
        for name in methods.values()
    }
    refused = ("a/2", None, "prompt_too_long")
    plain = [("a/0", "a0", None), ("a/1", "a0", None), refused]
    assert found["base_think_off"] == found["base_think_on"] == plain
    assert found["base_self_refine"] == [("a/0", "revise-1", None), ("a/1", "revise-1", None), refused]
    assert [r["row_id"] for r in table.to_pylist()][-3:] == ["a/0/on/0/revise-1", "a/1/on/0/revise-1", "a/2/on/0"]


def test_a_data_set_can_be_read_alone(out):
    lay_out(out, [questions("a", 2), questions("b", 4)], methods={"on": "m"})
    parts = response_parts(out)
    assert [read_response_part(out, part, datasets={"b"}).num_rows for part in parts] == [0, 4]
    assert [table.num_rows for table in read_responses(out)] == [2, 4]


def test_what_else_lies_on_the_shelf_is_not_read(out, tmp_path):
    lay_out(out, [questions("a", 2)], methods={"on": "m"})
    other = StageDir(f"{tmp_path}/run/responses_base/4567", stage="responses_base", fingerprint="4567")
    lay_out(other, [questions("a", 2), questions("b", 2)], methods={"on": "m"})
    (asked,) = read_asked(out)
    assert len(asked.questions) == 1
    assert [t.num_rows for t in read_responses(out)] == [2]
    assert len(shelf_of(out, asked).parts()) == 2  # the part of `a` is one and the same


def test_names_of_question_parts_follow_what_is_asked(out):
    place = asked_questions(out, Asked("plain", "", (), {}, 1, 0))
    one, two = content_parts([questions("a", 2), questions("a", 3)], out=place)
    (other,) = content_parts([questions("a", 2).set_column(6, "extra", pa.array(["{1}", "{2}"]))], out=place)
    assert one == other != two


def test_names_of_methods():
    config = load("miniworld", overrides=["evaluation.label=qwen", "training.method=kto"], presets_dir=PRESETS)
    asked = tuple(Way)
    settings = config.evaluation.model_copy(update={"methods": asked, "trained_methods": asked})
    config = config.model_copy(update={"evaluation": settings})
    base, trained = (methods_of(config, subject) for subject in Subject)
    assert list(base.values()) == [f"qwen_{way}" for way in asked]
    names = ["kto_think_off", "kto", "kto_self_refine", "kto_think_off_ret", "kto_ret"]
    assert list(trained.values()) == names
    assert [way_of(name) for name in names] == [way_of(name) for name in base.values()] == list(asked)
    assert [way.mode for way in asked] == ["off", "on", "refined", "off", "on"]
    weighed = load("miniworld", overrides=["weights.rule=second_order", "weights.anchor=opposite"], presets_dir=PRESETS)
    assert trained_name(weighed) == "mralign-opposite-second-order"
    assert [way for way in asked if way.retrieved] == ["think_off_ret", "think_on_ret"]


def test_the_shelf_changes_with_all_that_changes_a_response_and_with_nothing_else():
    def name(*overrides, methods=("think_off", "think_on"), files=None):
        config = load("miniworld", overrides=overrides, presets_dir=PRESETS)
        sampling = sampling_of_evaluation(config, model=config.model, methods=methods, probe="anything")
        return shelf_name(sampling, files=files or {"model": "d"}, group="plain")

    same = name()
    assert same == name("engine.batch_size=7", "run.dir=elsewhere", "evaluation.match=contains", "run.local_cpus=3")
    others = [
        name("evaluation.decoding.temperature=0.1"),
        name("evaluation.prompt='{question} !'"),
        name("run.seed=9"),
        name("evaluation.draws=9"),
        name("engine.max_model_len=99"),
        name(methods=("think_on",)),
        name(methods=("think_off", "think_on", "self_refine")),
        name(files={"model": "e"}),
    ]
    assert len({same, *others}) == 1 + len(others)
