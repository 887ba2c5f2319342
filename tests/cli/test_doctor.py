"""`mralign doctor`: what a machine has, told without values of keys; `mralign version`."""

import json
import socket
import tomllib
from pathlib import Path

import psutil
from command_line import ran

import mralign
from mralign.cli import doctor

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_extra_of_the_project_says_what_it_is_for():
    assert set(doctor.EXTRAS) == set(PROJECT["optional-dependencies"])


def test_an_extra_lacks_the_packages_that_are_not_installed():
    wanted = ["torch", 'vllm==0.32.*; extra == "gpu"', 'liger-kernel>=0.8; extra == "gpu"', 'datasets; extra == "hub"']
    there = {"datasets", "vllm"}
    assert doctor.missing_extras(wanted, installed=there.__contains__) == {"gpu": ["liger-kernel"]}


def test_the_findings_are_those_of_this_machine_and_hold_no_key(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-the-test")
    monkeypatch.setenv("MY_OWN_KEY", "another-secret")
    monkeypatch.delenv("SERPER_API_KEY", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    preset = tmp_path / "own.yaml"
    preset.write_text("questions: {test: [{name: q, path: q}]}\nhttp: {base_url: 'http://h/v1', key_env: MY_OWN_KEY}\n")
    status, said, errors = ran(capsys, "doctor", "--json", "--preset", str(preset))
    assert status == 0
    assert "secret" not in said + errors
    found = json.loads(said)
    keys = found["keys_set"]
    assert (keys["OPENAI_API_KEY"], keys["MY_OWN_KEY"], keys["SERPER_API_KEY"]) == (True, True, False)
    assert found["hub_offline"] is True
    assert found["versions"]["mralign"] == mralign.__version__
    assert found["versions"]["pydantic"].startswith("2.")
    assert abs(found["machine"]["memory_gib"] - psutil.virtual_memory().total / 2**30) < 0.1
    assert found["gpus"]["fault"] is None


def test_a_port_that_is_taken_is_told(monkeypatch):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        monkeypatch.setattr(doctor, "PORTS", {port: "a port of the test"})
        found = doctor.findings()
        assert found["ports"] == {str(port): False}
        assert f"{port}   taken   a port of the test" in doctor.told(found)
    assert doctor.findings()["ports"] == {str(port): True}


def test_the_text_has_a_block_for_each_topic(capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "0")
    monkeypatch.setenv("WANDB_API_KEY", "secret-of-the-test")
    status, said, _ = ran(capsys, "doctor")
    assert status == 0
    titles = [line for line in said.splitlines() if line and not line.startswith(" ")]
    assert [title.split()[0] for title in titles] == ["versions", "extras", "this", "ports", "keys", "hub"]
    assert "WANDB_API_KEY" in said and "secret" not in said
    assert "may be asked" in said


def test_a_gpu_is_told_with_its_memory():
    here = dict.fromkeys(("system", "cores", "memory_gib", "memory_free_gib", "shared_memory_gib"), 1)
    here |= {"shared_memory_free_gib": 1, "disk_free_gib": 1}
    seen = {"devices": [{"name": "H100", "memory_gib": 79.6}], "cuda": "13.0", "fault": None}
    rows = dict(doctor._machine_rows(here, gpus=seen))
    assert (rows["GPUs"], rows["CUDA of torch"]) == ("H100, 79.6 GiB", "13.0")
    broken = {"devices": [], "cuda": None, "fault": "RuntimeError: no driver"}
    assert dict(doctor._machine_rows(here, gpus=broken))["GPUs"] == "RuntimeError: no driver"


def test_the_version(capsys):
    assert ran(capsys, "version")[:2] == (0, f"mralign {mralign.__version__}\n")
