"""One class for the rows of each table that crosses a door between rooms, and the Arrow schema that follows from it.

A row's `row_id` is `question_id/mode/draw` from the first rollout to the last weight, so that any number in the
report can be followed back to its trajectory. Tables are cast to these schemas before they are committed: a room
that emits another column or type fails at its own door. Big batches stay Arrow and NumPy; where code handles rows one
by one, it uses these classes (`columns.to_table`, `columns.from_table`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mralign.rows.columns import Float32, Int32, schema_of
from mralign.rows.vocabulary import Polarity


@dataclass(frozen=True)
class Question:
    """A question with its gold answers."""

    question_id: str
    dataset: str
    split: str  # train | dev | test
    question: str
    answers: list[str]  # gold aliases
    choices: list[str] | None  # of a multiple-choice question, lettered from A in this order
    extra: str  # JSON of the source's other fields


@dataclass(frozen=True)
class Request:
    """One draw of a question that is still to be sampled."""

    row_id: str  # question_id/mode/draw
    question_id: str
    dataset: str
    question: str
    answers: list[str]
    choices: list[str] | None
    mode: str  # of Mode; in later turns of Self-Refine vocabulary.turn_mode
    draw: Int32
    seed: int


@dataclass(frozen=True)
class Generation:
    """One draw: what was asked, what the engine sampled, and how it reads."""

    row_id: str
    question_id: str
    dataset: str
    question: str  # as it was asked, its choices behind it
    answers: list[str]
    mode: str
    draw: Int32
    seed: int
    prompt_token_ids: list[Int32]
    token_ids: list[Int32]  # the completion as the engine sampled it, end token included
    completion_tokens: Int32  # how many those are
    text: str  # the completion, special tokens removed
    finish_reason: str | None  # the engine's own word: stop | length | ... (chat/endings.py)
    thought_start: Int32  # characters of `text`; -1 where there is no thought
    thought_end: Int32
    answer: str | None  # None where the text could not be split
    thought_tokens: Int32
    invalid: str | None  # reason why this draw cannot be judged; None when it can


@dataclass(frozen=True)
class Candidate:
    """A think-on trajectory of a question whose verdict is known, cut into segments."""

    row_id: str
    question_id: str
    dataset: str
    question: str
    answers: list[str]
    polarity: Polarity
    prompt_token_ids: list[Int32]
    token_ids: list[Int32]
    text: str
    thought_start: Int32
    thought_end: Int32
    segment_start: list[Int32]  # characters of `text`, one a segment of the thought
    segment_end: list[Int32]
    em_thought: bool
    em_answer: bool


@dataclass(frozen=True)
class AnnotatedStep:
    """Adjacent segments of a thought that belong together, and the strategies in them."""

    first_segment: Int32
    last_segment: Int32  # inclusive
    labels: list[str]  # 0 to 2, highest confidence first; empty: left unlabelled
    confidences: list[Float32]  # 0..10, one a label
    rule: str  # equal | intersection | confident | adjudicated | unlabelled | distilled: the panel was not asked
    labels_a: list[str]  # what the first annotator said of the step that this one lies in ...
    confidences_a: list[Float32]
    labels_b: list[str]  # ... and the second; an adjudicated step's labels are the adjudicator's
    confidences_b: list[Float32]


@dataclass(frozen=True)
class AnnotatedTrajectory:
    """A candidate's steps."""

    row_id: str
    question_id: str
    dataset: str
    polarity: Polarity
    segments: Int32  # base segments of the thought
    confidence_a: Float32 | None  # 0..10, of the first annotator in the whole; None where it gives none
    confidence_b: Float32 | None
    steps: list[AnnotatedStep]


ANNOTATOR_FIELDS = {"first": "labels_a", "second": "labels_b", "final": "labels"}  # who says it -> field of a step
HUMAN_FIELDS = {**ANNOTATOR_FIELDS, "human": "labels_human"}


@dataclass(frozen=True)
class HumanStep:
    """A step as annotators, consensus and a human label it: the fields of HUMAN_FIELDS."""

    first_segment: Int32
    last_segment: Int32
    labels_a: list[str]
    labels_b: list[str]
    labels: list[str]
    labels_human: list[str]


@dataclass(frozen=True)
class HumanTrajectory:
    """A trajectory that a human has labelled, cut wherever the human's steps or the final steps have a boundary."""

    row_id: str
    question_id: str
    dataset: str
    polarity: Polarity
    steps: list[HumanStep]


@dataclass(frozen=True)
class OpenStep:
    """A step whose strategies an annotator has named freely."""

    first_segment: Int32
    last_segment: Int32  # inclusive
    labels: list[str]  # 1 or 2 freely found names in snake_case, highest confidence first
    confidences: list[Float32]  # 0..10, one a name


@dataclass(frozen=True)
class OpenTrajectory:
    """A trajectory whose strategies an annotator has named freely (method.md §2b)."""

    row_id: str
    steps: list[OpenStep]


@dataclass(frozen=True)
class TransitionCount:
    """How often one set of labels follows another."""

    dataset: str
    polarity: Polarity
    source: Int32  # state set, encoded a*K + b with a <= b (a = b: a single state)
    target: Int32
    count: int


@dataclass(frozen=True)
class ReplicatedCount(TransitionCount):
    """The same count, and again where trajectory i counts Poisson(1) times, once a replicate."""

    replicates: list[int]  # empty without a bootstrap


@dataclass(frozen=True)
class MatrixEntry:
    """The probability of one transition between two states."""

    matrix: str  # all | positive | negative
    source: str
    target: str
    probability: float
    responsibility: float  # expected count C_ab of the last E-step: the support of the entry
    standard_error: float | None  # of the probability, over bootstrap replicates; None without a bootstrap
    replicates: list[float]  # the probability in each replicate; empty without a bootstrap


@dataclass(frozen=True)
class WeighedEdge:
    """A transition with its ratio of probabilities and the weight that follows from it."""

    level: str  # sets: a transition between label sets, as steps are weighed | states: a single edge
    polarity: Polarity
    source: str  # a state; on level sets, one or two joined by +
    target: str
    count: float  # how often it occurs in that polarity; on level states the expected count C_ab
    ratio: float  # before clipping
    ratio_standard_error: float | None  # None without a bootstrap, or where a replicate has no ratio
    weight: float  # the ratio after clipping
    weight_standard_error: float | None
    clipped: bool
    band: str  # high | low: in the 15 % with the highest, lowest ratio of its level and polarity | none


@dataclass(frozen=True)
class EdgeNoise:
    """How noisy the weight of a transition between label sets is (docs/signal.md)."""

    polarity: Polarity
    source: str
    target: str
    count: int  # in that polarity
    questions: int  # of that polarity that have it
    log_weight: float  # before clipping
    standard_error: float  # of log_weight, over a bootstrap over questions
    p: float  # how often permuting the polarity over questions gives a weight as far from 1
    told: bool  # whether the weight can be told from 1
    contribution: float  # count * |log weight|, after clipping


@dataclass(frozen=True)
class HeldOutScore:
    """What tells a trajectory's polarity from trajectories of other questions; the higher, the more positive."""

    row_id: str
    question_id: str
    polarity: Polarity
    fold: Int32
    transitions: float  # mean over transitions of log Pr(. | P+) - log Pr(. | P-)
    transitions_sum: float
    frequencies: float  # the same of the labels alone, without their order
    segments: float  # the length of the thought, negative where the other folds' positives are shorter
    tokens: float | None  # None where nobody counted them


@dataclass(frozen=True)
class StepWeights:
    """The weights of a trajectory."""

    row_id: str
    polarity: Polarity
    step_weights: list[float]  # one a labelled or unlabelled step, in order


@dataclass(frozen=True)
class TrainingExample:
    """A trajectory as tokens, each with its step."""

    row_id: str
    question_id: str
    dataset: str
    polarity: Polarity
    prompt_token_ids: list[Int32]
    token_ids: list[Int32]
    token_step: list[Int32]  # per completion token: index of its step, -1 for the answer
    prompt_tokens: Int32  # lengths and contents as scalars: a plan is made without reading any tokens
    completion_tokens: Int32
    prompt_hash: int
    completion_hash: int


@dataclass(frozen=True)
class IndexedExample:
    """An example without its tokens, in an order that does not depend on how the examples are cut into parts."""

    row_hash: int  # of row_id; the order of this table
    part: Int32  # which of the sorted parts of the examples ...
    row: Int32  # ... and which row of it
    question: int  # hash of question_id
    polarity: Polarity
    prompt_tokens: Int32
    completion_tokens: Int32
    prompt_hash: int
    completion_hash: int


@dataclass(frozen=True)
class ReferencePlace:
    """Where the reference of a block lies on the shelf `<run.dir>/reference_by_content`."""

    kind: str  # matched: a part of the examples | pairs: the mismatched pairs of some steps
    name: str  # of that part, or `<epoch>-<first step of the epoch>`
    address: str  # name of the part on the shelf
    rows: int


@dataclass(frozen=True)
class MatchedLogps:
    """What the reference says of one example."""

    logps: list[Float32]  # log pi_ref of each completion token


@dataclass(frozen=True)
class PairSum:
    """What the reference says of one mismatched pair; pairs of a step in the order of its batch."""

    step: Int32  # within the block
    logp_sum: float  # log pi_ref(y_j | x_i), unweighted


@dataclass(frozen=True)
class ResponsePlace:
    """Where a response lies: the path of its part below the run directory."""

    row_id: str
    part: str


@dataclass(frozen=True)
class Snippet:
    """One text that was found; `title` may be empty, `score` is the searcher's own (None: it tells none)."""

    id: str
    title: str
    text: str
    score: float | None

    def as_row(self) -> dict[str, Any]:
        """For a column of snippets."""
        return asdict(self)


@dataclass(frozen=True)
class Evidence:
    """What was found for a question (method.md §6, +Ret), best first."""

    question_id: str
    dataset: str
    query: str
    snippets: list[Snippet]


@dataclass(frozen=True)
class Judgement:
    """One question to a judge about one response, and what came of it: a score can be followed to every word."""

    judgement_id: str  # row_id/kind/number
    row_id: str  # of the response
    question_id: str
    dataset: str
    kind: str  # of a step of its benchmark, e.g. truthful, claims, support
    number: Int32  # of what is judged (a passage, a claim) among those of the response
    subject: str  # the answer, passage or claim that is judged
    evidence: list[Snippet]  # what it was checked against
    prompt: str | None  # JSON: the messages of the request that was answered
    reply: str | None  # as it came
    verdict: str  # JSON, e.g. {truthful, informative}, {claims: [...]}, {supported}


@dataclass(frozen=True)
class Reject:
    """One row put aside: its id, the reason (a short constant), a detail for people, and the raw text."""

    row_id: str
    reason: str
    detail: str = ""
    raw: str = ""
    dataset: str = ""  # empty where whoever puts it aside does not know it
    polarity: Polarity | None = None  # None before the verdict
    role: str = ""  # who could not be understood: an annotator, a judge, ...; empty where nobody was asked


QUESTIONS = schema_of(Question)
REQUESTS = schema_of(Request)
GENERATIONS = schema_of(Generation)
CANDIDATES = schema_of(Candidate)
ANNOTATIONS = schema_of(AnnotatedTrajectory)
STEP = ANNOTATIONS.field("steps").type.value_type
HUMAN_STEPS = schema_of(HumanTrajectory)
OPEN_LABELS = schema_of(OpenTrajectory)
COUNTS = schema_of(TransitionCount)
REPLICATED_COUNTS = schema_of(ReplicatedCount)
MATRICES = schema_of(MatrixEntry)
EDGES = schema_of(WeighedEdge)
EDGE_NOISE = schema_of(EdgeNoise)
HELD_OUT_SCORES = schema_of(HeldOutScore)
WEIGHTS = schema_of(StepWeights)
EXAMPLES = schema_of(TrainingExample)
EXAMPLE_INDEX = schema_of(IndexedExample)
REFERENCE = schema_of(ReferencePlace)
MATCHED_LOGPS = schema_of(MatchedLogps)
PAIR_SUMS = schema_of(PairSum)
RESPONSE_INDEX = schema_of(ResponsePlace)
EVIDENCE = schema_of(Evidence)
JUDGEMENTS = schema_of(Judgement)
REJECTS = schema_of(Reject)
