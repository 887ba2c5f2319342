"""How published data sets of questions are laid out: a table of defaults for the settings of a `Source`.

A format of `NAMED_FORMATS` is nothing but these defaults: every setting that a source gives itself comes before them,
and the field map is merged key by key. A list of names means: for `id` and `question` the first that is there, for
`answers` and `choices` all that are there; so one format reads the published file and the hub's rows alike. The
formats of `CODED_FORMATS` need more than settings; their code stands in mralign/questions/formats.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PLAIN_FORMATS = ("auto", "plain")
CODED_FORMATS = ("nq_open", "sciq", "simpleqa", "truthfulqa", "longfact", "factscore")

NAMED_FORMATS: Mapping[str, Mapping[str, Any]] = {
    # {"Data": [{"Question": ..., "Answer": {"Value": ..., "Aliases": [...]}}]}; the hub's rows are in lower case.
    "triviaqa": {
        "records": "Data",
        "fields": {
            "id": ["QuestionId", "question_id"],
            "question": ["Question", "question"],
            "answers": ["Answer.Value", "Answer.Aliases", "answer.value", "answer.aliases"],
        },
    },
    # {"id": ..., "input": ..., "output": [{"answer": ...}, {"provenance": [...]}]}
    "kilt": {"fields": {"question": "input", "answers": "output[].answer"}},
    "musique": {"fields": {"answers": ["answer", "answer_aliases"]}},
    # A spreadsheet's export: a warning and an empty row stand before the header.
    "freshqa": {"skip_lines": "auto", "fields": {"answers": "answer_*"}},
    # Lists are JSON inside a cell.
    "popqa": {"fields": {"answers": "possible_answers"}},
    # The published files have no header; the hub's rows hold `choices` and the number of the right one.
    "mmlu": {
        "columns": ["question", "A", "B", "C", "D", "answer"],
        "fields": {"answers": "answer", "choices": ["choices", "A", "B", "C", "D"]},
    },
    "gpqa": {
        "fields": {
            "id": "Record ID",
            "question": "Question",
            "answers": "Correct Answer",
            "choices": ["Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"],
        },
    },
    # [{"utterance": ..., "targetValue": "(list (description ...))"}], or the hub's rows.
    "webquestions": {"fields": {"question": ["utterance", "question"], "answers": ["targetValue", "answers"]}},
    "hotpotqa": {"fields": {"id": ["_id", "id"], "answers": "answer"}},
    "frames": {"fields": {"question": "Prompt", "answers": "Answer"}},
    "chinese_simpleqa": {"fields": {"answers": "answer"}},
}

FORMATS = (*PLAIN_FORMATS, *CODED_FORMATS, *NAMED_FORMATS)
