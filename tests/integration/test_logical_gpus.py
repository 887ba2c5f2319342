"""Every stage that can use a GPU, on a local Ray with two GPUs in Ray's sense and none in this machine.

vLLM's CPU build serves. What is tested is what Ray is asked for, what a worker finds in its environment, and that the
GPUs are free again for the next stage of the same driver.
"""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tiny_chat import save_chat_model
from tiny_policy import commit_examples, save_model

from mralign.annotation.stage import ANNOTATION_STAGE
from mralign.asking.chats import open_chats
from mralign.config import Embedding, load, parse
from mralign.plan import pipeline
from mralign.rows.schema import ANNOTATIONS, CANDIDATES, GENERATIONS
from mralign.run.held import holding
from mralign.run.node_rehearsal import rehearse
from mralign.run.part_names import part_name
from mralign.run.placement import NodeFault, Workers
from mralign.run.stage import Context
from mralign.run.store import StageDir
from mralign.serving.conversation import ChatReply, ChatRequest, Message
from mralign.serving.embedding import embed_where_it_fits
from mralign.training.stage import REFERENCE_STAGE, objective, scaling, training_stage

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PRESETS = Path(__file__).parents[2] / "mralign" / "presets"
WORLD = "pkg://mralign.miniworld/data/questions"
GPUS = 2


@pytest.fixture(scope="module")
def two_gpus():
    import ray

    directory = tempfile.mkdtemp(prefix="mralign-ray-", dir="/tmp")  # Ray's sockets need a short path
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("HF_HUB_OFFLINE", "1")
        # As the actors find no GPU, they run the engine in their own process: half the time of a start.
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # else every part of a model wants a NUMA node
        ray.init(
            address="local",
            num_cpus=6,
            num_gpus=GPUS,
            object_store_memory=100 * 2**20,
            include_dashboard=False,
            _temp_dir=directory,
            logging_level=logging.ERROR,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([str(PRESETS.parents[1]), *os.sys.path])}},
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield
        ray.shutdown()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    return save_chat_model(tmp_path_factory.mktemp("chat"))


@contextlib.contextmanager
def watched():
    """Look at the GPUs while the block runs, and wait until all are free after it; yields the numbers held."""
    import ray

    seen, over = [], threading.Event()

    def look():
        while not over.wait(0.2):
            seen.append(GPUS - ray.available_resources().get("GPU", 0.0))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()
    end = time.monotonic() + 60
    while ray.available_resources().get("GPU", 0.0) < GPUS:
        assert time.monotonic() < end, "the GPUs of a finished stage are not free again"
        time.sleep(0.2)


def world(tmp_path, *overrides):
    first = f"{{name: a, path: '{WORLD}/train.jsonl', limit: 5}}"
    second = f"{{name: b, path: '{WORLD}/dev.jsonl', limit: 5}}"
    values = [
        f"run.dir={tmp_path}/run",
        f"questions.train=[{first}, {second}]",
        "questions.dev=[]",
        f"questions.test=[{{name: c, path: '{WORLD}/test.jsonl', limit: 4}}]",
        "engine.gpus_per_replica=1",
        "engine.batch_size=4",
        "rollouts.n=2",
        "evaluation.draws=1",
    ]
    return load("miniworld", overrides=[*values, *overrides], presets_dir=PRESETS)


def run(config, **until):
    """Plan and run as the job does; the finished stages by name."""
    planned = pipeline.plan(config, **until)
    planned = pipeline.run(config, planned, start_ray=lambda: None)
    return {item.stage.name: item.out for item in planned}


@pytest.mark.usefixtures("two_gpus")
def test_rollouts_by_a_pool_between_two_bounds_and_no_part_holds_rows_of_another(tmp_path):
    with watched() as held:
        out = run(world(tmp_path, "engine.max_replicas=2"), until="rollouts")["rollouts"]
    assert max(held) >= 1
    names = out.parts()
    by_source = {"train-00": "a", "train-01": "b"}
    assert {name.split("-", 1)[1][:8] for name in names} == set(by_source)
    rows = {name: out.read_parts([name], schema=GENERATIONS).to_pylist() for name in names}
    assert sum(map(len, rows.values())) == 10 * 2 * 2  # questions x modes x draws
    for name, found in rows.items():
        assert {row["dataset"] for row in found} == {by_source[name.split("-", 1)[1][:8]]}
    again = run(world(tmp_path, "engine.max_replicas=2"), until="rollouts")["rollouts"]
    assert again.parts() == names


@pytest.mark.long
@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("least", [1, 2])
def test_two_engines_hold_a_gpu_each(tmp_path, least):
    source = f"questions.train=[{{name: a, path: '{WORLD}/train.jsonl', limit: 100}}]"
    pool = [f"engine.min_replicas={least}", "engine.max_replicas=2", "engine.max_num_seqs=4", "engine.batch_size=4"]
    config = world(tmp_path, source, *pool, "rollouts.n=8")
    with watched() as held:
        out = run(config, until="rollouts")["rollouts"]
    assert max(held) == 2
    assert sum(out.rows(part) for part in out.parts()) == 100 * 2 * 8


@pytest.mark.long
@pytest.mark.usefixtures("two_gpus")
def test_an_engine_split_over_two_gpus_serves(tmp_path):
    """vLLM's CPU build splits a model as well: two worker processes of one engine in one actor."""
    config = world(tmp_path, "engine.gpus_per_replica=2", "engine.tensor_parallel=2")
    with watched() as held:
        out = run(config, until="rollouts")["rollouts"]
    assert max(held) == 2
    assert sum(out.rows(part) for part in out.parts()) == 10 * 2 * 2
    assert out.read_rejects().num_rows == 0


@pytest.mark.long
@pytest.mark.usefixtures("two_gpus")
def test_responses_by_a_fixed_pool(tmp_path):
    config = world(tmp_path, "questions.train=[]", "evaluation.methods=[think_on]")
    with watched() as held:
        out = run(config, until="responses_base")["responses_base"]
    assert max(held) == 1
    assert sum(out.rows(part) for part in out.parts()) == 4
    assert out.read_rejects().num_rows == 0


def annotation_config(tmp_path, chat_model, **serving):
    model = {"path": chat_model, "dtype": "float32", "family": "prompted"}
    engine = {"gpus_per_replica": 1, "max_model_len": 16384, "max_num_seqs": 8, "batch_size": 2} | serving
    said = {"engine": "vllm", "mode": {}, "model": model, "serving": engine, "decoding": {"max_tokens": 24}}
    return parse(
        {
            "run": {"dir": str(tmp_path / "run"), "reject_limit": 1},
            "model": model,
            "questions": {"train": [{"name": "d", "path": "d"}], "test": [{"name": "d", "path": "d"}]},
            "annotation": {
                "annotators": [said | {"name": "Ann"}, said | {"name": "Ben"}],
                "adjudicator": said | {"name": "Jo"},
            },
        }
    )


@pytest.mark.usefixtures("two_gpus")
def test_annotation_by_an_engine_that_three_annotators_share(tmp_path, chat_model):
    source = commit_candidates(tmp_path)
    out = StageDir(str(tmp_path / "annotation"), stage="annotation", fingerprint="a")
    config = annotation_config(tmp_path, chat_model)
    with watched() as held:
        ANNOTATION_STAGE.run(Context(config, out, {"candidates": source}))
    assert max(held) == 1
    kept = out.read(schema=ANNOTATIONS).column("row_id").to_pylist()
    rejects = out.read_rejects().to_pylist()
    # It knows no language: its replies are cut at 24 tokens, and each trajectory is put aside for just that.
    assert not kept
    assert sorted(row["row_id"] for row in rejects) == ["a/0/on/0", "a/1/on/0", "a/2/on/0", "b/0/on/0", "b/1/on/0"]
    assert {row["reason"] for row in rejects}.isdisjoint({"engine_error", "prompt_too_long"})
    assert all(row["raw"] for row in rejects), rejects
    owners = {name: set(out.read_rejects([name]).column("row_id").to_pylist()) for name in out.parts()}
    assert all(len({row_id[0] for row_id in ids}) == 1 and name[5] in next(iter(ids)) for name, ids in owners.items())


def commit_candidates(tmp_path):
    """Three candidates of one data set and two of another."""
    source = StageDir(str(tmp_path / "candidates"), stage="candidates", fingerprint="c")
    for dataset, count in (("a", 3), ("b", 2)):
        rows = [candidate(dataset, number) for number in range(count)]
        source.commit(part_name(dataset), pa.Table.from_pylist(rows, schema=CANDIDATES), schema=CANDIDATES)
    return source


def candidate(dataset, number):
    text = "one\n\ntwo\n\nthree</think>x"
    return {
        "row_id": f"{dataset}/{number}/on/0",
        "question_id": f"{dataset}/{number}",
        "dataset": dataset,
        "question": f"What is {number}0?",
        "answers": ["x"],
        "polarity": 1,
        "text": text,
        "segment_start": [0, 5, 10],
        "segment_end": [3, 8, 15],
    }


@pytest.mark.long
@pytest.mark.usefixtures("two_gpus")
def test_three_stages_in_one_driver_each_have_an_engine_split_over_both_gpus(tmp_path, chat_model):
    """The engine of the first is kept until the second, with another model, needs its GPUs; the third starts anew."""
    split = ["engine.gpus_per_replica=2", "engine.tensor_parallel=2"]
    annotating = annotation_config(tmp_path, chat_model, gpus_per_replica=2, tensor_parallel=2)
    out = StageDir(str(tmp_path / "annotation"), stage="annotation", fingerprint="a")
    annotation = pipeline.Planned(ANNOTATION_STAGE, out, {"candidates": commit_candidates(tmp_path)}, {}, {}, None)
    evaluating = world(tmp_path, *split, "questions.train=[]", "evaluation.methods=[think_on]")
    with watched() as held, holding():
        sampled = run(world(tmp_path, *split), until="rollouts")["rollouts"]
        pipeline.run(annotating, [annotation], start_ray=lambda: None)
        answered = run(evaluating, until="responses_base")["responses_base"]
    assert sum(sampled.rows(part) for part in sampled.parts()) == 10 * 2 * 2
    assert len(out.read_rejects().to_pylist()) == 5  # it knows no language
    assert sum(answered.rows(part) for part in answered.parts()) == 4
    assert max(held) == 2
    assert no_group_is_left()


def no_group_is_left():
    """Whether all placement groups of this driver are given back."""
    from ray.util import placement_group_table

    return all(group["state"] == "REMOVED" for group in placement_group_table().values())


@pytest.mark.long
@pytest.mark.usefixtures("two_gpus")
def test_judges_share_one_engine_in_an_actor_with_a_gpu(tmp_path, chat_model):
    config = annotation_config(tmp_path, chat_model)
    judge, verifier = (config.annotation.adjudicator.model_copy(update={"name": name}) for name in ("J", "V"))
    request = ChatRequest("k", (Message("user", "Is water wet?"),))

    async def ask():
        async with open_chats({"judge": judge, "verifier": verifier}, config=config) as chats:
            return [await chat.reply(request) for chat in chats.values()]

    with watched() as held:
        replies = asyncio.run(ask())
    assert max(held) == 1
    assert all(isinstance(reply, ChatReply) and reply.completion_tokens == 24 for reply in replies), replies


@pytest.mark.usefixtures("two_gpus")
def test_embeddings_are_computed_where_a_gpu_is(chat_model):
    texts = ["recall a fact", "draw an analogy"]
    before = dict(os.environ)
    with watched() as held:
        found = embed_where_it_fits(texts, settings=Embedding(path=chat_model, gpu=True, max_model_len=64))
    assert max(held) == 1
    assert dict(os.environ) == before  # a driver that hid its GPUs could start no Ray that has some
    np.testing.assert_allclose(found, [last_state(chat_model, text) for text in texts], atol=1e-4)


def last_state(path, text):
    """The oracle: the last token's hidden state of unit length, by transformers alone."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(path)(text, return_tensors="pt")
    with torch.no_grad():
        state = AutoModel.from_pretrained(path, dtype=torch.float32)(**tokens).last_hidden_state[0, -1].numpy()
    return state / np.linalg.norm(state)


def seen_by_a_worker(given):
    """What a training worker finds before its first CUDA call."""
    import ray
    import ray.train

    place = ray.train.get_context()
    environment = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "RANK", "LOCAL_RANK")}
    row = {"rank": place.get_world_rank(), "gpus": ray.get_gpu_ids(), **environment}
    Path(given["out"], f"{row['rank']}.json").write_text(json.dumps(row))


@pytest.mark.usefixtures("two_gpus")
def test_training_workers_get_a_gpu_each_and_know_which(tmp_path):
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    training = parse(
        {"questions": {"train": [{"name": "a", "path": "a"}]}, "training": {"gpu": True, "workers": 2}}
    ).training
    with watched() as held:
        TorchTrainer(
            seen_by_a_worker,
            train_loop_config={"out": str(tmp_path)},
            torch_config=TorchConfig(backend="gloo"),  # nccl is the first CUDA call
            scaling_config=scaling(training),
            run_config=ray.train.RunConfig(name="r", storage_path=str(tmp_path / "store")),
        ).fit()
    assert max(held) == 2
    rows = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert sorted(gpu for row in rows for gpu in row["gpus"]) == [0, 1]
    assert {tuple(sorted(row["CUDA_VISIBLE_DEVICES"].split(","))) for row in rows} == {("0", "1")}


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("name", ["reference", "training"])
def test_training_without_cuda_is_refused_in_a_sentence_before_it_starts(tmp_path, name):
    save_model(tmp_path / "model")
    examples, weights = commit_examples(tmp_path)
    config = parse(
        {
            "run": {"dir": str(tmp_path)},
            "model": {"path": str(tmp_path / "model"), "dtype": "float32"},
            "questions": {"train": [{"name": "a", "path": "a"}]},
            "engine": {"max_model_len": 128},
            "training": {"gpu": True, "workers": 2, "dtype": "float32"},
        }
    )
    stage = REFERENCE_STAGE if name == "reference" else training_stage(objective(config))
    out = StageDir(f"{tmp_path}/{name}/0", stage=name, fingerprint="0")
    item = pipeline.Planned(stage, out, {"examples": examples, "weights": weights}, {}, {}, None)
    stage.check(config)
    with pytest.raises(ValueError, match=f"stage {name}, on the node .* torch .* finds no CUDA device") as refused:
        pipeline.run(config, [item], start_ray=lambda: None)
    assert "\n" not in str(refused.value)
    assert not out.exists()


@pytest.mark.usefixtures("two_gpus")
def test_a_ray_of_this_machine_alone_refuses_what_it_can_never_place(tmp_path):
    overrides = ["engine.gpus_per_replica=4", "engine.tensor_parallel=4"]
    config = world(tmp_path, *overrides)
    with pytest.raises(ValueError, match=r"stage rollouts: vLLM engines take 4 GPU each .* largest node has 2"):
        run(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("two_gpus")
def test_workers_without_a_gpu_are_asked_in_a_cluster_and_not_on_a_ray_of_this_machine(monkeypatch):
    given = {"faults": lambda config: [NodeFault(f"{config} is missing")], "config": "wandb"}
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert rehearse("training", [Workers("workers", "training.workers")], **given)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(ValueError, match=r"stage training, on the node where it would run: wandb is missing"):
        rehearse("training", [Workers("workers", "training.workers")], **given)
    assert not rehearse("training", [Workers("workers", "training.workers", cpus=999)], **given)  # once it has grown
