"""Draws that are made as they are needed leave the candidates of all draws, row by row, for fewer draws."""

import asyncio
import random
from dataclasses import replace

import pytest
from rollouts.test_candidates import generation

from mralign.chat.thought import split_thinking
from mralign.rollouts import DrawsAsNeeded, Limits, count_funnel, judge
from mralign.rollouts.needed import Made, certain_segments, saved
from mralign.rows import Mode, Question, Reject, Request, from_table, row_id_of, to_table
from mralign.serving.draws_as_needed import draw_of, settle_question
from mralign.serving.requests import build_requests

LIMITS = Limits(min_segments=2, max_segments=8, min_thought_tokens=100, max_thought_tokens=200)
CITY = {True: "Paris", False: "Rome"}


def order(*, draws=3, keep_all_draws=False, limits=LIMITS):
    return DrawsAsNeeded("exact", draws, limits, keep_all_draws)


def all_draws(question, *, rng, draws):
    """Generations of one question, most of them of one mind; by (mode, draw)."""
    share = {mode: rng.choice([0.03, 0.5, 0.97]) for mode in Mode}
    rows = {}
    for mode in Mode:
        for draw in range(draws):
            sizes = {"segments": rng.randint(1, 9), "thought_tokens": rng.randint(60, 300)}
            sizes = sizes if rng.random() < 0.4 else {"segments": 5, "thought_tokens": 150}
            row = generation(question, mode, draw, CITY[rng.random() < share[mode]], **sizes)
            if rng.random() < 0.03:
                row = replace(row, answer=None, invalid="unclosed_thought")
            length = row.thought_tokens + 20
            rows[mode, draw] = replace(row, completion_tokens=length, token_ids=[0] * length)
    return rows


def cut(row, limit):
    """The draw as it comes of at most `limit` tokens."""
    if limit is None or row.completion_tokens <= limit:
        return row
    thought = min(row.thought_tokens, limit)
    return replace(row, answer=None, invalid="truncated", completion_tokens=limit, thought_tokens=thought)


def walk(question, rows, *, order, rejects=()):
    """What is made of a question whose draws would be `rows`, the number of asks, and the answer."""
    asked = []

    async def ask(request, limit):
        asked.append((request.mode, request.draw, limit))
        if request.row_id in rejects:
            return Reject(request.row_id, "engine_error", "", dataset="nq")
        return cut(rows[Mode(request.mode), request.draw], limit)

    first = Request(row_id_of(question, mode=Mode.OFF, draw=0), question, "nq", "Q?", ["Paris"], None, Mode.OFF, 0, 0)
    answer = asyncio.run(settle_question(first, order=order, seed=0, ask=ask))
    return answer, asked


@pytest.mark.parametrize("draws", [1, 2, 3])
@pytest.mark.parametrize("keep_all_draws", [False, True])
def test_candidates_are_those_of_all_draws(draws, keep_all_draws):
    rng = random.Random(draws)
    needed = order(draws=draws, keep_all_draws=keep_all_draws)
    settings = {"match": "exact", "draws": draws, "limits": LIMITS, "keep_all_draws": keep_all_draws}
    whole, made, seen = [], [], set()
    for number in range(800):
        question = f"nq/{number}"
        rows = all_draws(question, rng=rng, draws=draws)
        whole += rows.values()
        answer, _ = walk(question, rows, order=needed)
        made += [generation_of(row, rows=rows) for row in answer.rows]
        seen.add(question)
    expected, _ = judge(whole, **settings)
    found, rejects = judge(made, **settings, as_needed=True)
    assert found == expected and len({row.polarity for row in found}) == 2
    rows = count_funnel(found, rejects, {"nq": len(seen)})  # every question is counted once, or it raises
    assert sum(row.rows_out for row in rows if row.filter == "kept") == len(expected)
    assert len(made) < len(whole)


def generation_of(row, *, rows):
    """The row of an answer as a Generation."""
    return replace(rows[Mode(row["mode"]), row["draw"]], **row)


def made_of(on, off, **sizes):
    rows = {(Mode.ON, n): generation("nq/1", "on", n, CITY[z == "1"], **sizes) for n, z in enumerate(on)}
    return rows | {(Mode.OFF, n): generation("nq/1", "off", n, CITY[z == "1"]) for n, z in enumerate(off)}


@pytest.mark.parametrize(
    ("on", "off", "asked"),
    [
        ("111", "000", "off0 off1 off2 on0 on1 on2"),  # positive: all draws are needed
        ("000", "111", "off0 off1 off2 on0 on1 on2"),  # negative
        ("111", "010", "off0 off1"),  # the second draw contradicts the first
        ("011", "000", "off0 off1 off2 on0"),  # neither helped nor hurt
        ("101", "000", "off0 off1 off2 on0 on1"),
        ("110", "111", "off0 off1 off2 on0"),
    ],
)
def test_a_question_is_settled_by_its_first_contrary_draw(on, off, asked):
    wide = Limits(min_segments=0, max_segments=99, min_thought_tokens=0, max_thought_tokens=10_000)
    answer, calls = walk("nq/1", made_of(on, off), order=order(limits=wide))
    assert " ".join(f"{mode}{draw}" for mode, draw, _ in calls) == asked
    assert len(answer.rows) == len(calls) and answer.rejects == []


def test_a_first_thought_that_is_not_kept_settles_it():
    short = made_of("111", "000", thought_tokens=50)
    _, calls = walk("nq/1", short, order=order())
    assert [call[:2] for call in calls] == [("off", 0), ("off", 1), ("off", 2), ("on", 0)]
    _, calls = walk("nq/1", short, order=order(keep_all_draws=True))
    assert len(calls) == 6  # another draw may be kept


def test_a_thought_is_cut_where_it_cannot_be_kept_and_made_again_where_that_cannot_be_told():
    rows = made_of("111", "000")
    first = rows[Mode.ON, 0]
    too_long = {**rows, (Mode.ON, 0): replace(first, thought_tokens=900, completion_tokens=950)}
    answer, calls = walk("nq/1", too_long, order=order())
    assert calls[-1] == ("on", 0, 250)  # 200 and a quarter
    assert answer.rows[-1]["invalid"] == "long_thought" and answer.rows[-1]["completion_tokens"] == 250
    assert answer.took == {}
    long_answer = {**rows, (Mode.ON, 0): replace(first, thought_tokens=150, completion_tokens=600)}
    answer, calls = walk("nq/1", long_answer, order=order())
    assert [call for call in calls if call[:2] == ("on", 0)] == [("on", 0, 250), ("on", 0, None)]
    assert answer.took == {"tokens_asked_again": 250}
    assert len(answer.rows) == 6 and answer.rows[3]["completion_tokens"] == 600


def test_a_draw_that_cannot_be_asked_ends_its_question():
    answer, calls = walk("nq/1", made_of("111", "000"), order=order(), rejects={"nq/1/off/1"})
    assert len(calls) == 2 and len(answer.rows) == 1
    assert [reject.row_id for reject in answer.rejects] == ["nq/1/off/1"]
    _, rejects = judge(
        [generation("nq/1", "off", 0, "Rome")],
        match="exact",
        draws=3,
        limits=LIMITS,
        keep_all_draws=False,
        as_needed=True,
    )
    assert [reject.reason for reject in rejects] == ["missing_draw"]


def test_every_draw_has_the_id_and_seed_that_it_has_among_all():
    question = Question("nq/1", "nq", "train", "Q?", ["Paris"], None, "{}")
    table = to_table([question], Question)
    all_requests = from_table(build_requests(table, modes=("on", "off"), draws=3, seed=5), Request)
    (first,) = from_table(build_requests(table, modes=("off",), draws=1, seed=5), Request)
    made = [draw_of(first, mode=mode, draw=draw, seed=5) for mode in (Mode.ON, Mode.OFF) for draw in range(3)]
    assert made == all_requests


def test_what_was_saved_is_counted():
    made = {Mode.OFF: Made(whole=10, tokens=100), Mode.ON: Made(whole=4, tokens=400, cut=1, cut_tokens=60)}
    found = saved(made, questions=5, draws=3, asked_again=30)
    assert found["draws_not_needed"] == 5 + 10
    assert found["tokens_sampled"] == 100 + 460 + 30
    # five answers of 10 tokens, ten thoughts of 100, and 40 that were cut off
    assert found["tokens_of_all_draws_estimate"] == 560 + 50 + 1000 + 40
    assert found["share_of_tokens_sampled_estimate"] == pytest.approx(590 / 1650, abs=1e-3)


PIECES = ["Paris.", " so", "\n", "\n\n", "\r\n", "\n \n\n", "</thi", "x" * 70, "- one\n- two"]
TAGS = [("<think>", "</think>"), ("[T", "]")]


def so_far(text, *, opened, tags):
    """An unfinished first thought with this text; a token is four characters."""
    split = split_thinking(text, opened=opened, finish_reason="length", tags=tags)
    thought = text[split.thought_start : split.thought_end] if split.thought_start >= 0 else ""
    row = generation("nq/1", "on", 0, "Paris")
    place = {"thought_start": split.thought_start, "thought_end": split.thought_end}
    tokens = {"thought_tokens": len(thought) // 4, "completion_tokens": len(text) // 4}
    return replace(row, text=text, answer=split.answer, invalid=split.invalid, **place, **tokens)


def paragraphs(text, *, tags):
    """The oracle: what stands between blank lines of the thought, where it is not blank."""
    thought = text.partition(tags[1])[0].replace(tags[0], "", 1).replace("\r\n", "\n")
    return [part for part in thought.split("\n\n") if part.strip()]


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize("opened", [False, True])
def test_a_thought_is_ended_only_where_nothing_that_follows_could_mend_it(opened, tags):
    rng, needed = random.Random(7), order(limits=Limits(0, 6, 0, 90))
    ended, whole = 0, 0
    for _ in range(300):
        thought = "".join(rng.choices(PIECES, k=rng.randint(5, 40))).replace(tags[1], "")
        text = ("" if opened else tags[0]) + thought + tags[1] + "Paris"
        final = paragraphs(text, tags=tags)
        tokens = len(so_far(text, opened=opened, tags=tags).text.partition(tags[1])[0]) // 4
        reasons = []
        for end in range(len(text) + 1):
            row = so_far(text[:end], opened=opened, tags=tags)
            assert certain_segments(row) <= len(final)
            reasons.append(needed.why_cut(row))
            if reasons[-1] is not None:
                assert needed.may_be_enough(row.text, tokens=row.completion_tokens)
        told = {reason for reason in reasons if reason is not None}
        assert "many_segments" not in told or len(final) >= 6
        assert "long_thought" not in told or tokens >= 90
        ended, whole = ended + bool(told), whole + (len(final) < 6 and tokens < 90)
        if len(final) > 6:  # the last one may be the beginning of a tag for 64 characters, the others are certain
            assert told
    assert ended > 50 and whole > 50


def test_a_first_thought_with_too_many_segments_is_cut_and_settles_its_question():
    rows = made_of("111", "000")
    text = "<think>" + "\n\n".join(f"step {n}" for n in range(12))
    stopped = so_far(text, opened=False, tags=TAGS[0])
    assert stopped.completion_tokens < 250  # before the limit of tokens
    answer, calls = walk("nq/1", {**rows, (Mode.ON, 0): stopped}, order=order())
    assert [call[:2] for call in calls] == [("off", 0), ("off", 1), ("off", 2), ("on", 0)]
    assert (answer.rows[-1]["invalid"], answer.rows[-1]["answer"], answer.took) == ("many_segments", None, {})
    made = [generation_of(row, rows=rows) for row in answer.rows]
    kept, rejects = judge(made, match="exact", draws=3, limits=LIMITS, keep_all_draws=False, as_needed=True)
    assert kept == [] and [reject.reason for reject in rejects] == ["many_segments"]


def test_a_draw_that_the_models_own_length_has_cut_is_not_asked_for_again():
    rows = made_of("111", "000")
    text = "<think>" + "\n\n".join(f"step {n}" for n in range(4))
    short = so_far(text, opened=False, tags=TAGS[0])
    answer, calls = walk("nq/1", {**rows, (Mode.ON, 0): short}, order=order())
    assert (len(calls), answer.rows[-1]["invalid"], answer.took) == (4, "truncated", {})
