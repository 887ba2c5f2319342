"""The Python API on real stages and a real Ray: predictions are evaluated and compared, a run is begun."""

import json
from pathlib import Path

import pytest

import mralign
from mralign.config import resolve_path

pytestmark = pytest.mark.integration
TEST = Path(resolve_path("pkg://mralign.miniworld/data/questions/test.jsonl"))


def write(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def line(number, *, thought, answer, **more):
    """Question `number` has the answer `a<number>`."""
    response = answer if thought is None else f"<think>{thought}</think>{answer}"
    said = {"id": number, "dataset": "set", "question": f"question {number}?", "answers": [f"a{number}"]}
    return {**said, "response": response, **more}


def test_predictions_are_scored_and_two_files_compared(local_ray, tmp_path):
    """Ten questions. The first file is right in 6 and loses 2 more between thought and answer; the second in all but 1,
    with two draws of one question, and asks without thinking as well."""
    first = [line(n, thought=f"a{n}", answer=f"a{n}") for n in range(6)]
    first += [line(n, thought=f"a{n}", answer="b") for n in (6, 7)] + [line(n, thought="b", answer="b") for n in (8, 9)]
    second = [line(n, thought=f"a{n}", answer=f"a{n}", mode="on") for n in range(9)]
    second += [line(9, thought="b", answer="c", mode="on"), line(8, thought="b", answer="c", mode="on")]
    second += [line(n, thought=None, answer=f"a{n}", mode="off") for n in range(5)]
    results = {}
    for name, rows in (("first", first), ("second", second)):
        path = write(tmp_path / f"{name}.jsonl", rows)
        overrides = [f"run.dir={tmp_path / name}", "run.reject_limit=0.9"]
        results[name] = mralign.evaluate(predictions=path, overrides=overrides)
    figures = results["first"].figures["first_think_on"]["set"]
    assert (figures["acc"], figures["mis"], figures["n"]) == (0.6, 0.2, 10)
    assert figures["thought_tokens_mean"] is None
    figures = results["second"].figures
    # 20 draws with thinking were expected: 9 right, 2 wrong, 9 that the file does not have, which are wrong as well.
    assert figures["second_think_on"]["set"]["acc"] == pytest.approx(9 / 20)
    assert figures["second_think_off"]["set"]["acc"] == pytest.approx(5 / 20)
    assert [row["method"] for row in results["second"].table()] == ["second_think_off", "second_think_on"]
    assert results["first"].model is None
    assert "first_think_on" in Path(results["first"].report).read_text()
    rows = mralign.compare(results["first"].run, results["second"].run)
    acc = next(row for row in rows if row["measure"] == "acc")
    # By question: .5 for each right draw of two.
    assert acc["difference"] == pytest.approx((0.5 * 9) / 10 - 0.6)
    assert acc["n"] == 10


def test_predictions_find_the_questions_of_a_suite(local_ray, tmp_path):
    """All questions of the embedded test set, half of them by id, half by text; all but one have their gold answer."""
    rows = [json.loads(text) for text in TEST.read_text().splitlines()]
    said = []
    for number, row in enumerate(rows):
        gold = row["answer"][0]
        named = {"id": row["id"]} if number % 2 else {"question": row["question"]}
        said.append({**named, "response": "wrong" if number == 0 else gold})
    path = write(tmp_path / "mine.jsonl", said)
    result = mralign.evaluate(predictions=path, suite="miniworld", overrides=[f"run.dir={tmp_path / 'run'}"])
    figures = result.figures["mine_think_off"]["miniworld"]
    assert figures["n"] == len(rows) == 240
    assert figures["acc"] == pytest.approx(239 / 240)
    with pytest.raises(ValueError, match=r"no prediction answers a question of this evaluation; the first, line 1"):
        mralign.evaluate(
            predictions=write(tmp_path / "none.jsonl", [{"id": "zzz", "response": "x"}]),
            suite="miniworld",
            overrides=[f"run.dir={tmp_path / 'none'}"],
        )


def test_align_takes_a_dictionary_and_stops_where_it_is_told(local_ray, tmp_path):
    import ray

    questions = write(tmp_path / "train.jsonl", [{"question": f"q{n}?", "answer": ["a"]} for n in range(4)])
    config = {"questions": {"train": [{"name": "mine", "path": questions, "limit": 3}]}}
    result = mralign.align(config, overrides=[f"run.dir={tmp_path / 'run'}"], until="questions")
    assert result.run == str(tmp_path / "run")
    assert (result.figures, result.model, result.adapter) == ({}, None, None)
    assert Path(result.report).is_file()
    assert "stages done: questions" in result.text
    assert ray.is_initialized()  # it was there before
    again = mralign.load_config(result.run + "/config.yaml")
    assert again.questions.train[0].limit == 3


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: mralign.align({"questions": {"test": [{"name": "a", "path": "a"}]}}), "no training questions"),
        (lambda: mralign.align("miniwrold"), "no preset 'miniwrold'"),
        (lambda: mralign.align({"questoins": {}}), "questoins: unknown key; did you mean 'questions'"),
        (lambda: mralign.evaluate("m", predictions="p.jsonl"), "leave model and adapter out"),
        (lambda: mralign.evaluate(predictions="none.jsonl"), "there is no such file"),
        (lambda: mralign.compare("nowhere", "nowhere"), "no evaluation/index.json there"),
        (lambda: mralign.export("nowhere", to="set"), r"there is no config\.yaml"),
    ],
)
def test_what_is_wrong_is_a_sentence(act, message):
    with pytest.raises(ValueError, match=message):
        act()
