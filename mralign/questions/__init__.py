"""Questions: published data sets and user files become one table of questions with gold answers.

`read_batches` reads a source into rows of `mralign.rows.Question`; `normalize` is the one normal form of text, and
`contains`, `equals`, `answer_matches` and `thought_matches` compare an answer or a thought with gold answers by it.
`find_repeats` and `drop_repeats` find questions that stand twice, by keys alone (`question_keys`).
"""

from mralign.questions.choices import Choices, choice_lines
from mralign.questions.matching import answer_matches, contains, equals, thought_matches, token_places
from mralign.questions.normalisation import normalize, words
from mralign.questions.records import read_records
from mralign.questions.repeats import drop_repeats, find_repeats, question_keys
from mralign.questions.sources import check_source, read_batches

__all__ = [
    "Choices",
    "answer_matches",
    "check_source",
    "choice_lines",
    "contains",
    "drop_repeats",
    "equals",
    "find_repeats",
    "normalize",
    "question_keys",
    "read_batches",
    "read_records",
    "thought_matches",
    "token_places",
    "words",
]
