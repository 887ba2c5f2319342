"""What Ray is asked for, and when a cluster has no room for it: numbers without a cluster."""

import pytest

from mralign.config import Engine, parse
from mralign.plan.pipeline import stages
from mralign.run.placement import DEALING, Workers, actor_options, bundle, describe, pool_arguments
from mralign.serving.streaming import engine_pool, engine_workers
from mralign.serving.vllm import worker_environment
from mralign.training.stage import scaling

ENGINES = Workers("engines", "engine.gpus_per_replica", cpus=2, gpus=2, least=2, most=3)


def test_an_engine_split_over_two_gpus_asks_for_both_on_one_node():
    engine = Engine(tensor_parallel=2, gpus_per_replica=2, max_replicas=3)
    pool = engine_pool(engine)
    assert pool["num_gpus"] == 2
    assert "num_cpus" not in pool  # Ray Data reserves one by itself and warns where both are given
    assert (pool["compute"].min_size, pool["compute"].max_size) == (1, 3)
    assert "CUDA_VISIBLE_DEVICES" not in pool["runtime_env"]["env_vars"]  # Ray's to say
    assert bundle(engine_workers(engine)) == {"CPU": 1, "GPU": 2}


def test_an_engine_without_a_gpu_asks_for_cpus_and_sees_no_gpu():
    pool = engine_pool(Engine(cpus_per_replica=3))
    assert (pool["num_cpus"], "num_gpus" in pool) == (3, False)
    assert pool["runtime_env"]["env_vars"] == worker_environment(Engine())
    assert worker_environment(Engine())["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize("number", [0, 0.5, 1, 4])
def test_whole_gpus_and_a_part_of_one_are_taken(number):
    assert engine_pool(Engine(gpus_per_replica=number)).get("num_gpus", 0) == number


def test_one_gpu_and_a_half_are_refused_as_ray_would_refuse_them():
    with pytest.raises(ValueError, match=r"gpus_per_replica=1\.5 is neither a whole number nor a share below 1"):
        Engine(gpus_per_replica=1.5)


def test_arguments_of_one_worker():
    assert pool_arguments(ENGINES) == {"num_gpus": 2, "num_cpus": 2}
    assert actor_options(ENGINES) == {"num_gpus": 2, "num_cpus": 2}
    assert actor_options(DEALING) == {"num_gpus": None, "num_cpus": 1}
    assert describe([ENGINES, DEALING]) == "2 to 3 engines with 2 GPU each"


def test_ray_train_is_asked_for_a_bundle_a_worker():
    values = {"questions": {"train": [{"name": "a", "path": "a"}]}}
    gpu = scaling(parse(values | {"training": {"gpu": True, "workers": 4}}).training)
    assert (gpu.num_workers, gpu.use_gpu, gpu.resources_per_worker) == (4, True, {"CPU": 1, "GPU": 1})
    cpu = scaling(parse(values | {"training": {"workers": 3}}).training)
    assert (cpu.num_workers, cpu.use_gpu, cpu.resources_per_worker) == (3, False, {"CPU": 1})
    elastic = scaling(parse(values | {"training": {"workers": 3, "min_workers": 2}}).training)
    assert (elastic.min_workers, elastic.max_workers, elastic.elasticity_enabled) == (2, 3, True)
    assert not cpu.elasticity_enabled


def test_every_stage_that_serves_or_trains_says_what_it_takes():
    chat = {"engine": "vllm", "mode": {}}
    source = [{"name": "a", "path": "a"}]
    config = parse(
        {
            "questions": {"train": source, "test": [{"name": "t", "path": "t", "format": "truthfulqa"}]},
            "engine": {"gpus_per_replica": 1},
            "training": {"gpu": True, "workers": 2},
            "annotation": {
                "annotators": [chat | {"name": "a"}, chat | {"name": "b"}],
                "adjudicator": chat | {"name": "c", "serving": {"gpus_per_replica": 2}},
            },
            "evaluation": {"judge": chat | {"name": "j"}},
        }
    )
    gpus = {stage.name: sum(one.least * one.gpus for one in stage.workers(config)) for stage in stages(config)}
    assert {name: number for name, number in gpus.items() if number} == {
        "rollouts": 1,
        "annotation": 1 + 2,  # both annotators share an engine, the adjudicator has its own; all run together
        "reference": 1,
        "training": 2,
        "responses_base": 1,
        "responses": 1,
        "judgements_base": 1,
        "judgements": 1,
    }
