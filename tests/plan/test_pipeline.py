"""The plan of a run: what depends on what, what is skipped, what is refused before anything starts."""

import importlib.util
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from sealed_runs import seal

from mralign.cli.progress_lines import ProgressLines
from mralign.config import load, resolve_path
from mralign.plan import pipeline, plan_text
from mralign.rows.schema import QUESTIONS
from mralign.run import local_ray
from mralign.run.events import listening
from mralign.run.part_names import part_name
from mralign.run.rejects import Reject, to_table
from mralign.run.stage import Outcome, Stage
from mralign.run.store import StageDir

PRESETS = Path(__file__).parents[2] / "mralign" / "presets"
MODEL = Path(resolve_path("pkg://mralign.miniworld/data/model"))
ROAD = (
    *("questions", "rollouts", "candidates", "annotation", "counts", "matrices", "weights", "signal"),
    *("annotator_matrices", "agreement", "examples", "reference", "training"),
    *("responses_base", "evaluation_base", "responses", "evaluation"),
)
JUDGED = {"responses", "evaluation"}
AFTER_ROLLOUTS = {*ROAD[2:13], *JUDGED}
AGAIN = ("thoughts", "thoughts_annotation", "thoughts_counts", "thoughts_matrices")
COMPARED = {"annotator_matrices", "agreement"}
ROWS = pa.schema({"row_id": pa.string()})


@pytest.fixture
def miniworld(tmp_path):
    """The embedded preset in a run directory of its own; the values that tests count with are set here."""
    values = [
        f"run.dir={tmp_path}/run",
        "run.reject_limit=0.2",
        "rollouts.n=3",
        "rollouts.decoding.max_tokens=200",
        "evaluation.draws=3",
        "evaluation.reannotate=0",
        "evaluation.decoding.max_tokens=200",
    ]

    def configure(*overrides):
        return load("miniworld", overrides=[*values, *overrides], presets_dir=PRESETS)

    return configure


@pytest.fixture
def model(tmp_path):
    """A copy of the mini model that a test may change."""
    return Path(shutil.copytree(MODEL, tmp_path / "model"))


def marks(config):
    return {item.stage.name: item.out.fingerprint for item in pipeline.survey(config)}


def changed(before, after):
    return {name for name in before if before[name] != after[name]}


def test_a_finished_stage_with_a_damaged_part_is_made_anew_and_the_plan_says_which(miniworld):
    config = miniworld()
    item = pipeline.find(pipeline.survey(config), "questions")
    for name in ("train-00", "test-00"):
        item.out.commit(part_name(name), QUESTIONS.empty_table(), schema=QUESTIONS)
    seal(item, rows=0, figures={})
    assert pipeline.find(pipeline.plan(config), "questions").manifest is not None
    Path(item.out.path(part_name("test-00"))).unlink()
    planned = pipeline.plan(config)
    found = pipeline.find(planned, "questions")
    assert found.manifest is None and found.damaged == (part_name("test-00"),)
    (line,) = pipeline.runs_anew(planned)
    assert line.startswith("questions was finished, but part-test-00.parquet in ") and "is made anew" in line
    assert line in plan_text.describe(config, planned)
    assert item.out.manifest() is not None  # looking changes nothing


def test_the_plan_has_every_stage_in_order_and_writes_nothing(miniworld, tmp_path):
    planned = pipeline.plan(miniworld())
    assert tuple(item.stage.name for item in planned) == ROAD
    assert all(item.manifest is None for item in planned)
    assert all(item.out.uri == f"{tmp_path}/run/{item.stage.name}/{item.out.fingerprint}" for item in planned)
    assert not (tmp_path / "run").exists()
    for place, item in enumerate(planned):  # everything a stage stands on comes before it
        assert set(item.upstream) <= set(ROAD[:place])


def test_stages_that_were_never_there_are_not_asked_for_one_by_one(miniworld, bucket):
    config = miniworld("run.dir=s3://bucket/run")
    planned = pipeline.plan(config)
    with pipeline.writing(config, planned) as held:
        assert pipeline.runs_anew(held) == []
    asked = [key or query["prefix"] for _, key, query in bucket.calls]
    assert not [place for place in asked if any(place.startswith(f"run/{name}") for name in ROAD)]
    assert 0 < len(asked) < len(ROAD)


def test_what_another_process_has_made_since_is_seen(miniworld, bucket):
    config = miniworld("run.dir=s3://bucket/run")
    item = pipeline.find(pipeline.plan(config), "questions")
    item.out.commit(part_name("train-00"), QUESTIONS.empty_table(), schema=QUESTIONS)
    seal(item, rows=0, figures={})

    def believe_there_is_none():
        item.out.recalled.forget("s3://bucket/run")
        item.out.recalled.keep_missing(["s3://bucket/run/questions"])
        assert StageDir(item.out.uri).manifest() is None and StageDir(item.out.uri).sizes() == {}

    believe_there_is_none()
    assert pipeline.find(pipeline.plan(config), "questions").manifest is not None
    assert StageDir(item.out.uri).manifest() is not None  # whoever reads later asks again
    believe_there_is_none()
    with pipeline.writing(config, [replace(item, manifest=None)]) as planned:
        assert pipeline.find(planned, "questions").manifest is not None
        believe_there_is_none()
    assert StageDir(item.out.uri).manifest() is not None  # others may write there again


@pytest.mark.parametrize(
    ("override", "dependent"),
    [
        ("weights.anchor=opposite", {"weights", "signal", "training", *JUDGED}),
        ("transitions.prior=0.27", {"matrices", "weights", "signal", *COMPARED, "training", *JUDGED}),
        ("transitions.labels=single", {"counts", "matrices", "weights", "signal", *COMPARED, "training", *JUDGED}),
        ("training.learning_rate=1.7e-3", {"training", *JUDGED}),
        ("training.epochs=11", {"reference", "training", *JUDGED}),
        ("evaluation.draws=7", {"responses_base", "evaluation_base", *JUDGED}),
        ("evaluation.methods=[think_on]", {"responses_base", "evaluation_base", "evaluation"}),
        ("evaluation.match=contains", {"evaluation_base", "evaluation"}),
        ("evaluation.match=paper", {"evaluation_base", "evaluation"}),
        ("evaluation.level=0.9", {"evaluation_base", "evaluation"}),
        ("candidates.match=contains", AFTER_ROLLOUTS),
        ("candidates.match=paper", AFTER_ROLLOUTS),
        ("rollouts.n=7", {"rollouts", *AFTER_ROLLOUTS}),
        ("run.seed=17", set(ROAD) - {"questions"}),
        ("examples.max_length=101", {"examples", "reference", "training", *JUDGED}),
        ("annotation.threshold=6.5", AFTER_ROLLOUTS - {"candidates"}),
        ("questions.test=[{name: miniworld, path: 'pkg://mralign.miniworld/data/questions/dev.jsonl'}]", set(ROAD)),
        ("run.reject_limit=0.93", set()),
        ("run.local_cpus=3", set()),
        ("engine.batch_size=7", set()),
        ("training.checkpoint_every=17", set()),
        ("training.workers=3", set()),
        ("training.micro_batch_tokens=99", set()),
        ("training.lambda_rejected=2.5", {"training", *JUDGED}),
        ("training.kl_every=2", {"reference", "training", *JUDGED}),
        ("training.kl_pairs=2", {"reference", "training", *JUDGED}),
        ("training.lora={r: 3}", {"training", *JUDGED}),
        ("training.rope_length=99", {"reference", "training", *JUDGED}),
        ("transitions.em=sharded", set()),
        ("transitions.bootstrap=7", {"counts", "matrices", "weights", "training", *JUDGED}),
        ("engine.max_model_len=200", set(ROAD) - {"questions"}),
        ("http.request={temperature: 0.3}", set()),  # no endpoint is asked
        ("evaluation.decoding={temperature: 0.3}", {"responses_base", "evaluation_base", *JUDGED}),
        ("evaluation.trained_methods=[think_off]", JUDGED),
    ],
)
def test_a_setting_changes_the_stages_that_depend_on_it_and_no_other(miniworld, override, dependent):
    assert changed(marks(miniworld()), marks(miniworld(override))) == dependent


@pytest.mark.parametrize("override", ["http.request={temperature: 0.3}", "http.vllm_extras=false", "http.model=other"])
def test_what_an_endpoint_is_asked_counts_for_the_rollouts(miniworld, override):
    before = marks(miniworld("rollouts.engine=http"))
    assert changed(before, marks(miniworld("rollouts.engine=http", override))) == {"rollouts", *AFTER_ROLLOUTS}
    assert changed(before, marks(miniworld("rollouts.engine=http", "http.timeout_s=3", "http.concurrency=2"))) == set()


def test_the_run_directory_and_the_place_of_the_model_do_not_matter(miniworld, model, tmp_path):
    assert marks(miniworld(f"run.dir={tmp_path}/elsewhere", f"model.path={model}")) == marks(miniworld())


def test_one_byte_of_the_model_changes_all_that_stands_on_it(miniworld, model):
    config = miniworld(f"model.path={model}")
    before = marks(config)
    text = (model / "generation_config.json").read_text()
    (model / "generation_config.json").write_text(text.replace('"temperature": 1.0', '"temperature": 1.1'))
    assert marks(config) == before  # how others should sample is nothing to us
    with (model / "config.json").open("a") as stream:
        stream.write(" ")
    assert changed(before, marks(config)) == set(ROAD) - {"questions"}


def test_the_book_of_each_annotator_matters(miniworld, tmp_path):
    package = "pkg://mralign.annotation/rule_books"
    books = [shutil.copy(resolve_path(f"{package}/{n}.yaml"), tmp_path) for n in ("first", "second")]
    twins = ", ".join(f"{{name: twin {place}, rule_book: {book}}}" for place, book in enumerate(books))
    config = miniworld(f"annotation.annotators=[{twins}]")
    for book in books:
        before = marks(config)
        Path(book).write_text(Path(book).read_text() + "\n# another book\n")
        assert changed(before, marks(config)) == AFTER_ROLLOUTS - {"candidates"}


@pytest.mark.parametrize(
    ("overrides", "left_out"),
    [
        (["training.method=kto"], {"counts", "matrices", "weights", "signal"}),
        (["training.method=sft"], {"counts", "matrices", "weights", "signal", "reference"}),
        (["training.method=apo_zero"], {"counts", "matrices", "weights", "signal"}),
        (["questions.test=[]", "questions.dev=[]"], {"responses_base", "evaluation_base", *JUDGED}),
    ],
)
def test_a_run_has_only_the_stages_it_uses(miniworld, overrides, left_out):
    planned = pipeline.plan(miniworld(*overrides))
    assert [item.stage.name for item in planned] == [name for name in ROAD if name not in left_out]
    assert not any(left_out & set(item.upstream) for item in planned)
    assert pipeline.find(planned, "training").stage.name == "training"
    assert pipeline.find(planned, left_out.pop()) is None


def test_thoughts_are_labelled_anew_where_it_is_asked_for(miniworld):
    names = [item.stage.name for item in pipeline.plan(miniworld("evaluation.reannotate=9"))]
    sides = [[f"{name}{side}" for name in AGAIN] for side in ("_base", "")]
    assert names == [*ROAD, *sides[0], *sides[1]]
    before, after = (marks(miniworld(f"evaluation.reannotate={n}")) for n in (9, 10))
    assert changed(before, after) == {*sides[0], *sides[1]}


def test_a_run_without_training_questions_evaluates_its_model_and_no_more(miniworld):
    config = miniworld("questions.train=[]", "evaluation.trained_methods=[self_refine]")
    assert [item.stage.name for item in pipeline.plan(config)] == ["questions", "responses_base", "evaluation_base"]
    assert not config.trains
    assert miniworld().trains


def test_snippets_and_judges_are_stages_where_they_are_needed(miniworld, tmp_path):
    (tmp_path / "corpus.jsonl").write_text('{"text": "a"}\n')
    found = ["evaluation.retrieval.engine=bm25", f"evaluation.retrieval.corpus={tmp_path}/corpus.jsonl"]
    config = miniworld(*found, "evaluation.trained_methods=[think_on, think_on_ret]")
    assert [item.stage.name for item in pipeline.plan(config)] == [*ROAD[:13], "evidence", *ROAD[13:]]
    (tmp_path / "t.csv").write_text("Question,Best Answer,Correct Answers,Incorrect Answers\nQ?,No,No,Yes\n")
    judged = f"questions.test=[{{name: t, format: truthfulqa, path: {tmp_path}/t.csv}}]"
    judge = "evaluation.judge={name: j, engine: vllm}"
    assert [item.stage.name for item in pipeline.plan(miniworld(judged, judge))] == [
        *ROAD[:13],
        *("responses_base", "judgements_base", "evaluation_base", "responses", "judgements", "evaluation"),
    ]
    with pytest.raises(ValueError, match="scored by judges, and there is no judge"):
        pipeline.plan(miniworld(judged))


OTHER_TEST = "questions.test=[{name: miniworld, path: 'pkg://mralign.miniworld/data/questions/dev.jsonl'}]"
EVALUATED = {"responses_base", "evaluation_base", *JUDGED}


def seal_questions(config, **content):
    """As if the questions were read, and the splits held what `content` says."""
    item = pipeline.survey(config)[0]
    assert item.stage.name == "questions"
    seal(item, rows=3, figures={"train": 1, "dev": 1, "test": 1, "content": content})


@pytest.mark.parametrize(
    ("content", "dependent"),
    [
        ({"train": "a", "dev": "b", "test": "other"}, EVALUATED),  # another test source alone
        ({"train": "other", "dev": "b", "test": "c"}, {*ROAD[1:13], *JUDGED}),
        ({"train": "other", "dev": "b", "test": "other"}, set(ROAD[1:])),  # it held a train question, so that one left
        ({"train": "a", "dev": "other", "test": "c"}, set()),  # the split that is not evaluated
    ],
)
def test_what_stands_on_a_split_depends_on_its_rows_alone(miniworld, content, dependent):
    config, other = miniworld(), miniworld(OTHER_TEST)
    seal_questions(config, train="a", dev="b", test="c")
    seal_questions(other, **content)
    assert changed(marks(config), marks(other)) == {"questions", *dependent}


def test_fingerprints_that_wait_for_the_questions_are_not_yet_settled(miniworld):
    config, other = miniworld(), miniworld(OTHER_TEST, "training.learning_rate=0.5")
    assert [item.stage.name for item in pipeline.plan(config) if item.settled] == ["questions"]
    seal_questions(config, train="a", dev="b", test="c")
    for item in pipeline.plan(config)[1:]:
        assert item.settled
        seal(item, rows=1, figures={})
    told = pipeline.runs_anew(pipeline.plan(other))
    assert told[1].startswith("training runs anew: training.learning_rate")
    assert told[2] == (
        f"run anew only if the questions that they read are others than before: "
        f"{', '.join(name for name in ROAD[1:] if name != 'training')}"
    )


def test_a_result_that_does_not_say_what_it_holds_counts_by_its_fingerprint(miniworld):
    config = miniworld()
    before = marks(config)
    seal(pipeline.survey(config)[0], rows=3, figures={"train": 1, "dev": 1, "test": 1})  # of an older version
    assert marks(config) == before
    assert all(item.settled for item in pipeline.plan(config))


def test_methods_share_what_they_have_in_common(miniworld):
    full, kto, sft = (marks(miniworld(f"training.method={method}")) for method in ("mralign", "kto", "sft"))
    assert changed(kto, full) == changed(sft, kto) == changed(sft, full) == {"training", *JUDGED}


def test_until_ends_the_plan_and_must_be_a_stage(miniworld):
    planned = pipeline.plan(miniworld(), until="candidates")
    assert [item.stage.name for item in planned] == ["questions", "rollouts", "candidates"]
    with pytest.raises(ValueError, match=r"--until 'candidate' is no stage of this run; allowed are \['questions', "):
        pipeline.plan(miniworld(), until="candidate")
    with pytest.raises(ValueError, match="--until 'weights' is no stage"):
        pipeline.plan(miniworld("training.method=kto"), until="weights")


def test_only_leaves_a_stage_and_what_it_stands_on(miniworld):
    def names(*overrides, only):
        return [item.stage.name for item in pipeline.plan(miniworld(*overrides), only=only)]

    assert names(only="questions") == ["questions"]
    assert names(only="agreement") == [*ROAD[:4], "annotator_matrices", "agreement"]
    assert names("training.method=kto", only="agreement") == names(only="agreement")
    assert names(only="weights") == [*ROAD[:4], "counts", "matrices", "weights"]
    assert names(only="signal") == [*ROAD[:4], "signal"]
    assert names(only="evaluation_base") == ["questions", "responses_base", "evaluation_base"]
    whole = marks(miniworld())
    for item in pipeline.plan(miniworld(), only="agreement"):  # the same directories as in the whole run
        assert item.out.fingerprint == whole[item.stage.name]


def test_only_must_be_a_stage_and_goes_without_until(miniworld):
    with pytest.raises(ValueError, match=r"--only 'agreements' is no stage of this run; allowed are \['questions', "):
        pipeline.plan(miniworld(), only="agreements")
    with pytest.raises(ValueError, match="--until weights and --only agreement exclude each other"):
        pipeline.plan(miniworld(), until="weights", only="agreement")


def test_only_what_is_chosen_is_checked_and_a_survey_checks_nothing(miniworld):
    config = miniworld("questions.test=[]", "questions.dev=[]", "annotation.human=gone.csv")
    assert pipeline.plan(config, only="candidates")
    with pytest.raises(ValueError, match=r"annotation\.human: gone\.csv does not exist"):
        pipeline.plan(config, only="agreement")
    assert [item.stage.name for item in pipeline.survey(config)][8:11] == ["human_labels", *ROAD[8:10]]


def test_a_human_is_one_more_stage_on_which_only_the_agreement_stands(miniworld, tmp_path):
    (tmp_path / "human.csv").write_text("row_id,first_segment,last_segment,labels\nr,0,0,framing\n")
    config = miniworld(f"annotation.human={tmp_path}/human.csv")
    before = marks(config)
    assert [name for name in before if name != "human_labels"] == list(ROAD)
    assert {name for name, mark in marks(miniworld()).items() if mark != before[name]} == COMPARED
    assert [item.stage.name for item in pipeline.plan(config, only="agreement")][4:] == [
        *("human_labels", "annotator_matrices", "agreement")
    ]
    (tmp_path / "human.csv").write_text("row_id,first_segment,last_segment,labels\nr,0,0,analogy\n")
    assert changed(before, marks(config)) == {"human_labels", *COMPARED}


def test_the_description_of_a_fresh_run(miniworld, tmp_path):
    config = miniworld()
    planned = pipeline.plan(config)
    lines = plan_text.describe(config, planned).splitlines()
    assert lines[0] == f"run directory: {tmp_path}/run"
    marks_shown = [planned[0].out.fingerprint] + 16 * ["-"]  # the others are known when the questions are
    assert [line.split() for line in lines[2:19]] == [
        [item.stage.name, mark, "run"] for item, mark in zip(planned, marks_shown, strict=True)
    ]
    assert lines[19] == "  -: its directory is named when the questions are known"
    text = "\n".join(lines[21:])
    assert lines[21].startswith("questions: train miniworld 600; dev miniworld 160; test miniworld 240 (records in the")
    assert "model: pkg://mralign.miniworld/data/model, 520.96 k parameters, 2.0 MiB of weights in float32" in lines
    assert f"{(MODEL / 'model.safetensors').stat().st_size / 2**20:,.1f} MiB of weights" in text
    # 600 questions x 2 modes x 3 draws, x 200 tokens
    assert "rollouts: 3,600 requests, about 130.9 thousand tokens (at most 720.0 thousand)" in text
    assert "assumed: an answer takes 71 tokens with thinking, 2 without, as in a run of the preset miniworld" in text
    assert "money: none; what is left asks no paid endpoint" in lines


def test_the_description_of_a_run_that_stopped_and_of_a_finished_one(miniworld):
    config = miniworld()
    planned = pipeline.plan(config)
    seal(planned[0], rows=35, figures={"train": 10, "dev": 5, "test": 20})
    planned[1].out.commit(part_name("a"), pa.table({"row_id": ["x"]}), schema=ROWS)
    lines = plan_text.describe(config, pipeline.plan(config)).splitlines()
    assert lines[2].endswith("skip: done, 35 rows in 3 s")
    assert lines[3].endswith("run: goes on from 1 committed parts")
    assert lines[4].endswith("  run")
    text = "\n".join(lines)
    assert "questions: train 10, dev 5, test 20" in lines
    assert "rollouts: 60 requests, about 2.2 thousand tokens (at most 12.0 thousand)" in text
    assert "responses_base: 120 requests, " in text  # 20 questions x 2 methods x 3 draws
    assert "responses: 60 requests, " in text
    assert "time: 3 s spent on finished stages; " in text
    for item in planned[1:]:
        seal(item, rows=7, figures={})
    lines = plan_text.describe(config, pipeline.plan(config)).splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines[3:19]] == ["skip: done, 7 rows in 3 s"] * 16
    assert "time: 51 s spent on finished stages; nothing is left to do" in lines
    assert not any(line.startswith(("questions:", "model:", "tokens", "money:")) for line in lines)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "questions.train=[{name: a, path: gone.jsonl}]",
            r"questions\.train, source 'a': .*gone\.jsonl' does not exist",
        ),
        ("questions.train=[{name: a, path: 'pkg://gone/a.jsonl'}]", "no package 'gone' is installed"),
        ("questions.test=[]", r"evaluation\.split='test' has no questions; give questions\.test"),
        ("questions.test=[{name: lf, path: LONGFACT, format: longfact}]", "by judges, and there is no extractor"),
        ("model.path=./gone", r"model\.path='\./gone' does not exist"),
        ("annotation.adjudicator={name: a, rule_book: gone.yaml}", r"annotation file: gone\.yaml does not exist"),
        ("annotation.taxonomy=gone.yaml", r"annotation file: gone\.yaml does not exist"),
        ("training.method=dpo", r"training\.method='dpo' is no objective; allowed are \['apo_zero', 'kto', 'mralign'"),
    ],
)
def test_what_is_missing_is_refused_before_anything_starts(miniworld, tmp_path, override, message):
    (tmp_path / "longfact-concepts_x.jsonl").write_text('{"prompt": "What?"}\n')
    override = override.replace("LONGFACT", str(tmp_path))
    with pytest.raises(ValueError, match=message):
        pipeline.plan(miniworld(*(override.split() if override.startswith("training.") else [override])))
    assert not (tmp_path / "run").exists()


def test_every_question_file_that_is_missing_is_named_at_once(miniworld):
    gone = ["questions.train=[{name: a, path: a.jsonl}, {name: b, path: b.jsonl}]"]
    with pytest.raises(ValueError, match=r"(?s)train, source 'a': .*a\.jsonl.*train, source 'b': .*test, source 'c'"):
        pipeline.plan(miniworld(*gone, "questions.test=[{name: c, path: c.jsonl}]"))


def test_a_dry_run_warns_of_what_only_a_gpu_node_needs_and_says_what_it_asks_for(miniworld):
    config = miniworld("engine.gpus_per_replica=1", "training.gpu=true", "training.kernels=liger", "training.workers=3")
    pipeline.plan(config)  # what a node with a GPU has is seen there, not here
    lines = plan_text.describe(config, pipeline.plan(config, dry_run=True)).splitlines()
    assert "GPUs: rollouts takes 1 vLLM engines with 1 GPU each" in lines
    assert "GPUs: training takes 3 training workers with 1 GPU each" in lines
    elastic = miniworld("training.gpu=true", "training.workers=3", "training.min_workers=2")
    assert "training takes 2 to 3 training workers with 1 GPU each" in plan_text.describe(
        elastic, pipeline.plan(elastic, dry_run=True)
    )
    warnings = [line for line in lines if line.startswith("warning: ")]
    assert any("reference, training: training.kernels=liger needs liger-kernel" in line for line in warnings)
    assert any("torch" in line and "finds no CUDA device" in line for line in warnings)
    assert any("vLLM" in line and "rollouts, responses_base, responses: " in line for line in warnings)


def test_a_dry_run_warns_of_missing_extras_and_still_refuses_what_is_wrong(miniworld, monkeypatch):
    missing = {"wandb", "bm25s", "datasets"}
    real = importlib.util.find_spec
    fake = lambda name, *more: None if name in missing else real(name, *more)  # noqa: E731
    places = ("mralign.training.requirements.find_spec", "mralign.retrieval.bm25.find_spec", "importlib.util.find_spec")
    for place in places:
        monkeypatch.setattr(place, fake)
    extras = ["training.trackers=[wandb]", "questions.train=[{name: a, path: 'hub://owner/name'}]"]
    config = miniworld(*extras)
    with pytest.raises(ValueError, match="needs the library `datasets`"):
        pipeline.plan(config)
    text = plan_text.describe(config, pipeline.plan(config, dry_run=True))
    assert "warning: questions: questions.train, source 'a': hub://owner/name needs the library `datasets`" in text
    assert "lacking on this machine: training: training.trackers=[wandb] needs wandb, not installed here" in text
    with pytest.raises(ValueError, match=r"gone\.jsonl"):
        pipeline.plan(miniworld(*extras, "questions.test=[{name: b, path: gone.jsonl}]"), dry_run=True)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("chat_template.jinja", None, "has no chat template"),
        ("config.json", None, r"has no config\.json"),
        ("chat_template.jinja", "{{ messages[0].content }}", "how .*/model switches thinking is not known"),
    ],
)
def test_a_model_that_cannot_serve_is_refused(miniworld, model, file, content, message):
    config = miniworld(f"model.path={model}")
    pipeline.plan(config)
    (model / file).unlink()
    if content:
        (model / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        pipeline.plan(config)


def test_imported_rollouts_need_their_files_and_a_family(miniworld, model, tmp_path):
    (model / "chat_template.jinja").write_text("{{ messages[0].content }}")
    rows = tmp_path / "on.jsonl"
    rows.write_text('{"id": 1, "question": "q", "answer": "a", "response": "a"}\n')
    given = [f"model.path={model}", f"rollouts.import_on={rows}"]
    with pytest.raises(ValueError, match=r"model\.family=prompted"):
        pipeline.plan(miniworld(*given, f"rollouts.import_off={rows}"), until="rollouts")
    given.append("model.family=prompted")
    with pytest.raises(ValueError, match=r"file of imported rollouts: .*gone\.jsonl' does not exist"):
        pipeline.plan(miniworld(*given, f"rollouts.import_off={tmp_path}/gone.jsonl"), until="rollouts")
    planned = pipeline.plan(miniworld(*given, f"rollouts.import_off={rows}"), until="rollouts")
    assert set(planned[1].inputs) == {"on", "off", "model"}


def writer(name, *, calls, upstream=(), rows=10, rejected=0):
    """A stage of `rows` rows, of which it puts `rejected` aside; every run is noted in `calls`."""

    def run(context):
        calls.append(name)
        bad = to_table(Reject(f"r{n}", "odd" if n else "long") for n in range(rejected))
        kept = pa.table({"row_id": [f"{name}{n}" for n in range(rejected, rows)]})
        context.out.commit(part_name("0"), kept, schema=ROWS, rejects=bad)
        return Outcome(
            rows, rows - rejected, {"seen": sum(o.read(schema=ROWS).num_rows for o in context.upstream.values())}
        )

    return Stage(name=name, run=run, reads=("run.seed",), upstream=upstream)


def go(config, monkeypatch, *road):
    """Plan and run `road`; return how often Ray was started."""
    starts = []
    monkeypatch.setattr(pipeline, "stages", lambda config: road)
    pipeline.run(config, pipeline.plan(config), start_ray=lambda: starts.append(1))
    return len(starts)


def test_a_sealed_stage_is_skipped_and_ray_is_started_only_for_work(miniworld, monkeypatch):
    calls, config = [], miniworld()
    road = (writer("a", calls=calls, rows=4), writer("b", calls=calls, upstream=("a",)))
    assert go(config, monkeypatch, *road) == 1
    assert calls == ["a", "b"]
    assert go(config, monkeypatch, *road) == 0
    assert calls == ["a", "b"]
    third = writer("c", calls=calls, upstream=("a", "b"), rows=3)
    assert go(config, monkeypatch, *road, third) == 1
    assert calls == ["a", "b", "c"]
    manifest = pipeline.plan(config)[2].manifest
    assert (manifest.stage, manifest.rows_in, manifest.rows_out, manifest.rejects) == ("c", 3, 3, {})
    assert manifest.figures == {"seen": 14}
    assert set(manifest.upstream) == {"a", "b"}
    assert manifest.versions["mralign"] == pipeline.__version__
    assert go(miniworld("run.seed=1"), monkeypatch, *road, third) == 1
    assert calls == ["a", "b", "c"] * 2


@pytest.mark.parametrize(
    ("own", "room", "expected"),
    [(True, 4.0, ["b begins", "a", "b"]), (True, 0.0, ["a", "b"]), (False, 4.0, ["a", "b"])],
)
def test_what_takes_long_to_start_is_started_while_a_stage_without_workers_runs(
    miniworld, monkeypatch, own, room, expected
):
    calls = []
    monkeypatch.setattr(local_ray, "is_own", lambda: own)
    monkeypatch.setattr(pipeline, "alive_nodes", lambda: [{"CPU": room}])
    later = replace(writer("b", calls=calls, upstream=("a",)), begin_early=lambda config: calls.append("b begins"))
    last = replace(writer("c", calls=[]), begin_early=lambda config: calls.append("c begins"))
    go(miniworld(), monkeypatch, writer("a", calls=calls), later)
    assert calls == expected
    go(miniworld(), monkeypatch, writer("a", calls=calls), later, last)  # nothing of it is waited for: it begins itself
    assert calls == expected


def test_a_stage_whose_portion_stayed_the_same_is_skipped_when_that_is_known(miniworld, monkeypatch, caplog):
    calls = []

    def run(context):
        calls.append("questions")
        context.out.commit(part_name("0"), pa.table({"row_id": ["q"]}), schema=ROWS)
        return Outcome(1, 1, {"content": {"train": "same", "test": str(context.config.evaluation.draws)}})

    def reader(name, split):
        stage = writer(name, calls=calls, upstream=("questions",))
        return replace(stage, portions=lambda config: {"questions": split})

    first = Stage(name="questions", run=run, reads=("evaluation.draws",))
    follower = writer("follower", calls=calls, upstream=("trains",))
    road = (first, reader("trains", "train"), follower, reader("tests", "test"))
    go(miniworld(), monkeypatch, *road)
    assert calls == ["questions", "trains", "follower", "tests"]
    said = []
    with listening(ProgressLines(said.append)), caplog.at_level(logging.INFO, logger="mralign"):
        go(miniworld("evaluation.draws=5"), monkeypatch, *road)
    assert calls[4:] == ["questions", "tests"]
    told = [line for line in caplog.messages if "anew" in line or "other results" in line]
    assert [line.split(":")[0] for line in told] == [
        *("questions runs anew", "run anew only if the questions that they read are others than before"),
        "so do the stages that stand on other results than before",
    ]
    assert told[1].endswith("before: trains, follower, tests")
    assert told[2].endswith("before: tests")
    assert "[2/4] trains: done before (10 rows), skipped" in said
    assert "[3/4] follower: done before (10 rows), skipped" in said
    ended = pipeline.plan(miniworld("evaluation.draws=5"))
    assert all(item.manifest is not None for item in ended)


def test_an_interrupted_stage_goes_on_from_its_parts(miniworld, monkeypatch):
    calls, config = [], miniworld()

    def run(context):
        calls.append(context.out.parts())
        context.out.commit(part_name(str(len(calls))), pa.table({"row_id": [str(len(calls))]}), schema=ROWS)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return Outcome(2, 2)

    road = (writer("a", calls=[]), Stage(name="b", run=run))
    with pytest.raises(KeyboardInterrupt):
        go(config, monkeypatch, *road)
    assert [item.manifest is None for item in pipeline.plan(config)] == [False, True]
    said = []
    with listening(ProgressLines(said.append)):
        go(config, monkeypatch, *road)
    assert calls == [[], ["part-1.parquet"]]
    assert said[:2] == ["[1/2] a: done before (10 rows), skipped", "[2/2] b: goes on from 1 committed parts"]
    assert said[2].startswith("[2/2] b: 2 rows in, 2 out, ")
    assert pipeline.plan(config)[1].out.read(schema=ROWS).num_rows == 2


def test_a_stage_with_too_many_rejects_fails_and_is_not_sealed(miniworld, monkeypatch):
    calls = []
    road = (writer("a", calls=calls, rejected=3), writer("b", calls=calls, upstream=("a",)))
    with pytest.raises(ValueError, match=r"stage a: 3 of 10 .*30\.0%.*20\.0%.*'odd': 2, 'long': 1.*/rejects") as error:
        go(miniworld(), monkeypatch, *road)
    (planned, _) = pipeline.plan(miniworld())
    assert planned.out.path("rejects") in str(error.value)
    assert planned.manifest is None
    assert calls == ["a"]
    go(miniworld("run.reject_limit=0.3"), monkeypatch, *road)  # what was rejected stays rejected, the user allows it
    assert pipeline.plan(miniworld())[0].manifest.rejects == {"odd": 2, "long": 1}


def asker(*turns):
    """A stage of ten rows; each run commits rejects of the next of `turns`, a reason and a detail for each reject."""
    left = list(turns)

    def run(context):
        rejects = [Reject(f"r{n}", reason, detail) for n, (reason, detail) in enumerate(left.pop(0))]
        kept = pa.table({"row_id": [f"a{n}" for n in range(len(rejects), 10)]})
        context.out.commit(part_name("0"), kept, schema=ROWS, rejects=to_table(rejects))
        return Outcome(10, kept.num_rows)

    return Stage(name="a", run=run, reads=())


def test_a_stage_with_rows_that_may_still_be_answered_is_not_sealed(miniworld, monkeypatch):
    lost = [("timeout", "30 s"), ("server_error", "HTTP 503: busy"), ("server_error", "HTTP 502: gone"), ("odd", "x")]
    stage = asker(lost, [("odd", "x")])
    with pytest.raises(ValueError, match=r"stage a: 3 of 10 rows have no answer yet") as error:
        go(miniworld(), monkeypatch, stage)
    for part in (
        "{'server_error': 2, 'timeout': 1}",
        "HTTP 502: gone",
        "only these rows are asked",
        "run.lost_limit=0.3",
    ):
        assert part in str(error.value)
    assert pipeline.plan(miniworld())[0].manifest is None
    go(miniworld(), monkeypatch, stage)
    assert pipeline.plan(miniworld())[0].manifest.rejects == {"odd": 1}


def test_losses_that_the_user_allows_are_sealed(miniworld, monkeypatch):
    stage = asker(*[[("server_error", "HTTP 500"), ("http_400", "HTTP 400")]] * 2)
    with pytest.raises(ValueError, match=r"2 of 10 rows .*run\.lost_limit=0\.2 .*now 0\.19"):
        go(miniworld("run.lost_limit=0.19"), monkeypatch, stage)
    go(miniworld("run.lost_limit=0.2"), monkeypatch, stage)
    assert pipeline.plan(miniworld())[0].manifest.rejects == {"server_error": 1, "http_400": 1}


def test_a_share_at_the_limit_passes_and_a_funnel_has_none(miniworld, monkeypatch):
    go(miniworld(), monkeypatch, writer("a", calls=[], rejected=2), writer("candidates", calls=[], rejected=9))
    assert [sum(item.manifest.rejects.values()) for item in pipeline.plan(miniworld())] == [2, 9]


def test_another_configuration_in_the_same_directory_is_told_what_runs_anew_and_why(miniworld):
    config = miniworld("training.learning_rate=1e-3")
    assert pipeline.runs_anew(pipeline.plan(config)) == []  # nothing is finished
    for item in pipeline.plan(config):
        seal(item, rows=1, figures={"train": 1, "dev": 1, "test": 1})
    assert pipeline.runs_anew(pipeline.plan(config)) == []
    other = miniworld("training.learning_rate=2e-3", "training.workers=1")
    kept = f"the old result stays in training/{marks(config)['training']}"
    assert pipeline.runs_anew(pipeline.plan(other)) == [
        f"training runs anew: training.learning_rate 0.001 -> 0.002; {kept}",
        "so do the stages that stand on other results than before: responses, evaluation",
    ]
    assert pipeline.runs_anew(pipeline.plan(other))[0] in plan_text.describe(other, pipeline.plan(other))
    assert "runs anew" not in plan_text.describe(config, pipeline.plan(config))


def test_a_run_that_starts_says_what_runs_anew(miniworld, monkeypatch, caplog):
    road = (writer("a", calls=[]), writer("b", calls=[], upstream=("a",)))
    go(miniworld(), monkeypatch, *road)
    with caplog.at_level(logging.INFO, logger="mralign"):
        go(miniworld("run.seed=5"), monkeypatch, *road)
    old = marks(miniworld())
    assert f"a runs anew: run.seed 0 -> 5; the old result stays in a/{old['a']}" in caplog.messages
    assert f"b runs anew: run.seed 0 -> 5; the old result stays in b/{old['b']}" in caplog.messages


def test_a_rule_book_with_labels_outside_the_taxonomy_is_refused(miniworld, tmp_path):
    (tmp_path / "small.yaml").write_text("labels: [{label: framing, macro: m}]")
    with pytest.raises(
        ValueError, match=r"rule book .*first\.yaml uses labels .*'analogy'.* allowed are \['framing'\]"
    ):
        pipeline.plan(miniworld(f"annotation.taxonomy={tmp_path / 'small.yaml'}"))
