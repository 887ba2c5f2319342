"""The Kubernetes manifests against what they must agree with: the presets, the pinned Ray, kustomize itself where it is
at hand, and KubeRay's own schemas where they are at hand."""

from __future__ import annotations

import copy
import re
import shlex
import shutil
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema
import pytest
import yaml
from kustomized import apply, assembled, kustomizations

from mralign.config import RunConfig, load

ROOT = Path(__file__).resolve().parents[2]
KUBERAY = ROOT / "cluster" / "kuberay"
SCHEMAS = ROOT.parent / "shared" / "data" / "kuberay"
MADE = {path.relative_to(KUBERAY).as_posix(): path for path in kustomizations(KUBERAY)}
JOBS = [name for name in MADE if name.startswith("overlays/")]
RAY = [*JOBS, "standing"]
GPU = [name for name in RAY if name != "overlays/cpu"]


def ray_object(name: str) -> dict[str, Any]:
    (found,) = [one for one in assembled(MADE[name]) if one["kind"] in ("RayJob", "RayCluster")]
    return found


def cluster_of(one: dict[str, Any]) -> dict[str, Any]:
    return one["spec"]["rayClusterSpec"] if one["kind"] == "RayJob" else one["spec"]


def groups_of(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The groups of a cluster by name, the head as `head`."""
    return {"head": cluster["headGroupSpec"]} | {group["groupName"]: group for group in cluster["workerGroupSpecs"]}


def pods_of(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: group["template"]["spec"] for name, group in groups_of(cluster).items()}


def entrypoint_config(one: dict[str, Any]) -> RunConfig:
    """The configuration that the entrypoint's preset and overrides resolve to. A preset under /etc/mralign is that of
    the ConfigMap which every pod of the head mounts there."""
    command, job, option, preset, *overrides = shlex.split(one["spec"]["entrypoint"])
    assert (command, job, option) == ("mralign", "align", "--preset")
    if preset.startswith("/etc/mralign/"):
        preset = str(KUBERAY / "overlays" / "gpu" / Path(preset).name)
    return load(preset, overrides=overrides, presets_dir=ROOT / "mralign" / "presets")


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl, which holds kustomize, is not at hand")
@pytest.mark.parametrize("name", MADE)
def test_kustomize_makes_the_same_of_it(name: str) -> None:
    done = subprocess.run(["kubectl", "kustomize", str(MADE[name])], capture_output=True, text=True, check=True)
    theirs = list(yaml.safe_load_all(done.stdout))
    ours = assembled(MADE[name])

    def key(one: dict[str, Any]) -> tuple[str, str]:
        return one["kind"], one["metadata"]["name"]

    assert sorted(theirs, key=key) == sorted(ours, key=key)


def test_a_patch_of_what_is_not_there_is_noticed() -> None:
    with pytest.raises(AssertionError, match="nothing to replace at /spec/entry"):
        apply({"op": "replace", "path": "/spec/entry", "value": ""}, {"spec": {"entrypoint": ""}})
    with pytest.raises(KeyError):
        apply({"op": "add", "path": "/specs/entry", "value": ""}, {"spec": {}})


def test_the_component_gives_every_pod_the_keys_of_the_store(tmp_path: Path) -> None:
    shutil.copytree(KUBERAY, tmp_path / "kuberay")
    place = tmp_path / "kuberay" / "overlays" / "gpu-s3"
    text = (place / "kustomization.yaml").read_text()
    (place / "kustomization.yaml").write_text(text.replace("# components:\n#   - ", "components:\n  - "))
    (job,) = [one for one in assembled(place) if one["kind"] == "RayJob"]
    secret = {"secretRef": {"name": "mralign-s3"}}
    pods = pods_of(cluster_of(job))
    assert set(pods) == {"head", "cpu", "gpu"}
    assert all(secret in pod["containers"][0]["envFrom"] for pod in pods.values())


@pytest.mark.parametrize("name", JOBS)
def test_the_entrypoint_resolves_to_a_run_on_storage_that_every_pod_reaches(name: str) -> None:
    job = ray_object(name)
    run_dir = entrypoint_config(job).run.dir
    for pod in pods_of(cluster_of(job)).values():
        claims = {volume["name"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume}
        mounts = [PurePosixPath(m["mountPath"]) for m in pod["containers"][0]["volumeMounts"] if m["name"] in claims]
        if run_dir.startswith("s3://"):
            assert pod["serviceAccountName"] == "mralign"
            assert not mounts
        else:
            assert any(PurePosixPath(run_dir).is_relative_to(mount) for mount in mounts)


@pytest.mark.parametrize("name", [name for name in JOBS if name != "overlays/cpu"])
def test_the_preset_of_the_entrypoint_is_mounted_at_the_head(name: str) -> None:
    objects = assembled(MADE[name])
    (given,) = [one for one in objects if one["kind"] == "ConfigMap"]
    head = pods_of(cluster_of(ray_object(name)))["head"]
    (volume,) = [one for one in head["volumes"] if "configMap" in one]
    (mount,) = [one for one in head["containers"][0]["volumeMounts"] if one["name"] == volume["name"]]
    assert volume["configMap"]["name"] == given["metadata"]["name"]
    assert f"{mount['mountPath']}/{next(iter(given['data']))}" in ray_object(name)["spec"]["entrypoint"]


def test_claims_accounts_and_namespaces_exist() -> None:
    there = {(one["kind"], one["metadata"]["name"]) for name in MADE for one in assembled(MADE[name])}
    for name in RAY:
        assert {one["metadata"]["namespace"] for one in assembled(MADE[name])} == {"mralign"}
        for pod in pods_of(cluster_of(ray_object(name))).values():
            claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
            accounts = [pod["serviceAccountName"]] if "serviceAccountName" in pod else []
            assert {("PersistentVolumeClaim", claim) for claim in claims} <= there
            assert {("ServiceAccount", account) for account in accounts} <= there
    assert ("Namespace", "mralign") in there


def test_what_a_run_left_is_not_deleted_with_the_job() -> None:
    """`kubectl delete -k` of a job or of the standing cluster must not take the claim with the run directories."""
    for name in ["base", *RAY]:
        assert not {one["kind"] for one in assembled(MADE[name])} & {"Namespace", "PersistentVolumeClaim"}


def test_a_mistyped_override_in_the_entrypoint_is_noticed() -> None:
    job = ray_object("overlays/cpu")
    job["spec"]["entrypoint"] += " training.epoch=1"
    with pytest.raises(ValueError, match="did you mean 'epochs'"):
        entrypoint_config(job)


@pytest.mark.parametrize("name", RAY)
def test_the_cluster_runs_the_pinned_ray(name: str) -> None:
    for file in ("requirements-cpu.txt", "requirements-gpu.txt"):
        pinned = re.search(r"^ray==(\S+)$", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
        assert pinned is not None
        assert cluster_of(ray_object(name))["rayVersion"] == pinned[1]


@pytest.mark.parametrize("name", RAY)
def test_workers_autoscale_from_zero_and_nobody_outside_gets_in(name: str) -> None:
    cluster = cluster_of(ray_object(name))
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert 0 < cluster["autoscalerOptions"]["idleTimeoutSeconds"] <= 600
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert all(0 == group["minReplicas"] < group["maxReplicas"] for group in cluster["workerGroupSpecs"])


@pytest.mark.parametrize("name", RAY)
def test_pods_run_without_rights_and_with_shared_memory_that_fits(name: str) -> None:
    for group, pod in pods_of(cluster_of(ray_object(name))).items():
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
        assert group == "head" or pod["automountServiceAccountToken"] is False
        assert not pod.get("hostNetwork")
        assert container["resources"]["requests"] == container["resources"]["limits"]
        (shm,) = [v["emptyDir"] for v in pod["volumes"] if v["name"] == "shm"]
        assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
        assert shm["medium"] == "Memory"
        assert gibibytes(shm["sizeLimit"]) <= gibibytes(container["resources"]["limits"]["memory"]) / 2


def gibibytes(text: str) -> int:
    assert text.endswith("Gi")
    return int(text.removesuffix("Gi"))


@pytest.mark.parametrize("name", GPU)
def test_gpu_pods_go_to_gpu_nodes_and_to_spot_nodes_first(name: str) -> None:
    pods = pods_of(cluster_of(ray_object(name)))
    assert int(pods["gpu"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]) > 0
    assert pods["gpu"]["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert "nvidia.com/gpu" in {one["key"] for one in pods["gpu"]["tolerations"]}
    assert "preferredDuringSchedulingIgnoredDuringExecution" in pods["gpu"]["affinity"]["nodeAffinity"]
    assert "requiredDuringSchedulingIgnoredDuringExecution" not in pods["gpu"]["affinity"]["nodeAffinity"]
    for group in ("head", "cpu"):
        assert "nvidia.com/gpu" not in pods[group]["containers"][0]["resources"]["limits"]


@pytest.mark.parametrize("name", [name for name in JOBS if name != "overlays/cpu"])
def test_the_gpus_that_the_run_asks_for_are_those_of_the_group(name: str) -> None:
    job = ray_object(name)
    config = entrypoint_config(job)
    group = groups_of(cluster_of(job))["gpu"]
    each = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    there = each * group["maxReplicas"]
    assert config.training.gpu
    assert config.training.workers <= there
    assert config.engine.max_replicas * config.engine.gpus_per_replica <= there
    assert config.engine.gpus_per_replica <= each


def test_training_over_rdma_has_its_device_and_may_lock_memory() -> None:
    job = ray_object("overlays/rdma")
    group = groups_of(cluster_of(job))["gpu"]
    (container,) = group["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["rdma/hca"] == "1"
    assert container["securityContext"]["capabilities"]["add"] == ["IPC_LOCK"]
    assert entrypoint_config(job).training.workers == 16 == 8 * group["maxReplicas"]
    assert {"NCCL_IB_HCA", "NCCL_SOCKET_IFNAME"} <= {one["name"] for one in container["env"]}


def test_the_standing_head_keeps_what_it_knows_in_redis() -> None:
    objects = {(one["kind"], one["metadata"]["name"]): one for one in assembled(MADE["standing"])}
    told = cluster_of(objects["RayCluster", "mralign"])["gcsFaultToleranceOptions"]
    host, _, port = told["redisAddress"].partition(":")
    service = objects["Service", host]["spec"]
    redis = objects["StatefulSet", host]["spec"]
    (container,) = redis["template"]["spec"]["containers"]
    assert int(port) in {one["port"] for one in service["ports"]}
    assert service["selector"] == redis["template"]["metadata"]["labels"]
    key = {"secretKeyRef": {"name": "mralign-redis", "key": "password"}}
    assert told["redisPassword"]["valueFrom"] == key
    assert {one["name"]: one["valueFrom"] for one in container["env"]} == {"REDISCLI_AUTH": key}
    assert "--requirepass" not in str(container)  # arguments of a process are for everyone to read


def test_the_network_policy_opens_ray_to_its_namespace_the_operator_and_prometheus() -> None:
    (policy,) = [one["spec"] for one in assembled(MADE["namespace"]) if one["kind"] == "NetworkPolicy"]
    assert policy["podSelector"] == {"matchLabels": {"ray.io/is-ray-node": "yes"}}  # what KubeRay puts on every pod
    inner, metrics = policy["ingress"]
    assert {"podSelector": {}} in inner["from"]
    assert all("podSelector" in one for rule in policy["ingress"] for one in rule["from"])
    assert metrics["ports"] == [{"port": 8080}]


def test_no_manifest_holds_a_secret() -> None:
    for name in MADE:
        assert "Secret" not in {one["kind"] for one in assembled(MADE[name])}
        for pod in pods_of(cluster_of(ray_object(name))).values() if name in RAY else ():
            given = [one for container in pod["containers"] for one in container.get("env", ())]
            assert not [one["name"] for one in given if re.search("KEY|TOKEN|PASSWORD|SECRET", one["name"])]


@pytest.fixture(scope="module")
def validators() -> dict[str, jsonschema.Draft202012Validator]:
    """By kind, KubeRay's schema with unknown keys forbidden."""
    found = {}
    for kind, file in (("RayJob", "ray.io_rayjobs.yaml"), ("RayCluster", "ray.io_rayclusters.yaml")):
        if not (SCHEMAS / file).is_file():
            pytest.skip(f"KubeRay's schema is not at hand: no file {file} in {SCHEMAS}")
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        crd = yaml.load((SCHEMAS / file).read_text(encoding="utf-8"), Loader=loader)
        version = next(v for v in crd["spec"]["versions"] if v["name"] == "v1")
        found[kind] = jsonschema.Draft202012Validator(closed(version["schema"]["openAPIV3Schema"]))
    return found


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


@pytest.mark.parametrize("name", RAY)
def test_what_is_made_fits_kuberays_schema(name: str, validators: dict[str, jsonschema.Draft202012Validator]) -> None:
    one = ray_object(name)
    assert [f"{e.json_path}: {e.message}" for e in validators[one["kind"]].iter_errors(one)] == []


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
    validators: dict[str, jsonschema.Draft202012Validator],
    path: tuple[str | int, ...],
    key: str,
    value: object,
) -> None:
    wrong = copy.deepcopy(ray_object("overlays/cpu"))
    node: Any = wrong
    for step in path:
        node = node[step]
    node[key] = value
    found = [list(e.absolute_path)[: len(path)] for e in validators["RayJob"].iter_errors(wrong)]
    assert found == [list(path)]
