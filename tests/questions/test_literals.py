"""Lists that were written into a text are lists; every other text is left alone."""

import ast
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mralign.questions.fields import texts_of
from mralign.questions.literals import parse_literal
from mralign.questions.sources import read_batches


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("['Olivia', 'MFSK']", ["Olivia", "MFSK"]),
        ('["politician", "political leader", "pol"]', ["politician", "political leader", "pol"]),
        ("['a' 'b']", ["a", "b"]),
        ("['a b'\n \"it's\" 'c']", ["a b", "it's", "c"]),
        ("array(['a', 'b'], dtype=object)", ["a", "b"]),
        ("array(['a', 'b'], dtype='<U1')", ["a", "b"]),
        ("[np.str_('a'), np.str_('b')]", ["a", "b"]),
        ("{'aliases': ['a', 'b'], 'value': 'v', 'type': 'x'}", ["v", "a", "b"]),
        ("{'aliases': array(['a', 'b'], dtype=object), 'value': 'v'}", ["v", "a", "b"]),
        ('{"answer": "x", "score": null}', ["x"]),
        ("[{'answer': 'x'}, {'answer': 'y', 'meta': {}}]", ["x", "y"]),
        ("{'text': ['x', 'x y'], 'answer_start': array([12, 30], dtype=int32)}", ["x", "x y"]),
        ("('a', 'b')", ["a", "b"]),
        ("('a',)", ["a"]),
        ("{'a', 'b'}", ["a", "b"]),
        ("['May 3, 1802', '3 May 1802',]", ["May 3, 1802", "3 May 1802"]),
        (r"['a\'b', 'c\\d', 'e\nf', 'caf\xe9', '\u6c34']", ["a'b", r"c\d", "e\nf", "café", "水"]),
        (r'["\ud83c\udf75 tea", "\/"]', ["🍵 tea", "/"]),
        ("[1984]", ["1984"]),
        ("[1, 2.0, 3.5]", ["1", "2", "3.5"]),
        ("[True]", ["yes", "true"]),
        ("[None, 'a', nan]", ["a"]),
        ("[]", []),
        ('(list (description "Jazz (music)") (description Blues) (description "a \\"b\\""))', None),
    ],
)
def test_a_list_in_a_text_is_a_list(text, answers):
    expected = ["Jazz (music)", "Blues", 'a "b"'] if answers is None else answers
    assert texts_of(text) == expected
    assert texts_of(f"  {text}\n") == expected
    assert texts_of(text, lists=False) == [text]


@pytest.mark.parametrize(
    "text",
    [
        "[sic]",
        "(1984)",
        '"Heroes"',
        "'Heroes'",
        "[Intentionally blank]",
        "(1, 2)",
        "{1, 2}",
        "(0, 1]",
        "[2, 5)",
        "['a'",
        "['a', b]",
        "['a'] ['b']",
        "['a']['b']",
        "[a b]",
        "f('a')",
        "array",
        "array()",
        "(list of things)",
        "(list (description a) b)",
        "[lambda: 1]",
        "[__import__('os').system('true')]",
        "{'a': 1",
        "{'a'}b",
        "{1: 'a'}",
        "{'a': 1, 'b'}",
        "('a')",
        "[x for x in 'ab']",
        "$[1]$",
        "[" * 10_000 + "]" * 10_000,
        "[" * 30 + "1" + "]" * 30,
        "['" + "[" * 30,
        "(" * 30 + "'a'," + ")" * 30,
        "[" + "9" * 5000 + "]",
        "['a', " + "'b', " * 300_000 + "]",
        "['" + "\\" * 5001 + "']",
        "",
        "[",
        "plain",
    ],
)
def test_an_ordinary_text_is_left_alone(text):
    assert parse_literal(text) is None
    assert texts_of(text) == ([text] if text else [])


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=6))
def test_what_python_and_json_write_is_read_back(values):
    for written in (repr(values), json.dumps(values), json.dumps(values, ensure_ascii=False)):
        assert parse_literal(written) == values
    assert parse_literal(repr(values)) == ast.literal_eval(repr(values))


@given(st.text(st.sampled_from("[]{}()'\",: ab1\\None-."), max_size=30))
def test_no_text_breaks_the_reader(text):
    found = parse_literal(text)
    assert found is None or isinstance(found, list | dict)


def test_the_answers_of_nq_open_written_as_csv_are_those_of_its_jsonl(tmp_path):
    rows = [
        {"question": "who leads the kettle guild", "answer": ["Olivia", "MFSK"]},
        {"question": "when did it boil", "answer": ["3\u00a0May 1802", "May, 1802"]},
        {"question": "what was said", "answer": ['It\'s "hot"']},
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import csv

    with (tmp_path / "q.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer"])
        writer.writerows([row["question"], str(row["answer"])] for row in rows)
    found = {}
    for name in ("q.jsonl", "q.csv"):
        ((table, rejects),) = read_batches(str(tmp_path / name), name="s", split="dev", fields={"answers": "answer"})
        assert rejects == []
        found[name] = table.column("answers").to_pylist()
    assert found["q.csv"] == found["q.jsonl"] == [row["answer"] for row in rows]


def test_blanks_in_a_description_are_read_in_one_pass():
    assert parse_literal("(list (description " + " " * 100_000 + ")") is None
    assert parse_literal("(list (description a" + " " * 100_000 + "b))") == ["a" + " " * 100_000 + "b"]
