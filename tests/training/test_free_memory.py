"""What a training process may still take, from files as the kernel writes them and from what other ranks say."""

import math

import psutil
import pytest
import torch
from tiny_policy import settings

from mralign.config import parse
from mralign.training import free_memory
from mralign.training.free_memory import free_of_container, free_of_machine, room_bytes

GIB = 2**30


def group(root, *, limit, used, unused, version=2):
    """A control group of so many bytes below `root`."""
    names = ("memory.max", "memory.current", "memory.stat")
    inactive = "inactive_file"
    if version == 1:
        root = root / "memory"
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
        inactive = "total_inactive_file"
    root.mkdir(exist_ok=True)
    stat = f"anon 1\n{inactive} {unused}\nactive_file 3\n"
    for name, text in zip(names, (f"{limit}\n", f"{used}\n", stat), strict=True):
        (root / name).write_text(text)


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_leaves_its_limit_less_what_cannot_be_dropped(tmp_path, version):
    group(tmp_path, limit=8000, used=5000, unused=700, version=version)
    assert free_of_container(tmp_path) == free_of_machine(tmp_path) == 3700


def test_without_a_limit_the_machine_decides(tmp_path):
    assert free_of_container(tmp_path) == math.inf
    group(tmp_path, limit="max", used=5000, unused=700)
    assert free_of_container(tmp_path) == math.inf
    assert 0 < free_of_machine(tmp_path) <= psutil.virtual_memory().total


def test_neighbours_share_and_the_least_room_decides(monkeypatch):
    monkeypatch.setattr(free_memory, "free_of_machine", lambda: 30.0 * GIB)
    said = []

    def gathered(value):
        said.append(value)
        return [value] * 3 if isinstance(value, str) else [value, 7.0 * GIB, 40.0 * GIB]

    monkeypatch.setattr(free_memory, "all_gather", gathered)
    assert room_bytes(settings(memory="auto")) == 7 * GIB
    assert said[-1] == 10 * GIB  # three workers on one machine


def test_a_given_size_counts_what_the_process_holds(monkeypatch):
    monkeypatch.setattr(free_memory, "free_of_machine", lambda: 30.0 * GIB)
    held = psutil.Process().memory_info().rss
    room = room_bytes(settings(memory="20GiB"))
    assert room == pytest.approx(20 * GIB - held, abs=2**26)
    assert room_bytes(settings(memory="900 GiB")) == 30 * GIB  # there is no more
    assert room_bytes(settings(memory="1.5MiB")) < 0


def test_on_a_gpu_its_driver_is_asked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (60 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 17 * GIB)
    assert room_bytes(settings(gpu=True, memory="auto")) == 60 * GIB
    assert room_bytes(settings(gpu=True, memory="26GiB")) == 9 * GIB


def test_no_memory_at_all_is_refused_before_anything_runs():
    with pytest.raises(
        ValueError, match=r"memory: '0\.0MiB' is no size: give a number above 0 with GiB or MiB, as 26GiB, or auto"
    ):
        parse({"questions": {"test": [{"name": "a", "path": "a.jsonl"}]}, "training": {"memory": "0.0MiB"}})
