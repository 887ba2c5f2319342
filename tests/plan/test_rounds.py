"""A run of several rounds: what each one is made of, when another one follows, and that nothing is done twice."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from plan.made_rounds import DEV, Runner

from mralign.cli.status import as_json_object, told
from mralign.config import load
from mralign.plan import pipeline, walking
from mralign.plan import round_loop as loop
from mralign.plan.plan_of_rounds import describe_rounds
from mralign.plan.round_config import check_rounds, first_round, later_round
from mralign.plan.round_figures import matrix_changes
from mralign.plan.run_state import read_run
from mralign.presets import PRESETS
from mralign.report.findings import Matrices
from mralign.report.rounds import RoundRecord, rounds_of
from mralign.run.stage import Faults

OPENED = "pkg://mralign.miniworld/data/model"


@pytest.fixture
def configure(tmp_path):
    def configure(*overrides):
        given = [f"run.dir={tmp_path}/run", "run.rounds=3", "evaluation.reannotate=0"]
        return load("miniworld", overrides=[*given, *overrides], presets_dir=PRESETS)

    return configure


@pytest.fixture
def go(monkeypatch):
    """Goes through the rounds of a configuration with stages that are made up; pages are left out."""
    monkeypatch.setattr(walking.report, "publish", lambda config, planned: f"the end of {config.run.dir}")
    monkeypatch.setattr(walking, "complete_cards", lambda config, planned: None)

    def go(config, runner):
        monkeypatch.setattr(pipeline, "run", runner)
        return loop.walk_rounds(config)

    return go


def marks(config):
    return {item.stage.name: item.out.fingerprint for item in pipeline.survey(config)}


def test_one_round_is_the_run_that_it_was(configure):
    assert marks(configure("run.rounds=1")) == marks(configure("run.rounds=5", "run.round_reference=moving"))
    assert configure("run.rounds=1").run.dir == first_round(configure()).run.dir


def test_the_first_round_shares_all_but_the_evaluation_with_the_run_on_test(configure):
    dev, test = marks(first_round(configure())), marks(configure())
    other = {name for name in dev if dev[name] != test[name]}
    assert other == {"responses_base", "evaluation_base", "responses", "evaluation"}
    assert first_round(configure()).evaluation.split == "dev"


def test_a_later_round_starts_from_the_policy_and_is_measured_against_the_first_model(configure, tmp_path):
    later = later_round(configure("model.family=qwen3"), number=2, model="/m/model")
    assert (later.model.path, later.model.family, later.run.dir) == ("/m/model", "qwen3", f"{tmp_path}/run/round-2")
    assert later.training.reference.path == OPENED
    assert later.evaluation.label == "round-1" and later.evaluation.split == "dev"
    moving = later_round(configure("run.round_reference=moving"), number=2, model="/m/model")
    assert moving.training.reference is None
    assert (
        later_round(configure(), number=2, model="/m/model").model.family == "auto"
    )  # its template tells, as the first's


def test_annotators_stay_the_first_model(configure):
    own = "annotation.annotators=[{name: a, engine: vllm}, {name: b, engine: vllm, model: {path: other}}]"
    later = later_round(configure(own), number=2, model="/m/model")
    assert [one.model.path for one in later.annotation.annotators] == [OPENED, "other"]


def test_questions_of_a_later_round_may_be_others(configure):
    other = 'run.round_questions={2: [{name: fresh, path: "fresh.jsonl"}]}'
    config = configure(other)
    named = [[one.name for one in later_round(config, number=n, model="/m").questions.train] for n in (2, 3)]
    assert named == [["fresh"], ["miniworld"]]
    with pytest.raises(ValueError, match=r"round_questions names the rounds \[2\]; allowed are 2 to rounds=1"):
        configure(other, "run.rounds=1")
    with pytest.raises(ValueError, match="round_questions names no source for round 2; give one"):
        configure("run.round_questions={2: []}")
    with pytest.raises(ValueError, match=r"names \['a', 'a'\] for round 2: two sources share a name"):
        configure("run.round_questions={2: [{name: a, path: b.jsonl}, {name: a, path: c.jsonl}]}")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["questions.dev=[]"], "run.rounds=3 needs questions to choose by, and there is no questions.dev; give one"),
        (['questions.dev=[{name: m, path: "pkg://mralign.miniworld/data/questions/test.jsonl"}]'], "same records as"),
        (["questions.dev=[{name: t, path: t.csv, format: truthfulqa}]"], "no source of questions.dev has gold answers"),
        (["rollouts.engine=http"], "rollouts.engine=http) serves another model; give rollouts.engine=vllm"),
        (["rollouts.import_on=on.jsonl", "rollouts.import_off=off.jsonl"], "answers made elsewhere; leave one out"),
        (["training.push_to=me/mine"], "training.push_to=me/mine would get the last one"),
        (["run.dir=runs/round-2"], "run.dir=runs/round-2 has the name of a later round"),
        (["evaluation.methods=[think_off]"], "put think_on into evaluation.methods"),
        (["evaluation.trained_methods=[think_off]"], "put think_on into evaluation.trained_methods"),
    ],
)
def test_what_keeps_a_run_from_several_rounds_is_told_with_what_to_do(configure, overrides, said):
    with pytest.raises(Faults) as refused:
        check_rounds(configure(*overrides))
    assert said in str(refused.value)


def test_whole_rounds_only(configure):
    with pytest.raises(Faults, match=r"leave --until and --only out, or give run\.rounds=1"):
        check_rounds(configure(), until="rollouts")
    check_rounds(configure())


def test_rounds_go_on_while_dev_gains_and_the_last_that_gained_is_kept(configure, go, tmp_path):
    runner = Runner([20, 32, 33, 40])  # +12, then +1 of 40
    walked = go(configure(), runner)
    found = rounds_of(f"{tmp_path}/run")
    assert [(one.number, one.acc) for one in found.records] == [(0, 0.5), (1, 0.8), (2, 0.825)]
    first, second = found.records[1:]
    assert first.gain == pytest.approx(12 / DEV) and 0 < first.gain_low < 12 / DEV < first.gain_high
    assert second.gain == pytest.approx(1 / DEV) and second.gain_low == 0  # one question of 40
    assert found.ended.startswith("round 2 did not gain on dev (the lower end of the interval is +0.0")
    assert found.kept == 1
    assert walked.config.run.dir == f"{tmp_path}/run" and walked.config.evaluation.split == "test"
    assert "the result is the policy of round 1" in walked.text
    assert walked.text.endswith(f"the end of {tmp_path}/run")


def test_without_a_rule_all_rounds_are_done_and_figures_are_of_the_committed_tables(configure, go, tmp_path):
    go(configure("run.round_gain=null"), Runner([20, 30, 29, 36], negatives={1: 4, 2: 2, 3: 1}))
    found = rounds_of(f"{tmp_path}/run")
    assert found.ended == "all 3 rounds are done" and found.kept == 3
    first, second, third = found.records[1:]
    assert [(one.positives, one.negatives) for one in found.records[1:]] == [(5, 4), (5, 2), (5, 1)]
    assert first.answers_differ == pytest.approx(2 / 3) and second.answers_differ == third.answers_differ == 0
    assert first.changes == {}
    assert second.changes["all"] == pytest.approx([0.1, 0.05]) and second.changes["positive"] == [0, 0]
    assert third.gain == pytest.approx(7 / DEV) and third.mis == pytest.approx(4 / DEV)
    assert third.thought_tokens == 30


def test_a_round_without_examples_of_a_polarity_is_not_begun(configure, go, tmp_path):
    runner = Runner([10, 30, 39], negatives={2: 0})
    go(configure(), runner)
    found = rounds_of(f"{tmp_path}/run")
    assert found.ended == "round 2 would have no negative thoughts to train on"
    assert found.kept == 1 and len(found.records) == 2
    assert [name for number, name in runner.ran if number == 2] == ["questions", "rollouts", "candidates"]
    assert read_run(f"{tmp_path}/run").finished


def test_positives_are_enough_for_an_objective_that_uses_no_others(configure, go, tmp_path):
    go(configure("training.method=sft", "run.rounds=2"), Runner([10, 30, 39], negatives={2: 0}))
    assert rounds_of(f"{tmp_path}/run").ended == "all 2 rounds are done"


@pytest.mark.parametrize(
    "stop_at", [(1, "rollouts"), (1, "evaluation"), (2, "questions"), (2, "training"), (2, "evaluation")]
)
def test_killed_rounds_go_on_and_nothing_is_done_twice(configure, go, tmp_path, stop_at):
    right = [20, 32, 39]
    config = configure("run.rounds=2")
    first = Runner(right, stop_at=stop_at)
    with pytest.raises(KeyboardInterrupt):
        go(config, first)
    second = Runner(right)
    go(config, second)
    text = Path(f"{tmp_path}/run/rounds.json").read_text()
    ran = Counter(first.ran + second.ran)
    # The first round and the one that is kept are asked on dev and, at the end, on test.
    asked = {"responses_base", "responses", "evaluation_base", "evaluation"}
    assert all(count == (2 if name in asked else 1) for (_, name), count in ran.items())
    assert {number for number, _ in ran} == {1, 2}
    third = Runner(right)
    go(config, third)
    assert third.ran == [] and Path(f"{tmp_path}/run/rounds.json").read_text() == text
    assert json.loads(text)["kept"] == 2


def test_another_setting_makes_the_rounds_anew_from_where_it_counts(configure, go, tmp_path):
    right = [20, 32, 39]
    go(configure("run.rounds=2"), Runner(right))
    again = Runner(right)
    go(configure("run.rounds=2", "training.lambda_rejected=1.25"), again)
    assert {name for number, name in again.ran if number == 1} == {"training", "responses", "evaluation"}
    assert [one.number for one in rounds_of(f"{tmp_path}/run").records] == [0, 1, 2]


def test_the_reference_is_scored_anew_where_it_is_another_model(configure):
    moving = later_round(configure("run.round_reference=moving"), number=2, model=OPENED)

    def with_reference(model):
        return moving.model_copy(update={"training": moving.training.model_copy(update={"reference": model})})

    before, same = marks(moving), marks(with_reference(moving.model))
    assert same["reference"] == before["reference"] and same["training"] != before["training"]
    other = marks(with_reference(moving.model.model_copy(update={"path": "hub/other"})))
    assert other["reference"] != before["reference"] and other["training"] != same["training"]
    anew = {name for name in other if other[name] != same[name]}
    assert anew == {"reference", "training", "responses", "evaluation"}
    plain = with_reference(moving.model).training.model_copy(update={"method": "sft"})
    sft = moving.training.model_copy(update={"method": "sft"})
    sides = [marks(moving.model_copy(update={"training": one})) for one in (plain, sft)]
    assert sides[0] == sides[1]  # an objective without a reference


def test_status_tells_all_rounds(configure, go, tmp_path):
    config = configure("run.rounds=2")
    with pytest.raises(KeyboardInterrupt):
        go(config, Runner([20, 32, 39], stop_at=(2, "training")))
    state = read_run(f"{tmp_path}/run")
    assert not state.finished and len(state.later) == 1 and state.rounds.record(1).acc == 0.8
    said = told(state)
    assert f"round 2: {tmp_path}/run/round-2" in said and "rounds at most, reference fixed" in said
    assert f"mralign align --preset {tmp_path}/run/rounds.yaml" in said
    go(config, Runner([20, 32, 39]))
    state = read_run(f"{tmp_path}/run")
    assert state.finished and "the result is the policy of round 2" in told(state)
    found = as_json_object(state)
    assert found["finished"] and found["rounds"]["kept"] == 2 and found["later_rounds"][0]["finished"]


def test_the_dry_run_tells_each_round_and_its_cost(configure, tmp_path):
    text = describe_rounds(configure("run.round_reference=moving", "run.round_gain=0.01"))
    assert f"round 2, the same stages: {tmp_path}/run/round-2" in text
    assert f"round 3, the same stages: {tmp_path}/run/round-3" in text
    assert text.count("rollouts: 3,600 requests") == 2 and text.count("money: none") == 2
    assert "lies above 1 points" in text and "reference of later rounds: the policy that the round begins with" in text
    assert "the test questions (miniworld)" in text
    assert not (tmp_path / "run").exists()


def test_changes_by_hand():
    def matrices(P):
        return Matrices(("a", "b"), dict.fromkeys(("all", "positive", "negative"), P), {}, {})

    now, before = matrices(np.array([[0.2, 0.8], [0.5, 0.5]])), matrices(np.array([[0.6, 0.4], [0.5, 0.5]]))
    assert matrix_changes(now, before=before)["negative"] == pytest.approx([0.4, 0.2])
    with pytest.raises(ValueError, match="cannot be compared"):
        matrix_changes(now, before=Matrices(("a", "c"), {}, {}, {}))


@pytest.mark.parametrize(("least", "follows"), [(0.0, True), (0.03, False), (-1.0, True), (None, True)])
def test_the_rule_is_about_the_lower_end(configure, least, follows):
    record = RoundRecord(1, "m", 0.6, 0.3, 30.0, 40, gain=0.05, gain_low=0.02, gain_high=0.08)
    config = configure(f"run.round_gain={json.dumps(least)}")
    assert (loop.why_ended(config, record) == "") is follows
    cancelled = replace(record, gain_low=7e-19)  # of rounding alone
    assert (loop.why_ended(config, cancelled) == "") is (least in (-1.0, None))


def test_a_round_that_only_makes_up_for_the_one_before_is_not_kept(configure, go, tmp_path):
    """From round 2 to 3 it gains 10 of 40, and lies below round 1 all the same."""
    go(configure("run.round_gain=-1"), Runner([20, 32, 20, 30]))
    found = rounds_of(f"{tmp_path}/run")
    assert found.records[3].gain_low > 0 and found.records[3].acc < found.records[1].acc
    assert found.kept == 1 and found.ended == "all 3 rounds are done"


@pytest.mark.parametrize(("overrides", "numbers"), [(["run.rounds=2"], [0, 1, 2]), (["run.round_gain=0.2"], [0, 1])])
def test_rounds_that_other_settings_had_gone_on_to_are_not_kept(configure, go, tmp_path, overrides, numbers):
    right = [10, 12, 20, 40]
    go(configure("run.round_gain=null"), Runner(right))
    assert rounds_of(f"{tmp_path}/run").kept == 3
    fewer = Runner(right)
    go(configure("run.round_gain=null", *overrides), fewer)
    found = rounds_of(f"{tmp_path}/run")
    assert [one.number for one in found.records] == numbers and found.kept == numbers[-1]
    assert {name for _, name in fewer.ran} <= {"responses_base", "responses", "evaluation_base", "evaluation"}


def test_going_on_by_the_configuration_of_the_first_round_alone_is_told(configure, go, tmp_path, caplog):
    right = [20, 32, 39]
    with pytest.raises(KeyboardInterrupt):
        go(configure("run.rounds=2"), Runner(right, stop_at=(2, "training")))
    first = load(f"{tmp_path}/run/config.yaml", overrides=[], presets_dir=PRESETS)
    go(first, Runner(right))
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said.startswith(
        f"evaluation.split=dev: the test questions are not asked at the end, as {tmp_path}/run/rounds"
    )
