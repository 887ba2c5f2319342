"""Labellers as annotators and in a cascade, through the stage: who is asked, what is written, what the plan says."""

import asyncio
import json
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pytest
from annotation.test_labeller_file import REPORT
from loopback_server import LoopbackServer
from scripted_annotators import answer_to, request_of
from taught_panel import candidate, lessons, random_labeller

from mralign.annotation.agreement import count_pairs
from mralign.annotation.ask import DistilledAnnotator
from mralign.annotation.cascade import choose, foresee
from mralign.annotation.consensus import DISTILLED
from mralign.annotation.decide import annotate_here
from mralign.annotation.instruction import trajectory_of
from mralign.annotation.labeller_file import write_labeller
from mralign.annotation.resolved import resolve_annotation
from mralign.annotation.stage import ANNOTATION_STAGE, Annotating
from mralign.annotation.taxonomy import PAPER
from mralign.config import parse
from mralign.plan import pipeline
from mralign.rows.schema import ANNOTATIONS, CANDIDATES
from mralign.run.part_names import part_name
from mralign.run.stage import Context
from mralign.run.store import StageDir

ROWS = [candidate(n, lesson, polarity=(1, -1, 0)[n % 3]) for n, lesson in enumerate(lessons(30, seed=2))]


@pytest.fixture
def labeller(tmp_path):
    write_labeller(tmp_path / "own", random_labeller(), report={})
    return str(tmp_path / "own")


def config_of(tmp_path, **annotation):
    return parse(
        {
            "run": {"dir": str(tmp_path / "run")},
            "questions": {"train": [{"name": "d", "path": "d"}]},
            "annotation": annotation,
        }
    )


def chats(base_url):
    def chat(name, model):
        http = {"base_url": base_url, "model": model, "vllm_extras": False, "price_prompt": 1.0, "key_env": ""}
        return {"name": name, "engine": "http", "http": http}

    return {"annotators": [chat("Ann", "a"), chat("Ben", "c")], "adjudicator": chat("Jo", "judge")}


def own(name, labeller):
    return {"name": name, "engine": "distilled", "labeller": labeller}


def source_of(tmp_path, rows=ROWS, parts=3):
    source = StageDir(str(tmp_path / "candidates"), stage="candidates", fingerprint="c")
    for number in range(parts):
        table = pa.Table.from_pylist(rows[number::parts], schema=CANDIDATES)
        source.commit(part_name(str(number)), table, schema=CANDIDATES)
    return source


def test_three_labellers_say_what_one_says(tmp_path, labeller):
    panel = {"annotators": [own("x", labeller), own("y", labeller)], "adjudicator": own("z", labeller)}
    resolved = resolve_annotation(config_of(tmp_path, **panel))
    assert resolved.engines == []
    rows, rejects = annotate_here(pa.Table.from_pylist(ROWS, schema=CANDIDATES), resolved=resolved)
    assert (len(rows), rejects) == (30, [])
    assert pa.Table.from_pylist(rows, schema=ANNOTATIONS).num_rows == 30
    for row, given in zip(rows, ROWS, strict=True):
        alone = random_labeller().annotate(trajectory_of(given).segments)
        assert [(s["first_segment"], s["labels"]) for s in row["steps"]] == [
            (s.first_segment, s.labels) for s in alone.steps
        ]
        assert row["confidence_a"] == row["confidence_b"] == alone.confidence


def test_a_labeller_adjudicates_between_chats(labeller):
    annotator = DistilledAnnotator("own", labeller=random_labeller())
    trajectory, tally = trajectory_of(ROWS[0]), Counter()
    opinion = asyncio.run(annotator.annotate(trajectory, tally=tally))
    disputed = [(step, step) for step in opinion.steps[1:]]
    verdicts = asyncio.run(annotator.adjudicate(trajectory, disputed, tally=tally))
    assert verdicts == opinion.steps[1:] and tally == {"trajectories": 2}


def cascade_of(tmp_path, labeller, *, budget, **panel):
    return config_of(tmp_path, **panel, cascade={"labeller": labeller, "budget": budget})


def expected_choice(budget):
    own_labeller = random_labeller()
    pool = [
        foresee(
            row["row_id"],
            polarity=row["polarity"],
            prediction=own_labeller.predict(trajectory_of(row).segments),
            L=len(PAPER.labels),
        )
        for row in ROWS
    ]
    return choose(pool, budget=budget)


def test_in_a_cascade_only_the_chosen_are_asked_and_the_others_are_the_labellers(tmp_path, labeller):
    async def labelled(resolved):
        states = ROWS
        for roles in resolved.engines:
            actor = Annotating(resolved=resolved, roles=roles, last=roles == resolved.engines[-1])
            answers = await actor.answer(states)
            states = [row | {"state": json.loads(json.dumps(a.state))} for row, a in zip(ROWS, answers, strict=True)]
        return answers

    with LoopbackServer(prompt=request_of, answer=answer_to) as server:
        config = cascade_of(tmp_path, labeller, budget=7, **chats(server.base_url))
        resolved = replace(resolve_annotation(config), asked=expected_choice(7))
        answers = asyncio.run(labelled(resolved))
        asked = [json.loads(request) for request in server.accepted]
    wanted = {row["question"] for row in ROWS if row["row_id"] in expected_choice(7)}
    questions = {line for _, messages in asked for line in messages[1].splitlines() if line.startswith("Question: ")}
    assert questions == {f"Question: {question}" for question in wanted} and len(wanted) == 7
    for row, answer in zip(ROWS, answers, strict=True):
        if row["row_id"] in expected_choice(7):
            assert answer.took["first"]["trajectories"] == 1
            continue
        (found,) = answer.rows
        assert {step["rule"] for step in found["steps"]} == {DISTILLED}
        assert answer.took["first"].get("trajectories", 0) == 0
        alone = random_labeller().annotate(trajectory_of(row).segments)
        assert [step["labels"] for step in found["steps"]] == [step.labels for step in alone.steps]


@pytest.mark.integration
def test_the_stage_chooses_by_the_gain_and_says_how_many(local_ray, tmp_path, labeller):
    source = source_of(tmp_path)
    out = StageDir(str(tmp_path / "annotation"), stage="annotation", fingerprint="a")
    outcome = ANNOTATION_STAGE.run(Context(cascade_of(tmp_path, labeller, budget=7), out, {"candidates": source}))
    assert json.loads(out.read_text("cascade.json")) == {"of": 30, "asked": sorted(expected_choice(7))}
    assert outcome.figures["cascade"] == {"asked": 7, "left": 23}
    assert "labellers" not in outcome.figures  # this one says nothing of itself
    again = StageDir(str(tmp_path / "again"), stage="annotation", fingerprint="a")
    again.write_text("cascade.json", json.dumps({"of": 30, "asked": sorted(expected_choice(3))}))
    outcome = ANNOTATION_STAGE.run(Context(cascade_of(tmp_path, labeller, budget=7), again, {"candidates": source}))
    assert outcome.figures["cascade"] == {"asked": 3, "left": 27}  # what was chosen before stays
    rows = out.read(schema=ANNOTATIONS)
    distilled = {row["row_id"] for row in rows.to_pylist() if row["steps"][0]["rule"] == DISTILLED}
    assert distilled == {row["row_id"] for row in ROWS} - expected_choice(7)
    compared = sum(count_pairs(rows, x="labels_a", y="labels_b").values())
    panel = [row for row in rows.to_pylist() if row["row_id"] not in distilled]
    assert compared == sum(len(row["steps"]) for row in panel)  # nobody agrees by having said nothing


@pytest.mark.integration
def test_what_labellers_say_of_themselves_stands_in_the_figures(local_ray, tmp_path, labeller):
    write_labeller(tmp_path / "told", random_labeller(), report=REPORT)
    panel = {"annotators": [own("x", labeller), own("y", str(tmp_path / "told"))], "adjudicator": own("z", labeller)}
    out = StageDir(str(tmp_path / "annotation"), stage="annotation", fingerprint="a")
    config = config_of(tmp_path, **panel, cascade={"labeller": str(tmp_path / "told"), "budget": 5})
    figures = ANNOTATION_STAGE.run(Context(config, out, {"candidates": source_of(tmp_path)})).figures
    assert {name: told["trajectories"] for name, told in figures["labellers"].items()} == {"y": 40, "cascade": 40}


@pytest.mark.parametrize(("budget", "asked"), [(0, 0), (7, 7), (1000, 30)])
def test_a_budget_is_what_the_plan_counts_with(tmp_path, labeller, budget, asked):
    config = cascade_of(tmp_path, labeller, budget=budget, **chats("http://127.0.0.1:1/v1"))
    out = StageDir(str(tmp_path / "annotation"), stage="annotation", fingerprint="a")
    costs = ANNOTATION_STAGE.forecast(Context(config, out, {"candidates": source_of(tmp_path)}))
    assert {cost.who: cost.requests for cost in costs} == {"Ann": asked, "Ben": asked, "Jo": asked}
    assert all(cost.money == pytest.approx(cost.prompt_tokens / 1e6) for cost in costs)
    before = ANNOTATION_STAGE.expects(config, {"d": 5000})  # no candidate is known yet
    assert [(cost.requests, cost.most) for cost in before] == [(budget, True)] * 3


def test_another_labeller_makes_another_fingerprint(tmp_path, labeller):
    def mark(config):
        return {item.stage.name: item.out.fingerprint for item in pipeline.survey(config)}["annotation"]

    panel = {"annotators": [own("x", labeller), own("y", labeller)], "adjudicator": own("z", labeller)}
    configs = [config_of(tmp_path, **panel), cascade_of(tmp_path, labeller, budget=3)]
    before = [mark(config) for config in configs]
    assert mark(cascade_of(tmp_path, labeller, budget=4)) != before[1]
    write_labeller(tmp_path / "own", random_labeller(), report={"note": "made again"})
    assert [mark(config) == old for config, old in zip(configs, before, strict=True)] == [False, False]


def test_a_labeller_of_another_taxonomy_is_refused_before_anything_runs(tmp_path, labeller):
    write_labeller(tmp_path / "other", random_labeller(("x", "y")), report={})
    config = cascade_of(tmp_path, str(tmp_path / "other"), budget=3)
    with pytest.raises(ValueError, match=r"annotation\.cascade: the labeller .* has learned the labels \['x', 'y'\]"):
        ANNOTATION_STAGE.check(config)
    ANNOTATION_STAGE.check(cascade_of(tmp_path, labeller, budget=3))
    with pytest.raises(ValueError, match=r"holds no labeller\.json, so no labeller"):
        ANNOTATION_STAGE.check(cascade_of(tmp_path, str(tmp_path / "none"), budget=3))


def test_a_distilled_annotator_needs_a_labeller(tmp_path):
    with pytest.raises(ValueError, match="engine=distilled needs a labeller, see mralign distill"):
        config_of(tmp_path, adjudicator={"name": "own", "engine": "distilled"})
    with pytest.raises(ValueError, match=r"\['labeller'\] mean nothing to engine=cues"):
        config_of(tmp_path, adjudicator={"name": "own", "rule_book": "b", "labeller": "d"})
