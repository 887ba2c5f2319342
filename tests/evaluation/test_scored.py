from mralign.config import Evaluation
from mralign.evaluation.stage import scored


def row(dataset, number, *, answer, thought="x"):
    text = f"<think>{thought}</think>{answer}"
    return {
        "row_id": f"{dataset}/{number}/on/0",
        "question_id": f"{dataset}/{number}",
        "dataset": dataset,
        "mode": "on",
        "text": text,
        "thought_start": 7,
        "thought_end": 7 + len(thought),
        "answer": answer,
        "answers": ["x"],
        "invalid": None,
        "thought_tokens": 1,
    }


def test_data_sets_are_also_measured_apart():
    rows = [row("a", 0, answer="x"), row("a", 1, answer="y"), row("b", 0, answer="x"), row("b", 1, answer="x")]
    found = scored(rows, mode="on", settings=Evaluation())
    assert (found["acc"], found["n"]) == (0.75, 4)
    assert {name: (part["acc"], part["mis"], part["n"]) for name, part in found["by_dataset"].items()} == {
        "a": (0.5, 0.5, 2),
        "b": (1.0, 0.0, 2),
    }
    assert "by_dataset" not in scored(rows[:2], mode="on", settings=Evaluation())
