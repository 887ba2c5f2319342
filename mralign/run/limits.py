"""How far the autoscaler of a cluster lets it grow.

The address of a head enters; how many nodes of each kind there may be leaves. The head does not know it: it stands with
the autoscaler, and there are three places to read it: the head's store, where a platform puts it; the file that the
autoscaler was started with (`ray up`), where this process runs on the head; the RayCluster, where this process runs in
a pod of KubeRay. Where none of them answers, it is not known.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
import yaml

from mralign.run.room import Node

log = logging.getLogger("mralign")

LIMIT_S = 10  # for one question to the head
_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_UNLIMITED = 1_000_000  # nodes, where there is no limit


@dataclass(frozen=True)
class GrowthLimits:
    """How many nodes of each kind there may be in all, and workers of all kinds together."""

    kinds: Mapping[str, tuple[Node, int]]
    most: int


@contextmanager
def asking(address: str) -> Iterator[Any]:
    """A client of the head that has this address; no Ray need be started. Raises OSError for one that does not answer,
    after 40 s if nobody listens there: look for it first (reach.py)."""
    from ray import _raylet
    from ray.exceptions import RayError

    compiled: Any = _raylet  # mypy sees nothing in it
    try:
        yield compiled.GcsClient(address=address)
    except RayError as error:
        raise OSError(f"the head of the cluster at {address} does not say what it has: {error}") from error


def limits_at(address: str) -> GrowthLimits | None:
    """The limits of the cluster whose head has this address; None where they are not known."""
    return _reported(address) or _of_file(address) or _of_kuberay()


def limits_of(config: Mapping[str, Any]) -> GrowthLimits | None:
    """The limits of an autoscaler's own configuration; None where it does not say what its nodes have."""
    kinds: dict[str, tuple[Node, int]] = {}
    for name, kind in config["available_node_types"].items():
        head = name == config.get("head_node_type")
        most = 0 if head else int(kind.get("max_workers", config.get("max_workers", 0)))
        if most and not kind.get("resources"):
            return None
        kinds[name] = (dict(kind.get("resources", {})), most)
    together = config.get("max_workers")
    return GrowthLimits(kinds, _UNLIMITED if together is None else int(together))


def _reported(address: str) -> GrowthLimits | None:
    """What a platform has put into the head's store, where Ray's own libraries look for it."""
    from ray import _raylet
    from ray.core.generated import autoscaler_pb2

    names: Any = _raylet  # compiled: mypy sees nothing in it
    messages: Any = autoscaler_pb2
    key, place = names.GCS_AUTOSCALER_CLUSTER_CONFIG_KEY, names.GCS_AUTOSCALER_STATE_NAMESPACE
    with asking(address) as head:
        text = head.internal_kv_get(key.encode(), namespace=place.encode(), timeout=LIMIT_S)
    groups = messages.ClusterConfig.FromString(text).node_group_configs if text else ()
    kinds = {}
    for number, group in enumerate(groups):
        most = _UNLIMITED if group.max_count < 0 else group.max_count
        kinds[group.name or f"group {number}"] = (dict(group.resources), most)
    return GrowthLimits(kinds, _UNLIMITED) if kinds else None


def _of_file(address: str) -> GrowthLimits | None:
    """By the file that the autoscaler of this head was started with, if it runs on this machine."""
    for process in psutil.process_iter():
        try:
            arguments = _arguments(process.cmdline())
            if "--autoscaling-config" in arguments and _is_same(arguments.get("--gcs-address", ""), address):
                text = Path(arguments["--autoscaling-config"]).expanduser().read_text(encoding="utf-8")
                return limits_of(yaml.safe_load(text))
        except (psutil.Error, OSError, KeyError, ValueError, yaml.YAMLError) as error:
            log.debug("the autoscaler's file could not be read: %r", error)
    return None


def _is_same(own: str, address: str) -> bool:
    """Whether the address that a process of this machine gives its head leads where another address does."""
    host, _, port = address.rpartition(":")
    named = [one.address for one in chain.from_iterable(psutil.net_if_addrs().values())]
    return own == address or (own.rpartition(":")[2] == port and host in ("localhost", *named))


def _arguments(command: Sequence[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in command if word.startswith("--") and "=" in word)


def _of_kuberay() -> GrowthLimits | None:
    """By the RayCluster that this pod belongs to, if it may read it (KubeRay lets the head do so)."""
    name, namespace = os.environ.get("RAY_CLUSTER_NAME"), _POD / "namespace"
    if not (name and namespace.is_file()):
        return None
    os.environ.setdefault("KUBERAY_REQUEST_TIMEOUT_S", str(LIMIT_S))  # read when the module is imported
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.autoscaler._private.kuberay.node_provider import KubernetesHttpApiClient

    try:
        cluster = KubernetesHttpApiClient(namespace.read_text(encoding="utf-8").strip()).get(f"rayclusters/{name}")
        if not cluster["spec"].get("enableInTreeAutoscaling"):
            return GrowthLimits({}, 0)
        return limits_of(_derive_autoscaling_config_from_ray_cr(cluster))
    except Exception as error:  # a server, a right, or a form of the answer that is not as expected
        log.debug("the RayCluster %s could not be read: %r", name, error)
        return None
