"""Rollouts made elsewhere, read with the shipped mini model's tokenizer."""

import json
from pathlib import Path

import pytest

from mralign.config import ImportFields, Model
from mralign.rollouts.imported import read_rollouts
from mralign.rows.schema import GENERATIONS
from mralign.run.rejects import to_table

MODEL = Path(__file__).parents[2] / "mralign" / "miniworld" / "data" / "model"
THOUGHT = "<think>\nso totibar\n\nso pemidir\n</think>"
GOOD = {"id": 7, "question": "name the capital", "answer": "pemidir", "response": "pemidir"}


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL)


def read(tmp_path, *lines, mode="off", draws=1, **fields):
    """Rows and rejects of a file of `lines` (bytes as they are, anything else as JSON)."""
    path = tmp_path / "rollouts.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    table, rejects = read_rollouts(
        str(path), mode=mode, name="far", fields=ImportFields(**fields), model=Model(path=str(MODEL)), draws=draws
    )
    assert table.schema == GENERATIONS
    assert to_table(rejects).num_rows == len(rejects)  # every reject can be stored
    return table.to_pylist(), rejects


def test_fields_are_found_under_the_names_of_the_file(tmp_path, tokenizer):
    record = {"key": "x", "problem": "name the capital", "gold": ["pemidir", "p"], "r": "pemidir", "cot": THOUGHT}
    fields = {"id": "key", "question": "problem", "answers": "gold", "thought": "cot", "response": "r"}
    ((row,), rejects) = read(tmp_path, record, mode="on", **fields)
    assert rejects == []
    text = THOUGHT + "\n\npemidir"
    expected = {
        "row_id": "far/x/on/0",
        "question_id": "far/x",
        "dataset": "far",
        "question": "name the capital",
        "answers": ["pemidir", "p"],
        "mode": "on",
        "draw": 0,
        "seed": -1,
        "text": text,
        "finish_reason": "stop",
        "thought_start": 7,
        "thought_end": text.index("</think>"),
        "answer": "pemidir",
        "invalid": None,
    }
    assert {name: row[name] for name in expected} == expected
    prompt = ["<|im_start|>", "▁user", "▁name", "▁the", "▁capital", "<|im_end|>", "<|im_start|>", "▁assistant"]
    assert tokenizer.convert_ids_to_tokens(row["prompt_token_ids"]) == prompt
    assert row["token_ids"] == [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert row["thought_tokens"] == len(tokenizer("\nso totibar\n\nso pemidir\n")["input_ids"]) > 4


def test_one_answer_is_a_list_of_one(tmp_path):
    ((row,), _) = read(tmp_path, GOOD)
    assert row["answers"] == ["pemidir"]


@pytest.mark.parametrize(
    ("thought", "text"),
    [
        (THOUGHT, THOUGHT + "\n\npemidir"),
        (THOUGHT + "\n", THOUGHT + "\npemidir"),
        (None, " pemidir"),  # this template writes a blank between role and answer, and so does the model
        ("", " pemidir"),
    ],
)
def test_thought_and_response_are_joined_with_thinking_on(tmp_path, thought, text):
    ((row,), _) = read(tmp_path, {**GOOD, "cot": thought}, mode="on", thought="cot")
    assert row["text"] == text
    assert row["invalid"] == (None if thought else "no_thought")


def test_with_thinking_off_a_thought_is_left_out(tmp_path):
    ((row,), _) = read(tmp_path, {**GOOD, "cot": THOUGHT}, mode="off", thought="cot")
    assert (row["text"], row["answer"], row["thought_start"]) == ("pemidir", "pemidir", -1)
    ((row,), _) = read(tmp_path, GOOD, mode="on", thought="cot")  # this row has no such field
    assert row["text"] == " pemidir"


@pytest.mark.parametrize(
    "end", ["<|im_end|>", "</s>", " <|eot_id|>\n", "<|endoftext|><|im_end|>", "<|im_end|>\n<|endoftext|>", "</s></s>"]
)
def test_end_marks_are_stripped_and_the_models_own_is_appended_once(tmp_path, tokenizer, end):
    ((row,), _) = read(tmp_path, {**GOOD, "response": f"pemidir{end}"})
    assert row["text"] == "pemidir"
    assert tokenizer.convert_ids_to_tokens(row["token_ids"]) == ["▁pemidir", "<|im_end|>"]


def test_an_end_mark_inside_the_text_stays(tmp_path):
    ((row,), _) = read(tmp_path, {**GOOD, "response": "so </s> pemidir"})
    assert row["text"] == "so </s> pemidir"


WITHOUT = {name: value for name, value in GOOD.items() if name != "response"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": 1, "question": ', "malformed_json"),
        (b'{"id": 1, "question": "caf\xe9"}', "malformed_json"),
        (b"[" * 100_000, "malformed_json"),
        (b"[1, 2]", "wrong_type"),
        (WITHOUT, "missing_field"),
        ({**GOOD, "question": 5}, "wrong_type"),
        ({**GOOD, "response": None}, "wrong_type"),
        ({**GOOD, "answer": {"a": [{}]}}, "wrong_type"),
        ({**GOOD, "cot": ["so"]}, "wrong_type"),
        ({**GOOD, "response": "half \ud83d"}, "wrong_type"),
        ({**GOOD, "id": "\ud83d"}, "wrong_type"),
    ],
)
def test_a_bad_row_is_a_reject_and_the_others_stay(tmp_path, line, reason):
    rows, (reject,) = read(tmp_path, GOOD, b"", line, {**GOOD, "id": 8}, thought="cot")
    assert [row["row_id"] for row in rows] == ["far/7/off/0", "far/8/off/0"]
    assert (reject.row_id, reject.reason) == ("far/off/row1", reason)
    raw = line if isinstance(line, bytes) else json.dumps(line).encode()
    assert reject.raw == raw.decode(errors="replace")


def test_a_missing_field_is_named_with_those_that_are_there(tmp_path):
    _, (reject,) = read(tmp_path, WITHOUT, {**GOOD, "id": 8})
    assert "'response'" in reject.detail
    assert "['answer', 'id', 'question']" in reject.detail


def test_draws_are_counted_in_the_order_of_the_file(tmp_path):
    lines = [{**GOOD, "id": key, "response": f"so {n}"} for n, key in enumerate([1, 2, 1, 1, 2, 1])]
    rows, rejects = read(tmp_path, *lines, draws=2)
    assert [row["row_id"] for row in rows] == ["far/1/off/0", "far/2/off/0", "far/1/off/1", "far/2/off/1"]
    assert [row["text"] for row in rows] == ["so 0", "so 1", "so 2", "so 4"]
    assert [(r.row_id, r.reason) for r in rejects] == [("far/1/off/2", "extra_draw"), ("far/1/off/3", "extra_draw")]
    assert "rollouts.n is 2" in rejects[0].detail
    assert json.loads(rejects[0].raw) == lines[3]


def test_the_draw_field_goes_before_the_order_of_the_file(tmp_path):
    lines = [{**GOOD, "n": n, "response": f"so {n}"} for n in (3, 2, "1", 0)]
    rows, rejects = read(tmp_path, *lines, draws=2, draw="n")
    assert [(row["row_id"], row["draw"], row["text"]) for row in rows] == [
        ("far/7/off/1", 1, "so 1"),
        ("far/7/off/0", 0, "so 0"),
    ]
    assert [(r.row_id, r.reason) for r in rejects] == [("far/7/off/3", "extra_draw"), ("far/7/off/2", "extra_draw")]


def test_the_same_draw_twice_is_one_row(tmp_path):
    rows, (reject,) = read(tmp_path, {**GOOD, "n": 0}, {**GOOD, "n": 0, "response": "so"}, draws=2, draw="n")
    assert [(row["row_id"], row["text"]) for row in rows] == [("far/7/off/0", "pemidir")]
    assert (reject.row_id, reject.reason) == ("far/7/off/0", "repeated_draw")


@pytest.mark.parametrize("draw", [-1, None, "first", 0.5, True, [0]])
def test_a_draw_that_is_no_number_from_0_is_a_reject(tmp_path, draw):
    rows, (reject,) = read(tmp_path, {**GOOD, "n": draw}, {**GOOD, "n": 0}, draw="n")
    assert len(rows) == 1
    assert (reject.row_id, reject.reason) == ("far/off/row0", "wrong_type")


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    line = json.dumps(GOOD).encode()
    rows, rejects = read(
        tmp_path, b"\xef\xbb\xbf" + line + b"\r", b"\r", json.dumps({**GOOD, "id": 8}).encode() + b"\r"
    )
    assert [row["row_id"] for row in rows] == ["far/7/off/0", "far/8/off/0"]
    assert rejects == []


def test_a_file_that_is_not_there_ends_the_run_with_its_name(tmp_path):
    with pytest.raises(ValueError, match=r"file of imported rollouts: .*gone\.jsonl' does not exist"):
        read_rollouts(
            str(tmp_path / "gone.jsonl"),
            mode="on",
            name="far",
            fields=ImportFields(),
            model=Model(path=str(MODEL)),
            draws=1,
        )
