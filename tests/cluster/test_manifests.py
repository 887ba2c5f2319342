"""The Kubernetes manifest against what it must agree with: the presets, the pinned Ray, and KubeRay's own schema."""

from __future__ import annotations

import copy
import re
import shlex
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema
import pytest
import yaml

from mralign.config import RunConfig, load

ROOT = Path(__file__).resolve().parents[2]
CRD = ROOT.parent / "shared" / "data" / "kuberay" / "ray.io_rayjobs.yaml"


@pytest.fixture
def manifest() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster/kuberay/rayjob.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    if not CRD.is_file():
        pytest.skip(f"KubeRay's schema is not at hand: no file {CRD.name} in {CRD.parent}")
    crd = yaml.load(CRD.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    version = next(v for v in crd["spec"]["versions"] if v["name"] == "v1")
    return jsonschema.Draft202012Validator(closed(version["schema"]["openAPIV3Schema"]))


def closed(schema: Any) -> Any:
    """The schema with unknown keys forbidden in every object that lists its properties."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {
        key: {name: closed(inner) for name, inner in value.items()} if key == "properties" else closed(value)
        for key, value in schema.items()
    }
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    return result


def entrypoint_config(manifest: dict[str, Any]) -> RunConfig:
    """The configuration that the entrypoint's preset and overrides resolve to."""
    python, script, *arguments = shlex.split(manifest["spec"]["entrypoint"])
    assert python == "python"
    assert (ROOT / script).is_file()
    option, preset, *overrides = arguments
    assert option == "--preset"
    return load(preset, overrides=overrides, presets_dir=ROOT / "mralign" / "presets")


def pod_specs(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = manifest["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]]


def test_entrypoint_resolves_to_a_run_on_storage_that_every_pod_mounts(manifest: dict[str, Any]) -> None:
    run_dir = PurePosixPath(entrypoint_config(manifest).run.dir)
    for pod in pod_specs(manifest):
        shared = {volume["name"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume}
        mounts = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] in shared]
        assert any(run_dir.is_relative_to(mount["mountPath"]) for mount in mounts)


def test_a_mistyped_override_in_the_entrypoint_is_noticed(manifest: dict[str, Any]) -> None:
    manifest["spec"]["entrypoint"] += " training.epoch=1"
    with pytest.raises(ValueError, match="did you mean 'epochs'"):
        entrypoint_config(manifest)


def test_cluster_runs_the_pinned_ray(manifest: dict[str, Any]) -> None:
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "requirements-cpu.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None
    assert manifest["spec"]["rayClusterSpec"]["rayVersion"] == pinned[1]


def test_workers_autoscale_from_zero_and_tokens_are_on(manifest: dict[str, Any]) -> None:
    cluster = manifest["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["authOptions"]["mode"] == "token"
    assert all(0 == group["minReplicas"] < group["maxReplicas"] for group in cluster["workerGroupSpecs"])


def test_manifest_fits_kuberays_schema(manifest: dict[str, Any], validator: jsonschema.Draft202012Validator) -> None:
    assert [f"{e.json_path}: {e.message}" for e in validator.iter_errors(manifest)] == []


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (("spec",), "entryPoint", "python"),
        (("spec", "rayClusterSpec", "autoscalerOptions"), "version", "v3"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0), "maxReplicas", "many"),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0), "volumeMount", []),
    ],
)
def test_the_schema_check_notices_mistakes(
    manifest: dict[str, Any],
    validator: jsonschema.Draft202012Validator,
    path: tuple[str | int, ...],
    key: str,
    value: object,
) -> None:
    wrong = copy.deepcopy(manifest)
    node: Any = wrong
    for step in path:
        node = node[step]
    node[key] = value
    assert [list(e.absolute_path)[: len(path)] for e in validator.iter_errors(wrong)] == [list(path)]
