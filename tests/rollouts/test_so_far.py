"""Candidates of finished questions, however the generations are cut into parts: those of all generations at once."""

import random
from functools import partial

import pytest
from rollouts.test_needed import LIMITS, all_draws, order, walk

from mralign.rollouts import judge
from mralign.rollouts.so_far import CandidatesSoFar
from mralign.rows import Candidate, Generation, from_table, to_table

DRAWS = 2


def verdicts(*, as_needed, keep_all_draws):
    settings = {"match": "exact", "draws": DRAWS, "limits": LIMITS}
    return partial(judge, **settings, keep_all_draws=keep_all_draws, as_needed=as_needed)


def in_parts(groups, *, rng, straddle):
    """The groups of rows cut into parts; `straddle`: a group may lie in several of them, its rows in any order."""
    if straddle:
        groups = [[row] for group in groups for row in group]
        rng.shuffle(groups)
    while groups:
        size = rng.randint(1, 9)
        yield to_table([row for group in groups[:size] for row in group], Generation)
        groups = groups[size:]


@pytest.mark.parametrize("keep_all_draws", [False, True])
@pytest.mark.parametrize("as_needed", [False, True])
def test_every_candidate_comes_once_and_is_that_of_the_whole(as_needed, keep_all_draws):
    rng = random.Random(5)
    judged = verdicts(as_needed=as_needed, keep_all_draws=keep_all_draws)
    groups = []
    for number in range(300):
        question = f"nq/{number}"
        rows = all_draws(question, rng=rng, draws=DRAWS)
        needed = order(draws=DRAWS, keep_all_draws=keep_all_draws)
        made = walk(question, rows, order=needed)[0].rows if as_needed else [vars(row) for row in rows.values()]
        groups.append([Generation(**row) for row in made])
    expected, _ = judged([row for group in groups for row in group])
    so_far = CandidatesSoFar(judged, draws=0 if as_needed else 2 * DRAWS)
    found = []
    for part in in_parts(groups, rng=rng, straddle=not as_needed):
        found += so_far.add(part)
    key = lambda row: row["row_id"]  # noqa: E731
    assert sorted(found, key=key) == sorted(to_table(expected, Candidate).to_pylist(), key=key)
    assert len(found) > 20


def test_a_question_waits_for_its_last_draw():
    rng = random.Random(1)
    judged = verdicts(as_needed=False, keep_all_draws=False)
    so_far = CandidatesSoFar(judged, draws=2 * DRAWS)
    for number in range(60):
        *first, last = all_draws(f"nq/{number}", rng=rng, draws=DRAWS).values()
        assert so_far.add(to_table(first, Generation)) == []
        kept, _ = judged([*first, last])
        assert so_far.add(to_table([last], Generation)) == to_table(kept, Candidate).to_pylist()


def test_a_question_that_is_asked_again_as_a_draw_failed_comes_with_its_new_part():
    """A draw was lost to a fault that may pass: no candidate. The next start asks all of the question again."""
    judged = verdicts(as_needed=True, keep_all_draws=False)
    so_far = CandidatesSoFar(judged, draws=0)
    rng = random.Random(2)
    kept: list[Candidate] = []
    while not kept:
        rows = all_draws("nq/1", rng=rng, draws=DRAWS)
        kept, _ = judged(list(rows.values()))
    needed = order(draws=DRAWS)
    lost, _ = walk("nq/1", rows, order=needed, rejects=("nq/1/on/1",))
    assert lost.rejects and so_far.add(to_table([Generation(**row) for row in lost.rows], Generation)) == []
    again, _ = walk("nq/1", rows, order=needed)
    (found,) = so_far.add(to_table([Generation(**row) for row in again.rows], Generation))
    assert from_table(to_table(kept, Candidate), Candidate)[0].row_id == found["row_id"]
