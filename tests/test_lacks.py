"""What later stages need is looked for before the first: models, packages, keys, all of it in one message."""

import re
import socket

import pytest

from mralign.cli import own_taxonomy
from mralign.config import load
from mralign.plan import pipeline, plan_text
from mralign.presets import PRESETS
from mralign.serving import lacks, vllm
from mralign.training import requirements

LABELLER = "{name: labeller, engine: vllm, model: {path: /nowhere/model}}"
ENDPOINT = "{name: far, engine: http, http: {base_url: 'https://far.example/v1', key_env: FAR_KEY, model: m}}"


def configured(tmp_path, *overrides):
    return load("miniworld", overrides=[f"run.dir={tmp_path}/run", *overrides], presets_dir=PRESETS)


def unexpected(*_, **__):
    pytest.fail("something was started")


def test_all_that_a_plan_refuses_is_told_at_once(tmp_path):
    config = configured(
        tmp_path,
        "model.path=/gone/model",
        f"annotation.adjudicator={LABELLER}",
        "evaluation.prompts={other: '{question}'}",
    )
    with pytest.raises(ValueError, match=r"^[23] things keep this run from starting:") as caught:
        pipeline.plan(config)
    lines = str(caught.value).splitlines()[1:]
    for said in ("'/gone/model' does not exist", "'/nowhere/model' does not exist", "evaluation.prompts names"):
        assert sum(said in line for line in lines) == 1, lines


def test_one_fault_is_told_as_before(tmp_path):
    with pytest.raises(ValueError, match=r"^model\.path='/gone/model' does not exist"):
        pipeline.plan(configured(tmp_path, "model.path=/gone/model"))


def test_packages_and_keys_of_later_stages_end_a_run_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("FAR_KEY", raising=False)
    monkeypatch.setattr(vllm, "find_spec", lambda name: None)
    config = configured(tmp_path, f"annotation.adjudicator={ENDPOINT}")
    planned = pipeline.plan(config, dry_run=True)
    told = plan_text.describe(config, planned)  # a dry run only tells: the run may be made on another machine
    wanted = (
        "rollouts: its engines are vLLM's, which is not installed",
        "the environment variable FAR_KEY",
    )
    assert all(f"lacking on this machine: {said}" in told for said in wanted[:1])
    with pytest.raises(ValueError, match="this machine lacks what later stages need") as caught:
        pipeline.run(config, planned, start_ray=unexpected)
    with pytest.raises(ValueError, match="things keep this run from starting") as refused:
        pipeline.plan(config)
    assert all(said in str(error.value) for said in wanted for error in (caught, refused))
    assert not (tmp_path / "run").exists()

    monkeypatch.setenv("FAR_KEY", "secret-of-the-test")
    monkeypatch.setattr(vllm, "find_spec", lambda name: object())
    assert pipeline.lacking(config, planned) == []


PACKAGES = [
    ("trackers=[wandb]", r"training: training\.trackers=\[wandb\] needs wandb, not installed here: pip install wandb"),
    ("tuning=qlora", r"training: training\.tuning=qlora needs bitsandbytes, not installed here"),
    ("attention=flash_attention_2", r"training: training\.attention=flash_attention_2 needs flash-attn, not inst"),
]


@pytest.mark.parametrize(("override", "message"), PACKAGES)
def test_packages_of_training_workers_are_looked_for_where_these_will_run(tmp_path, monkeypatch, override, message):
    real = requirements.find_spec
    absent = {"wandb", "bitsandbytes", "flash_attn", "vllm"}
    monkeypatch.setattr(requirements, "find_spec", lambda name: None if name in absent else real(name))
    config = configured(tmp_path, f"training.{override}")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ValueError, match=message):
        pipeline.plan(config)
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # its nodes are asked, not this machine
    monkeypatch.setattr(vllm, "find_spec", lambda name: None)
    assert pipeline.lacking(config, pipeline.survey(config)) == []


def test_nothing_is_told_twice_of_engines_with_gpus(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(vllm, "find_spec", lambda name: None)
    config = configured(tmp_path, "engine.gpus_per_replica=1")
    told = plan_text.describe(config, pipeline.plan(config, dry_run=True))
    assert told.count("vLLM's, which is not installed") == 1


@pytest.mark.parametrize(
    ("url", "key_env", "cluster", "wanted"),
    [
        ("https://far.example/v1", "FAR_KEY", "", True),
        ("https://far.example/v1", "", "", False),  # said to want none
        ("http://10.0.0.7:8000/v1", "FAR_KEY", "", False),  # a server of one's own
        ("https://127.0.0.1:8000/v1", "FAR_KEY", "", False),
        ("https://far.example/v1", "FAR_KEY", "10.0.0.1:6379", False),  # the nodes may have it
    ],
)
def test_a_key_is_looked_for_where_one_must_be(monkeypatch, tmp_path, url, key_env, cluster, wanted):
    monkeypatch.delenv("FAR_KEY", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    http = configured(tmp_path, f"http.base_url={url}", f"http.key_env='{key_env}'").http
    assert any("FAR_KEY" in said for said in lacks.endpoint_lacks(http, setting="http")) is wanted


def test_a_server_of_this_machine_that_nobody_runs_is_told(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        config = configured(tmp_path, f"http.base_url=http://127.0.0.1:{port}/v1", "rollouts.engine=http")
        assert lacks.endpoint_lacks(config.http, setting="http") == []
    said = f"http.base_url=http://127.0.0.1:{port}/v1: nobody listens on port {port} of this machine; start"
    with pytest.raises(ValueError, match=re.escape(said)):
        pipeline.plan(config)


@pytest.mark.parametrize("fault", ["model", "package", "key"])
def test_the_labeller_of_a_taxonomy_is_looked_for_before_the_rollouts(tmp_path, monkeypatch, fault):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("FAR_KEY", raising=False)
    mine = "{name: labeller, engine: vllm}"
    labeller = {"model": LABELLER, "package": mine, "key": ENDPOINT}[fault]
    said = {"model": "'/nowhere/model' does not exist", "package": "its engines are vL", "key": "FAR_KEY"}
    if fault == "package":
        monkeypatch.setattr(vllm, "find_spec", lambda name: None)
    monkeypatch.setattr("mralign.annotation.discovery_stage.check_embedding", lambda settings: None)
    monkeypatch.setattr("mralign.annotation.discovery_stage.check_installed", lambda: None)
    monkeypatch.setattr(own_taxonomy.pipeline, "run", unexpected)
    settings = [f"run.dir={tmp_path}/run", f"discovery.labeller={labeller}"]
    with pytest.raises(ValueError, match=said[fault]):
        own_taxonomy.taxonomy(settings)
