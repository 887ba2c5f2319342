"""How far an autoscaler lets a cluster grow, read from what real autoscalers are given."""

import copy
from pathlib import Path

import pytest
import yaml
from kustomized import assembled
from ray.autoscaler._private.kuberay import node_provider

from mralign.run import limits
from mralign.run.capacity import left
from mralign.run.limits import GrowthLimits, limits_of

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"


def counted(found):
    """CPUs, GPUs and number of nodes by kind."""
    return {
        name: (has.get("CPU", 0), has.get("GPU", 0), most)
        for name, (has, most) in found.kinds.items()
        if name != "head"
    }


def test_the_file_of_ray_up():
    found = limits_of(yaml.safe_load((CLUSTER / "aws.yaml").read_text()))
    assert counted(found) == {"cpu": (8, 0, 4), "gpu-spot": (48, 4, 4), "gpu-on-demand": (48, 4, 4)}
    assert found.most == 12
    assert found.kinds["head"][1] == 0


def test_a_kind_whose_nodes_are_not_described_leaves_the_limits_unknown():
    config = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
    del config["available_node_types"]["gpu-spot"]["resources"]
    assert limits_of(config) is None


def in_a_pod(monkeypatch, tmp_path, cluster):
    """As in a pod of KubeRay, with a stand-in for the server of Kubernetes."""
    asked = []

    class Client:
        def __init__(self, namespace):
            asked.append(namespace)

        def get(self, path):
            asked.append(path)
            if isinstance(cluster, Exception):
                raise cluster
            return copy.deepcopy(cluster)

    (tmp_path / "namespace").write_text("mralign")
    monkeypatch.setattr(limits, "_POD", tmp_path)
    monkeypatch.setenv("RAY_CLUSTER_NAME", "mine")
    monkeypatch.setattr(node_provider, "KubernetesHttpApiClient", Client)
    return asked


def standing():
    (found,) = [one for one in assembled(CLUSTER / "kuberay" / "standing") if one["kind"] == "RayCluster"]
    return found


def test_the_groups_of_a_raycluster(monkeypatch, tmp_path):
    asked = in_a_pod(monkeypatch, tmp_path, standing())
    found = limits._of_kuberay()
    assert asked == ["mralign", "rayclusters/mine"]
    assert counted(found) == {"headgroup": (0, 0, 0), "cpu": (8, 0, 8), "gpu": (8, 1, 8)}
    assert found.most == 16


def test_a_raycluster_without_an_autoscaler_never_grows(monkeypatch, tmp_path):
    cluster = standing()
    cluster["spec"]["enableInTreeAutoscaling"] = False
    in_a_pod(monkeypatch, tmp_path, cluster)
    assert limits._of_kuberay() == GrowthLimits({}, 0)


def test_a_server_that_refuses_leaves_the_limits_unknown(monkeypatch, tmp_path):
    in_a_pod(monkeypatch, tmp_path, PermissionError("403 Forbidden"))
    assert limits._of_kuberay() is None
    monkeypatch.delenv("RAY_CLUSTER_NAME")
    assert limits._of_kuberay() is None


LIMITS = GrowthLimits({"cpu": ({"CPU": 8}, 4), "gpu": ({"CPU": 8, "GPU": 1}, 3)}, 5)


@pytest.mark.parametrize(
    ("nodes", "more", "most"),
    [
        ([], {"cpu": 4, "gpu": 3}, 5),
        ([("cpu", {"CPU": 8}), ("gpu", {"CPU": 8, "GPU": 1})], {"cpu": 3, "gpu": 2}, 3),
        # Without a name a node is of the kind that looks alike; a head or a node of another cluster is of none.
        ([("", {"CPU": 8, "memory": 1.0}), ("", {"CPU": 2})], {"cpu": 3, "gpu": 3}, 4),
        ([("gpu", {"CPU": 8, "GPU": 1})] * 3, {"cpu": 4, "gpu": 0}, 2),
        ([("cpu", {"CPU": 8})] * 6, {"cpu": 0, "gpu": 3}, 0),  # more than allowed: somebody has added them
    ],
)
def test_what_may_be_added_to_the_nodes_that_there_are(nodes, more, most):
    found = left(LIMITS, nodes)
    assert ({kind.name: kind.more for kind in found.kinds}, found.most) == (more, most)
