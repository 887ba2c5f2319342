"""A hub that nobody answers is knocked at once, and a model that cannot be had is told with all else that lacks."""

import os
import socket
import subprocess
import sys

import pytest

from mralign.config import load
from mralign.plan import model_hub, pipeline
from mralign.presets import PRESETS

KNOCK = (
    "import logging, sys\n"
    "logging.basicConfig(format='%(message)s')\n"
    "from huggingface_hub import constants\n"
    "from mralign.plan import model_hub\n"
    "model_hub.ask_cache_alone(sys.argv[1:])\n"
    "print(constants.HF_HUB_OFFLINE)\n"
)


def knock(port, *paths):
    own = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"}
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")} | own
    done = subprocess.run(
        [sys.executable, "-c", KNOCK, *paths], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.strip(), done.stderr.strip()


def test_a_hub_that_does_not_answer_is_not_asked_again():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert knock(port, "owner/name") == ("False", "")
    said = f"the hub (http://127.0.0.1:{port}) does not answer: owner/name is looked for in its cache alone"
    assert knock(port, "/a/directory", "owner/name", "owner/other") == ("True", said)
    assert knock(port, "/a/directory", "./owner/name") == ("False", "")  # no model is named as on the hub


def test_what_is_a_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "here").mkdir()
    assert model_hub.is_hub_name("owner/name")
    for path in ("owner/here", "./owner/name", "/owner/name", "name", "s3://owner/name", "a/b/c", "pkg://mralign/x"):
        assert not model_hub.is_hub_name(path)


def test_a_model_that_cannot_be_had_is_told_once_and_refused_before_a_run(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    settings = [f"run.dir={tmp_path}/run", "model.path=owner/name", "model.family=qwen3"]
    config = load("miniworld", overrides=settings, presets_dir=PRESETS)
    assert len(pipeline.lacking(config, pipeline.plan(config, dry_run=True))) == 1
    with pytest.raises(ValueError, match="model owner/name is no directory here and not in the hub's cache"):
        pipeline.plan(config)
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # its nodes may have it
    assert pipeline.lacking(config, pipeline.survey(config)) == []
