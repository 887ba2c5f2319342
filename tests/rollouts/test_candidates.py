import json
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mralign.chat.thought import split_thinking
from mralign.rollouts import Limits, count_funnel, judge
from mralign.rollouts.candidates import LENGTH_REASONS
from mralign.rollouts.funnel import Kept, add_funnels, funnel_rows, funnels
from mralign.rows import Candidate, Generation, Polarity, Reject, from_table, to_table

TRACES = Path(__file__).parents[3] / "shared" / "data" / "traces" / "qwen3-8b_simpleqa.jsonl"
WIDE = Limits(min_segments=0, max_segments=99, min_thought_tokens=0, max_thought_tokens=10_000)


def generation(question, mode, draw, answer, *, invalid=None, segments=5, thought_tokens=500, dataset="nq"):
    thought = "\n\n".join(f"part {i} Paris" for i in range(segments))
    text = f"<think>\n{thought}\n</think>{answer}" if mode == "on" else answer
    return Generation(
        row_id=f"{question}/{mode}/{draw}",
        question_id=question,
        dataset=dataset,
        question=f"Q {question}?",
        answers=["Paris"],
        mode=mode,
        draw=draw,
        seed=0,
        prompt_token_ids=[1, 2],
        token_ids=[3, 4, draw],
        completion_tokens=3,
        text=text,
        finish_reason="stop",
        thought_start=7 if mode == "on" else -1,
        thought_end=len(f"<think>\n{thought}\n") if mode == "on" else -1,
        answer=None if invalid else answer,
        thought_tokens=thought_tokens if mode == "on" else 0,
        invalid=invalid,
    )


def question(name, on, off, **sizes):
    """Three draws a mode; "1" answers Paris, "0" answers Rome."""
    city = {"1": "Paris", "0": "Rome"}
    rows = [generation(name, "on", draw, city[z], **sizes) for draw, z in enumerate(on)]
    return rows + [generation(name, "off", draw, city[z]) for draw, z in enumerate(off)]


def run(rows, *, match="exact", draws=3, limits=WIDE, keep_all_draws=False, keep_neutral=False):
    return judge(
        rows, match=match, draws=draws, limits=limits, keep_all_draws=keep_all_draws, keep_neutral=keep_neutral
    )


def test_the_papers_matching_asks_more_of_an_answer_after_thinking():
    """Equality after a thought, containment without one: the same answers decide in three ways. method.md §1."""
    rows = []
    for name, on, off in [("nq/equal", "Paris", "It is Rome"), ("nq/held", "It is Paris", "Rome")]:
        rows += [generation(name, "on", draw, on) for draw in range(3)]
        rows += [generation(name, "off", draw, off) for draw in range(3)]
    rows += [generation("nq/both", mode, draw, "It is Paris") for mode in ("on", "off") for draw in range(3)]

    def verdicts(match):
        return {row.question_id: (row.polarity, row.em_answer) for row in run(rows, match=match)[0]}

    assert verdicts("exact") == {"nq/equal": (1, True)}
    assert verdicts("contains") == {"nq/equal": (1, True), "nq/held": (1, True)}
    assert verdicts("paper") == {"nq/equal": (1, True), "nq/both": (-1, False)}


def test_an_empty_answer_is_wrong_and_decides():
    rows = [generation("nq/1", "on", draw, "") for draw in range(3)]
    rows += [generation("nq/1", "off", draw, "Paris") for draw in range(3)]
    kept, rejects = run(rows)
    assert [row.polarity for row in kept] == [-1] and rejects == []


def test_verdict_needs_every_draw_of_both_modes():
    rows = []
    for on, off in [("111", "000"), ("000", "111"), ("110", "000"), ("111", "001"), ("111", "111"), ("000", "000")]:
        rows += question(f"nq/{on}-{off}", on, off)
    kept, rejects = run(rows)
    assert [(row.row_id, row.polarity) for row in kept] == [
        ("nq/000-111/on/0", -1),
        ("nq/111-000/on/0", 1),
    ]
    assert [(r.row_id, r.reason, r.detail) for r in rejects] == [
        ("nq/000-000", "undecided", "z_on=0,0,0 z_off=0,0,0"),
        ("nq/110-000", "undecided", "z_on=1,1,0 z_off=0,0,0"),
        ("nq/111-001", "undecided", "z_on=1,1,1 z_off=0,0,1"),
        ("nq/111-111", "undecided", "z_on=1,1,1 z_off=1,1,1"),
    ]
    assert {(r.dataset, r.polarity) for r in rejects} == {("nq", None)}


def test_candidates_fit_their_schema_and_point_into_their_text():
    kept, _ = run(question("nq/1", "000", "111", segments=2))
    (row,) = from_table(to_table(kept, Candidate), Candidate)
    assert [row] == kept
    spans = zip(row.segment_start, row.segment_end, strict=True)
    assert [row.text[a:b] for a, b in spans] == ["\npart 0 Paris", "part 1 Paris"]
    assert (row.em_thought, row.em_answer) == (True, False)
    assert (row.prompt_token_ids, row.token_ids, row.thought_start) == ([1, 2], [3, 4, 0], 7)


def test_match_mode_decides_the_verdict():
    rows = [generation("nq/1", "on", 0, "It is Paris"), generation("nq/1", "off", 0, "Rome")]
    assert run(rows, draws=1)[1][0].reason == "undecided"
    assert run(rows, draws=1, match="contains")[0][0].polarity == Polarity.POSITIVE


@pytest.mark.parametrize("place", [0, 2, 3, 5])
def test_one_invalid_draw_drops_the_question_with_its_reason(place):
    rows = question("nq/1", "111", "000")
    rows[place] = replace(rows[place], invalid="truncated", answer=None)
    kept, rejects = run(rows)
    assert kept == []
    assert [(r.row_id, r.reason, r.raw) for r in rejects] == [(rows[place].row_id, "truncated", rows[place].text)]


def test_a_missing_draw_drops_the_question_and_names_it():
    rows = question("nq/1", "111", "000")
    kept, rejects = run(rows[:2] + rows[4:])
    assert kept == []
    assert rejects == [Reject("nq/1", "missing_draw", "missing=on/2,off/0", "Q nq/1?", dataset="nq")]


def test_draws_beyond_n_and_repeated_ones_are_refused():
    with pytest.raises(ValueError, match=r"nq/1/on/2.*0 to 1"):
        run(question("nq/1", "111", "000"), draws=2)
    with pytest.raises(ValueError, match="nq/1/on/0 comes twice"):
        run(question("nq/1", "111", "000") * 2)


def test_all_draws_on_request_in_order_whatever_the_order_of_rows():
    rows = question("nq/b", "111", "000") + question("nq/a", "000", "111")
    kept, _ = run(rows[::-1], keep_all_draws=True)
    assert [row.row_id for row in kept] == [f"nq/{q}/on/{k}" for q in "ab" for k in range(3)]
    assert run(rows, keep_all_draws=True)[0] == kept


@pytest.mark.parametrize(
    ("segments", "tokens", "reason"),
    [
        (4, 500, "few_segments"),
        (5, 451, None),
        (14, 999, None),
        (15, 500, "many_segments"),
        (5, 450, "short_thought"),
        (5, 1000, "long_thought"),
        (4, 450, "few_segments"),
    ],
)
def test_the_length_filter_is_open_intervals(segments, tokens, reason):
    rows = question("nq/1", "111", "000", segments=segments, thought_tokens=tokens)
    kept, rejects = run(rows, limits=Limits())
    assert [r.reason for r in rejects] == ([reason] if reason else [])
    assert len(kept) == (reason is None)
    if reason:
        assert rejects[0].detail == f"segments={segments} thought_tokens={tokens}"
        assert (rejects[0].polarity, rejects[0].dataset) == (Polarity.POSITIVE, "nq")


def test_neutral_questions_leave_with_polarity_zero_and_pass_the_length_filter():
    rows = question("nq/1", "110", "000") + question("nq/2", "111", "111", segments=3)
    kept, rejects = run(rows, limits=Limits(), keep_neutral=True)
    assert [(row.row_id, row.polarity, row.em_answer) for row in kept] == [("nq/1/on/0", 0, True)]
    assert [(r.row_id, r.reason) for r in rejects] == [("nq/2/on/0", "few_segments")]
    assert rejects[0].polarity is Polarity.NEUTRAL


def mixed_rows():
    rows = question("nq/p1", "111", "000") + question("nq/p2", "111", "000", segments=3)
    rows += question("nq/n1", "000", "111", thought_tokens=1200) + question("nq/u", "101", "000")
    rows += question("nq/m", "111", "000")[:5]
    rows += [replace(row, dataset="my set") for row in question("my set/p", "111", "000")]
    broken = question("nq/i", "111", "000")
    broken[4] = replace(broken[4], invalid="no_thought", answer=None)
    return rows + broken


def test_funnel_counts_by_hand():
    kept, rejects = run(mixed_rows(), limits=Limits())
    rows = count_funnel(kept, rejects, {"nq": 8, "my set": 1})
    found = [(r.filter, r.polarity, r.rows_in, r.rows_out) for r in rows if r.dataset == "nq"]
    assert found == [
        ("not_generated", None, 8, 6),
        ("missing_draw", None, 6, 5),
        ("no_thought", None, 5, 4),
        ("undecided", None, 4, 3),
        ("verdict", 1, 3, 2),
        ("few_segments", 1, 2, 1),
        ("many_segments", 1, 1, 1),
        ("short_thought", 1, 1, 1),
        ("long_thought", 1, 1, 1),
        ("kept", 1, 1, 1),
        ("verdict", -1, 3, 1),
        ("few_segments", -1, 1, 1),
        ("many_segments", -1, 1, 1),
        ("short_thought", -1, 1, 1),
        ("long_thought", -1, 1, 0),
        ("kept", -1, 0, 0),
    ]
    assert [r.rows_out for r in rows if r.dataset == "my set" and r.filter == "kept"] == [1, 0]
    assert {r.unit for r in rows if r.filter in (*LENGTH_REASONS, "kept")} == {"trajectories"}


def test_the_funnel_reads_fields_and_no_prose():
    kept, rejects = run(mixed_rows(), limits=Limits())
    wordless = [replace(reject, detail="", raw="") for reject in rejects]
    entered = {"nq": 8, "my set": 1}
    assert count_funnel(kept, wordless, entered) == count_funnel(kept, rejects, entered)


@pytest.mark.parametrize("keep_all_draws", [True, False])
@pytest.mark.parametrize("keep_neutral", [True, False])
def test_no_row_vanishes_between_filters(keep_all_draws, keep_neutral):
    kept, rejects = run(mixed_rows(), limits=Limits(), keep_all_draws=keep_all_draws, keep_neutral=keep_neutral)
    rows = count_funnel(kept, from_table(to_table(rejects, Reject), Reject), {"nq": 6, "my set": 1})
    draws = 3 if keep_all_draws else 1
    for dataset in ("nq", "my set"):
        mine = [row for row in rows if row.dataset == dataset]
        before = [row for row in mine if row.polarity is None]
        verdicts = [row for row in mine if row.filter == "verdict"]
        assert sum(row.rows_out for row in verdicts) == before[-1].rows_out
        for polarity in {row.polarity for row in verdicts}:
            chain = [row for row in mine if row.polarity == polarity]
            assert chain[1].rows_in == draws * chain[0].rows_out
            assert [row.rows_out for row in chain[1:-1]] == [row.rows_in for row in chain[2:]]
            assert chain[-1].rows_out == sum((r.dataset, r.polarity) == (dataset, polarity) for r in kept)
        assert [row.rows_out for row in before[:-1]] == [row.rows_in for row in before[1:]]


def test_funnel_refuses_more_judged_than_entered():
    kept, rejects = run(mixed_rows())
    with pytest.raises(ValueError, match=r"'nq': 5 questions entered, but 6 were judged"):
        count_funnel(kept, rejects, {"nq": 5, "my set": 1})
    with pytest.raises(ValueError, match=r"'my set': 0 questions entered"):
        count_funnel(kept, rejects, {"nq": 6})


@pytest.mark.skipif(not TRACES.is_file(), reason=f"published traces not found at {TRACES}")
def test_real_traces_pass_through_with_none_lost():
    rows = []
    for line in TRACES.read_text().splitlines():
        record = json.loads(line)
        text = record["thought"] + record["response"]
        split = split_thinking(text, mode="on")
        on = replace(
            generation(f"sqa/{record['id']}", "on", 0, split.answer, dataset="sqa"),
            text=text,
            answers=[record["answer"]],
            thought_start=split.thought_start,
            thought_end=split.thought_end,
            thought_tokens=record["thinking_tokens"],
        )
        rows += [on, generation(on.question_id, "off", 0, "no idea", dataset="sqa")]
    kept, rejects = run(rows, draws=1, limits=Limits(), keep_neutral=True)
    assert len(kept) + len(rejects) == 800
    assert {r.reason for r in rejects} <= set(LENGTH_REASONS)
    for row in kept:
        assert 4 < len(row.segment_start) < 15
    counted = count_funnel(kept, rejects, {"sqa": 800})
    assert sum(row.rows_out for row in counted if row.filter == "verdict") == 800


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 5)), max_size=40), st.integers(1, 4))
def test_funnels_of_some_questions_each_add_up_to_that_of_all(drawn, lots):
    """Whatever became of each question: kept with two trajectories, cut twice or once, dropped, never seen."""
    kept = [[] for _ in range(lots)]
    rejects = [[] for _ in range(lots)]
    asked = [Counter() for _ in range(lots)]
    for number, (dataset, fate) in enumerate(drawn):
        lot = number % lots
        asked[lot][dataset] += 1
        polarity = Polarity.POSITIVE if number % 3 else Polarity.NEGATIVE
        question_id = f"{dataset}/{number}"
        ids = [f"{question_id}/on/{draw}" for draw in range(2)]
        if fate in (0, 1):
            kept[lot] += [Kept(dataset, polarity, question_id)] * (2 - fate)
        if fate in (1, 2):
            cut = ids[2 - fate :]
            rejects[lot] += [Reject(one, "few_segments", "", "", dataset=dataset, polarity=polarity) for one in cut]
        if fate == 3:
            rejects[lot].append(Reject(question_id, "undecided", "", "", dataset=dataset))
        if fate == 4:
            rejects[lot].append(Reject(ids[0], "short_thought", "", "", dataset=dataset))
    apart = [funnels(*one) for one in zip(kept, rejects, asked, strict=True)]
    rows = funnel_rows(add_funnels(apart))
    assert rows == count_funnel(chain(*kept), chain(*rejects), sum(asked, Counter()))
    fates = Counter(drawn)
    for dataset in {dataset for dataset, _ in drawn}:
        of = {fate: fates[dataset, fate] for fate in range(6)}
        own = {(row.filter, row.polarity): (row.rows_in, row.rows_out) for row in rows if row.dataset == dataset}
        total = sum(of.values())
        assert own["not_generated", None] == (total, total - of[5])
        verdicts = [own["verdict", polarity][1] for polarity in (Polarity.POSITIVE, Polarity.NEGATIVE)]
        assert sum(verdicts) == of[0] + of[1] + of[2]
        whole = [own["kept", polarity][1] for polarity in (Polarity.POSITIVE, Polarity.NEGATIVE)]
        assert sum(whole) == 2 * of[0] + of[1]
