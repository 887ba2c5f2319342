"""A run that overlaps: what the plan's own stages ask while rollouts are committed, without Ray.

The rollouts are written part by part, as engines would commit them. The oracle: what is asked of the loopback server
about the candidates of all rollouts, read when they are finished, by the annotators alone.
"""

import asyncio
import time

import pytest
from integration.scripted_annotators import answer_to, request_of
from loopback_server import LoopbackServer
from rollouts.test_candidates import question

from mralign.annotation.annotators_ahead import AnnotatorsAhead
from mralign.config import load
from mralign.plan import pipeline
from mralign.plan.overlap import overlapping
from mralign.presets import PRESETS
from mralign.rollouts import judge
from mralign.rollouts.candidates import Limits
from mralign.rows import Candidate, Generation, to_table
from mralign.rows.schema import GENERATIONS
from mralign.run.part_names import part_name

QUESTIONS = 60


def configured(run, server, *settings):
    chats = []
    for name, model in (("Ann", "a"), ("Ben", "b"), ("Jo", "judge")):
        http = f"{{base_url: '{server.base_url}', model: {model}, concurrency: 4, vllm_extras: false}}"
        chats.append(f"{{name: {name}, engine: http, http: {http}}}")
    overrides = [f"run.dir={run}", f"annotation.annotators=[{chats[0]}, {chats[1]}]"]
    overrides += [f"annotation.adjudicator={chats[2]}", "candidates.keep_neutral=false", *settings]
    return load("miniworld", overrides=overrides, presets_dir=PRESETS)


def rollouts():
    """Generations by question: every third is decided by thinking, every third by its absence."""
    groups = []
    for number in range(QUESTIONS):
        on, off = [("111", "000"), ("000", "111"), ("110", "001")][number % 3]
        groups.append(question(f"nq/{number}", on, off, segments=5 + number % 4, thought_tokens=100))
    return groups


def asked_about(rows, config):
    """Ask about rows of schema CANDIDATES, all at once."""

    async def run():
        async with AnnotatorsAhead(config) as ahead:
            await asyncio.gather(*map(ahead.ask, rows))

    asyncio.run(run())


def candidates(groups):
    rows = [row for group in groups for row in group]
    limits = Limits(min_thought_tokens=20, max_thought_tokens=200)
    kept, _ = judge(rows, match="exact", draws=3, limits=limits, keep_all_draws=True)
    return to_table(kept, Candidate).to_pylist()


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def find(planned, name):
    return pipeline.find(planned, name)


@pytest.mark.parametrize("order", ["needed", "all"])
def test_what_is_asked_beside_the_rollouts_is_what_the_stage_asks_and_no_more(tmp_path, order):
    groups = rollouts()
    with LoopbackServer(prompt=request_of, answer=answer_to) as oracle:
        asked_about(candidates(groups), configured(tmp_path / "turn", oracle))
        expected = dict(oracle.accepted)
    with LoopbackServer(prompt=request_of, answer=answer_to) as server:
        config = configured(tmp_path / "run", server, "run.overlap=true", f"rollouts.order={order}")
        planned = pipeline.survey(config)
        out = find(planned, "rollouts").out
        with overlapping(config) as overlap:
            for name in ("questions", "rollouts"):
                assert overlap.before(find(planned, name), planned=planned) == {}
            for number in range(0, QUESTIONS, 10):  # a part ends in the midst of a question where all draws are made
                rows = [row for group in groups[number : number + 10] for row in group]
                half = 27 if order == "all" else 30
                for key, part in ((f"a-{number}", rows[:half]), (f"b-{number}", rows[half:])):
                    out.commit(part_name(key), to_table(part, Generation), schema=GENERATIONS)
            wait_for(lambda: len(server.accepted) == len(expected))
            assert overlap.before(find(planned, "candidates"), planned=planned) == {}
            took = overlap.before(find(planned, "annotation"), planned=planned)
        assert server.accepted == expected and set(expected.values()) == {1}
        fresh = [tally["requests"] - tally["cached"] for tally in took.values()]  # equal draws are asked about once
        assert sum(fresh) == len(expected)
        asked_about(candidates(groups), config)  # the stage in its turn: all is there
        assert server.accepted == expected


@pytest.mark.parametrize("settings", [[], ["run.overlap=true", "rollouts.engine=vllm", "annotation.human=null"]])
def test_nothing_is_begun_where_it_is_not_asked_for_or_the_stage_is_not_in_the_plan(tmp_path, settings):
    with LoopbackServer(prompt=request_of, answer=answer_to) as server:
        config = configured(tmp_path, server, *settings)
        planned = pipeline.survey(config)
        if settings:
            planned = planned[:3]
        with overlapping(config) as overlap:
            overlap.before(find(planned, "rollouts"), planned=planned)
            assert not overlap._asking
