"""Candidates: the questions where thinking decided the answer.

Enters: all generations of some questions, N think-on and N think-off draws each. Leaves: the think-on trajectories of
questions where thinking helped (polarity +1) or hurt (-1) in every draw, cut into segments and within the length
limits, and a reason for everything else. `funnel` counts rows in and out of every filter. METHOD.md section 1.

A reject's detail ends in `dataset=NAME`, and one of the length filter begins with `polarity=+1`: the funnel reads both.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from mralign.chat.endings import UNFINISHED
from mralign.questions.matching import answer_matches, thought_matches
from mralign.rollouts.segments import segment_spans
from mralign.run.rejects import Reject

LENGTH_REASONS = ("few_segments", "many_segments", "short_thought", "long_thought")

_COPIED = ("row_id", "question_id", "dataset", "question", "answers", "prompt_token_ids", "token_ids", "text")
_POLARITY = re.compile(r"polarity=([+-]?\d)")


@dataclass(frozen=True)
class Limits:
    """The length filter: OPEN intervals of segments and of thought tokens. Defaults: METHOD.md section 1 [paper]."""

    min_segments: int = 4
    max_segments: int = 15
    min_thought_tokens: int = 450
    max_thought_tokens: int = 1000


@dataclass(frozen=True)
class FunnelRow:
    """Rows in and out of one filter. `polarity` is None before the verdict; `unit` is questions or trajectories."""

    dataset: str
    filter: str
    polarity: int | None
    unit: str
    rows_in: int
    rows_out: int


def judge(
    rows: list[dict], *, match: str, draws: int, limits: Limits, keep_all_draws: bool, keep_neutral: bool = False
) -> tuple[list[dict], list[Reject]]:
    """Candidates (rows of schema CANDIDATES, by question id and draw) and rejects of all `rows` (schema GENERATIONS).

    `match`: exact | contains | paper, for EM_a. `draws`: N of each mode. `keep_all_draws`: all N think-on
    trajectories of a question, not draw 0 alone. `keep_neutral`: undecided questions leave as polarity 0 instead of as
    rejects. Reasons, one reject a question: missing_draw, the draw's own (`invalid`), undecided; then one a trajectory:
    few_segments, many_segments, short_thought, long_thought.
    Raises ValueError for a draw number that `draws` does not allow, or one that comes twice.
    """
    kept: list[dict] = []
    rejects: list[Reject] = []
    for question_id, group in sorted(_by_question(rows, draws=draws).items()):
        verdict = _verdict(question_id, group, match=match, draws=draws, keep_neutral=keep_neutral)
        if isinstance(verdict, Reject):
            rejects.append(verdict)
            continue
        for draw in range(draws if keep_all_draws else 1):
            judged = _candidate(group["on", draw], polarity=verdict, match=match, limits=limits)
            if isinstance(judged, Reject):
                rejects.append(judged)
            else:
                kept.append(judged)
    return kept, rejects


def funnel(candidates: list[dict], rejects: list[Reject], questions: Mapping[str, int]) -> list[dict]:
    """Rows in and out of every filter (dicts of FunnelRow), by data set and, from the verdict on, by polarity.

    `candidates`, `rejects`: what `judge` returned. `questions`: questions that entered, by data set; those `judge`
    never saw are the filter `not_generated`. Within a data set, each filter's rows_in is the one before's rows_out.
    Raises ValueError if more questions were judged than entered.
    """
    by_dataset: dict[str, tuple[list[dict], list[Reject]]] = {name: ([], []) for name in questions}
    for candidate in candidates:
        by_dataset.setdefault(candidate["dataset"], ([], []))[0].append(candidate)
    for reject in rejects:
        by_dataset.setdefault(reject.detail.rpartition("dataset=")[2], ([], []))[1].append(reject)
    return [
        asdict(row)
        for dataset, (kept, dropped) in sorted(by_dataset.items())
        for row in _dataset_funnel(dataset, kept=kept, rejects=dropped, questions=questions.get(dataset, 0))
    ]


def _by_question(rows: list[dict], *, draws: int) -> dict[str, dict[tuple[str, int], dict]]:
    groups: dict[str, dict[tuple[str, int], dict]] = defaultdict(dict)
    for row in rows:
        key = (row["mode"], row["draw"])
        if key in groups[row["question_id"]] or not 0 <= row["draw"] < draws:
            raise ValueError(
                f"generation {row['row_id']} comes twice or its draw is not one of 0 to {draws - 1}; give each draw "
                f"once, and the number of draws the generations were made with"
            )
        groups[row["question_id"]][key] = row
    return groups


def _verdict(
    question_id: str, group: dict[tuple[str, int], dict], *, match: str, draws: int, keep_neutral: bool
) -> int | Reject:
    """+1 if (z_on, z_off) = (1, 0) in all draws, -1 if (0, 1) in all; else 0 or the reject (METHOD.md section 1)."""
    some = next(iter(group.values()))
    wanted = [(mode, draw) for mode in ("on", "off") for draw in range(draws)]
    missing = [f"{mode}/{draw}" for mode, draw in wanted if (mode, draw) not in group]
    if missing:
        detail = f"missing={','.join(missing)} dataset={some['dataset']}"
        return Reject(question_id, "missing_draw", detail, some["question"])
    for key in wanted:
        if reason := group[key]["invalid"]:
            ended = f"finish_reason={group[key]['finish_reason']} " if reason == UNFINISHED else ""
            return Reject(group[key]["row_id"], reason, f"{ended}dataset={some['dataset']}", group[key]["text"])
    z_on = [_is_right(group["on", draw], match=match) for draw in range(draws)]
    z_off = [_is_right(group["off", draw], match=match) for draw in range(draws)]
    if all(z_on) and not any(z_off):
        return 1
    if all(z_off) and not any(z_on):
        return -1
    if keep_neutral:
        return 0
    detail = f"z_on={_bits(z_on)} z_off={_bits(z_off)} dataset={some['dataset']}"
    return Reject(question_id, "undecided", detail, some["question"])


def _is_right(row: dict, *, match: str) -> bool:
    """EM_a of a valid draw."""
    return answer_matches(row["answer"], row["answers"], mode=match, thinking=row["mode"] == "on")


def _bits(values: Sequence[bool]) -> str:
    return ",".join(str(int(value)) for value in values)


def _candidate(row: dict, *, polarity: int, match: str, limits: Limits) -> dict | Reject:
    candidate = trajectory(row, polarity=polarity, match=match)
    segments = len(candidate["segment_start"])
    reason = _length_reason(segments=segments, tokens=row["thought_tokens"], limits=limits)
    if reason:
        sizes = f"segments={segments} thought_tokens={row['thought_tokens']}"
        detail = f"polarity={polarity:+d} {sizes} dataset={row['dataset']}"
        return Reject(row["row_id"], reason, detail, row["text"])
    return candidate


def trajectory(row: dict, *, polarity: int, match: str) -> dict:
    """A valid think-on generation as a row of schema CANDIDATES: cut into segments, with EM_t and EM_a by `match`."""
    start, end = row["thought_start"], row["thought_end"]
    spans = segment_spans(row["text"], start=start, end=end)
    return {
        **{name: row[name] for name in _COPIED},
        "polarity": polarity,
        "thought_start": start,
        "thought_end": end,
        "segment_start": [first for first, _ in spans],
        "segment_end": [last for _, last in spans],
        "em_thought": thought_matches(row["text"][start:end], row["answers"]),
        "em_answer": _is_right(row, match=match),
    }


def _length_reason(*, segments: int, tokens: int, limits: Limits) -> str | None:
    if segments <= limits.min_segments:
        return "few_segments"
    if segments >= limits.max_segments:
        return "many_segments"
    if tokens <= limits.min_thought_tokens:
        return "short_thought"
    if tokens >= limits.max_thought_tokens:
        return "long_thought"
    return None


def _dataset_funnel(dataset: str, *, kept: list[dict], rejects: list[Reject], questions: int) -> Iterator[FunnelRow]:
    dropped = Counter(reject.reason for reject in rejects if reject.reason not in LENGTH_REASONS)
    cut = [(_polarity(r), r.reason, r.row_id.rsplit("/", 2)[0]) for r in rejects if r.reason in LENGTH_REASONS]
    decided = {(row["polarity"], row["question_id"]) for row in kept} | {(sign, question) for sign, _, question in cut}
    unseen = questions - sum(dropped.values()) - len(decided)
    if unseen < 0:
        raise ValueError(
            f"data set {dataset!r}: {questions} questions entered, but {questions - unseen} were judged; judge the "
            f"generations of those questions only, and count each question once"
        )
    left = questions
    reasons = sorted(set(dropped) - {"missing_draw", "undecided"})
    for reason in ("not_generated", "missing_draw", *reasons, "undecided"):
        lost = unseen if reason == "not_generated" else dropped[reason]
        yield FunnelRow(dataset, reason, None, "questions", left, left - lost)
        left -= lost
    for polarity in (1, -1, 0):
        judged = sum(sign == polarity for sign, _ in decided)
        if not judged and polarity == 0:
            continue
        yield FunnelRow(dataset, "verdict", polarity, "questions", left, judged)
        size = sum(row["polarity"] == polarity for row in kept) + sum(sign == polarity for sign, _, _ in cut)
        for reason in LENGTH_REASONS:
            lost = sum((sign, why) == (polarity, reason) for sign, why, _ in cut)
            yield FunnelRow(dataset, reason, polarity, "trajectories", size, size - lost)
            size -= lost
        yield FunnelRow(dataset, "kept", polarity, "trajectories", size, size)


def _polarity(reject: Reject) -> int:
    found = _POLARITY.match(reject.detail)
    assert found, reject.detail
    return int(found[1])
