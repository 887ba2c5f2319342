"""Responses and scores of a small run, committed as the stages commit them: what the models said before and after."""

import json

import pyarrow as pa

from mralign.config import Evaluation
from mralign.evaluation.responses import Asked, content_parts, shelf_of, write_parts
from mralign.evaluation.scoring import SCORES, score_responses
from mralign.rows.schema import GENERATIONS, QUESTIONS
from mralign.run.part_names import part_key, part_name
from mralign.run.store import Manifest, StageDir


def generation(question_id, *, mode, text, answers, question):
    """A valid draw 0; a thought stands between <think> tags."""
    thought = (7, text.index("</think>")) if mode == "on" else (-1, -1)
    return {
        "row_id": f"{question_id}/{mode}/0",
        "question_id": question_id,
        "dataset": question_id.split("/")[0],
        "question": question,
        "answers": answers,
        "mode": mode,
        "draw": 0,
        "seed": 0,
        "prompt_token_ids": [1],
        "token_ids": [2, 3],
        "completion_tokens": 2,
        "text": text,
        "finish_reason": "stop",
        "thought_start": thought[0],
        "thought_end": thought[1],
        "thought_tokens": 5,
        "invalid": None,
        "answer": text.rpartition("</think>")[2],
    }


def fill_responses(home, name, said, *, method, question="Where is it?", answers=("Paris",)):
    """Stage `responses...` with one think-on draw a question, `said` by question id; its rows with their method."""
    out = StageDir(f"{home}/{name}/resp0123", stage=name, fingerprint="resp0123")
    asked_rows = [
        {"question_id": one, "dataset": one.split("/")[0], "split": "test", "question": question}
        | {"answers": list(answers), "choices": None, "extra": "{}"}
        for one in said
    ]
    table = pa.Table.from_pylist(asked_rows, schema=QUESTIONS)
    (part,) = content_parts([table], out=StageDir(f"{out.uri}/plain", stage=name, fingerprint="resp0123"))
    asked = Asked("plain", f"responses_by_content/{name}", (part,), {"on": method}, 1, 0)
    rows = [
        generation(one, mode="on", text=text, answers=list(answers), question=question) for one, text in said.items()
    ]
    shelf = shelf_of(out, asked)
    shelf.commit(part_name(f"{part_key(part)}-0"), pa.Table.from_pylist(rows, schema=GENERATIONS), schema=GENERATIONS)
    write_parts(out, [asked])
    seal_bare(out, rows=len(rows))
    return out, [row | {"method": method} for row in rows]


def fill_scores(out, rows):
    """The scores of responses in a stage `evaluation...`."""
    kinds = {row["dataset"]: "short_answer" for row in rows}
    scores = score_responses(rows, benchmarks=kinds, verdicts={}, settings=Evaluation())
    out.commit(part_name("0"), pa.Table.from_pylist(scores, schema=SCORES), schema=SCORES)


def seal_bare(out, *, rows=0, figures=None):
    out.seal(Manifest(out.stage, out.fingerprint, {}, {}, {}, rows, rows, {}, 2.5, {}, figures or {}))


def write_stages(home, items, *, finished=True):
    """`report/stages.json` as a report leaves it."""
    results = {item.stage.name: f"{item.stage.name}/{item.out.fingerprint}" for item in items if item.out.manifest()}
    (home / "report").mkdir(exist_ok=True)
    (home / "report" / "stages.json").write_text(json.dumps({"finished": finished, "results": results}))
