import json

from mralign.config import parse
from mralign.questions.stage import QUESTIONS_STAGE
from mralign.schema import QUESTIONS
from mralign.stage import Context
from mralign.store import StageDir


def test_imported_rollouts_repeat_a_question_for_every_draw_without_rejects(tmp_path):
    lines = [json.dumps({"id": q, "question": f"what is {q}", "answer": "x", "response": "x"}) for q in "ab" * 3]
    (tmp_path / "on.jsonl").write_text("\n".join([*lines, "{not json"]))
    path = str(tmp_path / "on.jsonl")
    config = parse({"rollouts": {"n": 3, "import_on": path, "import_off": path, "import_name": "mine"}})
    out = StageDir(str(tmp_path / "out"), stage="questions", fingerprint="f")
    outcome = QUESTIONS_STAGE.run(Context(config, out, {}))
    assert out.read(schema=QUESTIONS).column("question_id").to_pylist() == ["mine/a", "mine/b"]
    assert out.read_rejects().column("reason").to_pylist() == ["malformed_json"]
    assert (outcome.rows_in, outcome.rows_out) == (3, 2)
