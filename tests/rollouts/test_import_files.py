"""Which files rollouts can be imported from, what a row is called, and what a broken file says."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rollouts.test_imported import GOOD, MODEL, read

from mralign.config import ImportFields, Model
from mralign.questions.sources import read_batches
from mralign.rollouts.imported import read_rollouts

ROWS = [{**GOOD, "id": str(n), "response": f"pemidir\n\n{n}", "finish_reason": "stop"} for n in range(3)]


def import_file(path, *, mode="off", draws=1, **fields):
    given = ImportFields(**fields)
    model = Model(path=str(MODEL))
    table, rejects = read_rollouts(str(path), mode=mode, name="far", fields=given, model=model, draws=draws)
    return table.to_pylist(), rejects


def write(path, rows):
    """The rows in the form that the suffix names."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=2))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_every_form_of_question_files_gives_the_same_rows(tmp_path, suffix):
    rows, rejects = import_file(write(tmp_path / f"rollouts.{suffix}", ROWS))
    assert rejects == []
    assert [(row["row_id"], row["text"], row["answers"]) for row in rows] == [
        (f"far/{n}/off/0", f"pemidir\n\n{n}", ["pemidir"]) for n in range(3)
    ]


def test_a_file_in_no_known_form_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"file of imported rollouts: .*\.xlsx'.*allowed are .*\.jsonl.*\.parquet"):
        import_file(write(tmp_path / "rollouts.xlsx", ROWS))


# id in the row -> id of the question, the record being the fourth of its file.
IDS = [({"id": 7}, "far/7"), ({"id": "x"}, "far/x"), ({"id": None}, "far/3"), ({"id": ""}, "far/3"), ({}, "far/3")]


@pytest.mark.parametrize(("given", "question_id"), IDS)
def test_a_row_has_the_id_that_its_question_has(tmp_path, given, question_id):
    row = {name: value for name, value in GOOD.items() if name != "id"} | given
    path = write(tmp_path / "rollouts.jsonl", [{**GOOD, "id": f"before{n}"} for n in range(3)] + [row])
    rows, _ = import_file(path)
    fields = {"id": "id", "question": "question", "answers": "answer"}
    ((table, _),) = read_batches(str(path), name="far", split="train", fields=fields)
    assert rows[3]["question_id"] == table.column("question_id").to_pylist()[3] == question_id
    for column in ("question", "answers"):
        assert [row[column] for row in rows] == table.column(column).to_pylist()


@pytest.mark.parametrize("given", [True, 1.5, ["a"], {"a": 1}])
def test_an_id_that_is_no_text_or_whole_number_is_a_reject_in_both_stages(tmp_path, given):
    path = write(tmp_path / "rollouts.jsonl", [GOOD, {**GOOD, "id": given}])
    _, (reject,) = import_file(path)
    fields = {"id": "id", "question": "question", "answers": "answer"}
    ((_, (other,)),) = read_batches(str(path), name="far", split="train", fields=fields)
    assert reject.reason == other.reason == "wrong_type"


def test_a_file_that_was_cut_off_is_an_error_that_names_file_and_line(tmp_path):
    path = tmp_path / "rollouts.jsonl"
    whole = write(path, ROWS).read_text()
    path.write_text(whole[:-30])
    with pytest.raises(ValueError, match=r"rollouts\.import_off=.*rollouts\.jsonl is broken: .*line 3.*cut off"):
        import_file(path)


def test_an_array_named_as_lines_is_an_error(tmp_path):
    path = tmp_path / "rollouts.jsonl"
    path.write_text(json.dumps(ROWS, indent=2))
    with pytest.raises(ValueError, match=r"rollouts\.jsonl"):
        import_file(path)


def test_a_broken_array_is_an_error_that_names_file_and_line(tmp_path):
    path = write(tmp_path / "rollouts.json", ROWS)
    path.write_text(path.read_text()[:-60])
    with pytest.raises(ValueError, match=r"rollouts\.import_off: .*rollouts\.json' is not valid JSON .*line 2\d"):
        import_file(path)


def test_a_broken_parquet_file_is_an_error(tmp_path):
    path = write(tmp_path / "rollouts.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"rollouts\.import_off: .*rollouts\.parquet' is not valid Parquet"):
        import_file(path)


def test_a_file_without_a_row_and_one_of_other_fields_are_errors_that_say_so(tmp_path):
    path = tmp_path / "rollouts.jsonl"
    path.write_text("\n")
    with pytest.raises(ValueError, match=r"rollouts\.import_on=.*rollouts\.jsonl holds no row"):
        import_file(path, mode="on")
    write(path, [{"problem": "name it", "gold": "a", "output": "b"}] * 3)
    with pytest.raises(ValueError, match=r"none of its 3 rows .*missing_question.*'problem', 'gold', 'output'"):
        import_file(path)


CHAT = {  # a reply as an OpenAI-compatible endpoint gives it
    "id": 7,
    "question": "name the capital",
    "answer": "pemidir",
    "choices": [
        {
            "message": {"role": "assistant", "content": "pemidir", "reasoning_content": "so totibar\n\nso pemidir"},
            "finish_reason": "stop",
        }
    ],
}
CHAT_FIELDS = {
    "response": "choices[0].message.content",
    "thought": "choices[0].message.reasoning_content",
    "finish_reason": "choices[0].finish_reason",
}


def test_a_nested_reply_of_a_chat_is_read_by_dotted_names(tmp_path):
    filtered = json.loads(json.dumps(CHAT).replace('"stop"', '"content_filter"')) | {"id": 8}
    empty = {**CHAT, "id": 9, "choices": []}
    path = write(tmp_path / "chats.jsonl", [CHAT, filtered, empty])
    rows, (reject,) = import_file(path, mode="on", **CHAT_FIELDS)
    assert [row["invalid"] for row in rows] == [None, "unfinished"]
    assert rows[0]["text"] == "<think>\nso totibar\n\nso pemidir\n</think>\n\npemidir"
    assert rows[0]["answer"] == "pemidir"
    assert (reject.reason, reject.row_id) == ("missing_field", "far/on/row2")
    assert "choices[0].message.content" in reject.detail


def test_forty_thoughts_in_a_field_of_their_own_are_forty_thoughts(tmp_path):
    """As R1's API gives them: no tag anywhere."""
    rows = [{**GOOD, "id": n, "reasoning_content": f"so totibar\n\nso pemidir {n}"} for n in range(40)]
    found, rejects = import_file(write(tmp_path / "r.jsonl", rows), mode="on", thought="reasoning_content")
    assert rejects == []
    assert [row["invalid"] for row in found] == [None] * 40
    for number, row in enumerate(found):
        assert row["text"][row["thought_start"] : row["thought_end"]].strip() == f"so totibar\n\nso pemidir {number}"


@pytest.mark.parametrize(
    ("thought", "response", "text"),
    [
        ("so totibar", "pemidir", "<think>\nso totibar\n</think>\n\npemidir"),
        ("<think>so totibar", "pemidir", "<think>\nso totibar\n</think>\n\npemidir"),  # the field says where it ends
        ("<think>so totibar</think>", "\npemidir", "<think>so totibar</think>\n\n\npemidir"),
        ("so totibar", "<think>so totibar</think>pemidir", "<think>so totibar</think>pemidir"),  # in both fields
        (" \n", "<think>so totibar</think>pemidir", "<think>so totibar</think>pemidir"),
    ],
)
def test_thought_and_response_become_one_turn(tmp_path, thought, response, text):
    row = {**GOOD, "cot": thought, "response": response}
    ((row,), rejects) = read(tmp_path, row, mode="on", thought="cot")
    assert rejects == []
    assert (row["text"], row["invalid"]) == (text, None)


@pytest.mark.parametrize(
    ("given", "fields", "invalid"),
    [
        ({}, {}, None),  # no such field: taken as whole
        ({"finish_reason": "stop"}, {}, None),
        ({"finish_reason": "length"}, {}, "truncated"),
        ({"finish_reason": "content_filter"}, {}, "unfinished"),
        ({"finish_reason": None}, {}, "unfinished"),  # a stream that was not read to its end
        ({"finish_reason": {"type": "stop"}}, {}, "unfinished"),
        ({"finish_reason": {"type": "stop"}}, {"finish_reason": "finish_reason.type"}, None),
        ({"stop_reason": "max_tokens"}, {"finish_reason": "stop_reason"}, "truncated"),
        ({"stop_reason": "end_turn"}, {"finish_reason": "stop_reason"}, None),
        ({"finish_reason": "length"}, {"finish_reason": None}, None),  # told not to look
    ],
)
def test_why_a_text_ended_is_read_from_the_file(tmp_path, given, fields, invalid):
    ((row,), _) = read(tmp_path, {**GOOD, **given}, **fields)
    assert row["invalid"] == invalid
    assert (row["answer"] is None) == (invalid is not None)


def test_fields_are_named_as_those_of_questions(tmp_path):
    row = {
        "key": "k",
        "question": GOOD["question"],
        "gold": {"value": "x", "aliases": ["y"]},
        "content": [{"type": "thinking"}, {"type": "text", "text": "pemidir\n\n0"}],
        "meta": {"finish_reason": {"type": "stop", "matched": 7}},
    }
    cut = {**row, "key": "cut", "meta": {"finish_reason": {"type": "length", "length": 9}}}
    null = {**row, "key": "null", "meta": {"finish_reason": {"type": None}}}
    absent = {**row, "key": "absent", "meta": {}}
    path = write(tmp_path / "far.jsonl", [row, cut, null, absent])
    names = {"id": ["id", "key"], "answers": ["gold.value", "gold.aliases"], "response": "content[].text"}
    rows, rejects = import_file(path, finish_reason="meta.finish_reason.type", **names)
    assert rejects == []
    assert [(one["question_id"], one["answers"], one["invalid"]) for one in rows] == [
        ("far/k", ["x", "y"], None),
        ("far/cut", ["x", "y"], "truncated"),
        ("far/null", ["x", "y"], "unfinished"),
        ("far/absent", ["x", "y"], None),
    ]
