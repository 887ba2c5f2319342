"""From freely found names to clusters of names (method.md §2b).

Open labels enter: frequent names are kept, their embeddings are clustered by OPTICS on cosine distance, and clusters
with their sizes, the silhouette and the names most typical of each leave. A name that OPTICS calls noise lies near no
cluster: it belongs to none, takes no part in the silhouette or the naming, and is counted and listed as such.

Axes: N names, D dimensions of the embedding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from mralign.annotation.taxonomy import MAX_LABELS
from mralign.config import Discovery
from mralign.run.placement import NotInstalled

NOISE = -1


@dataclass(frozen=True)
class Clusters:
    """Cluster of each name (`cluster_N`, NOISE for none; 0 is the one with most instances) and how well they part."""

    names: tuple[str, ...]
    frequency: Mapping[str, int]  # instances of each name
    cluster_N: np.ndarray
    silhouette: float | None  # of the names in clusters, cosine; None where there is one cluster only

    @property
    def count(self) -> int:
        return int(self.cluster_N.max(initial=NOISE)) + 1

    def members(self, cluster: int) -> list[str]:
        """The names of a cluster (or of NOISE), most frequent first."""
        found = [name for name, own in zip(self.names, self.cluster_N, strict=True) if own == cluster]
        return sorted(found, key=lambda name: (-self.frequency[name], name))

    def instances(self, cluster: int) -> int:
        return sum(self.frequency[name] for name in self.members(cluster))


def name_counts(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Instances of each name in rows of schema OPEN_LABELS, most frequent first, ties by name."""
    counts: Counter[str] = Counter()
    for row in rows:
        for step in row["steps"]:
            counts.update(step["labels"])
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def frequent(counts: Mapping[str, int], *, min_frequency: int) -> dict[str, int]:
    """The names with at least `min_frequency` instances; ValueError if none is left."""
    kept = {name: count for name, count in counts.items() if count >= min_frequency}
    if not kept:
        raise ValueError(
            f"none of {len(counts)} names occurs {min_frequency} times; the most frequent one occurs "
            f"{max(counts.values(), default=0)} times: raise discovery.sample or lower discovery.min_frequency"
        )
    return kept


def as_text(name: str) -> str:
    """What of a name is embedded: its words."""
    return name.replace("_", " ")


def cluster(frequency: Mapping[str, int], *, embedding_ND: np.ndarray, settings: Discovery) -> Clusters:
    """Clusters of the names of `frequency`, whose embeddings are given in its order.

    Raises ValueError where the embeddings cannot be compared, and for a number of clusters outside 1 to 64.
    """
    check_installed()
    names = tuple(frequency)
    unit_ND = unit(embedding_ND, names=names)
    smallest = max(settings.min_samples, round(settings.min_cluster_share * len(names)))
    if len(names) < smallest:
        raise ValueError(
            f"{len(names)} names occur often enough, a cluster has at least {smallest}: raise discovery.sample, or "
            f"lower discovery.min_frequency, min_samples or min_cluster_share"
        )
    raw_N = _optics(unit_ND, settings=settings, smallest=smallest)
    cluster_N = _by_instances(raw_N, weight_N=np.array(list(frequency.values())))
    found = Clusters(names, dict(frequency), cluster_N, _silhouette(unit_ND, cluster_N=cluster_N))
    if not 1 <= found.count <= MAX_LABELS:
        change = "lower" if found.count == 0 else "raise"
        raise ValueError(
            f"{found.count} clusters in {len(names)} names; a taxonomy has 1 to {MAX_LABELS} labels: {change} "
            f"discovery.min_cluster_share={settings.min_cluster_share:g} or min_samples={settings.min_samples}, or "
            f"change discovery.xi={settings.xi:g}. The open labels are kept"
        )
    return found


def representatives(clusters: Clusters, *, embedding_ND: np.ndarray, limit: int) -> list[list[str]]:
    """For each cluster at most `limit` of its names, nearest first to its mean direction weighted by instances."""
    unit_ND = unit(embedding_ND, names=clusters.names)
    weight_N = np.array([clusters.frequency[name] for name in clusters.names], dtype=float)
    chosen = []
    for own in range(clusters.count):
        members = np.flatnonzero(clusters.cluster_N == own)
        near = unit_ND[members] @ (weight_N[members] @ unit_ND[members])
        order = sorted(zip(-near, [clusters.names[i] for i in members], strict=True))
        chosen.append([name for _, name in order[:limit]])
    return chosen


def unit(embedding_ND: np.ndarray, *, names: Sequence[str]) -> np.ndarray:
    """Rows of length 1, float64; ValueError naming a row that is not finite or has no direction."""
    if embedding_ND.ndim != 2 or len(embedding_ND) != len(names):
        raise ValueError(f"embeddings of shape {embedding_ND.shape} for {len(names)} names; allowed is one row a name")
    wide_ND = embedding_ND.astype(np.float64)
    length_N = np.linalg.norm(wide_ND, axis=1)
    bad = [name for name, length in zip(names, length_N, strict=True) if not (np.isfinite(length) and length > 0)]
    if bad:
        raise ValueError(
            f"the embeddings of {bad[:5]} ({len(bad)} names) are zero or not finite, so they have no direction; try "
            f"discovery.embedding.dtype=float32 or another discovery.embedding.path"
        )
    return wide_ND / length_N[:, None]


def check_installed() -> None:
    """Raise NotInstalled, a ValueError, where scikit-learn is missing."""
    if find_spec("sklearn") is None:
        raise NotInstalled(
            "discovery clusters with scikit-learn, which is not installed: pip install 'mralign[discovery]'"
        )


def _optics(unit_ND: np.ndarray, *, settings: Discovery, smallest: int) -> np.ndarray:
    """Labels of OPTICS, clusters cut out of the reachability plot by its steepness xi.

    The distances are computed at once: N² numbers, for which there is room, since N is at most the instances over
    min_frequency; sklearn's own metric="cosine" finds the same clusters in three times the time.
    """
    from sklearn.cluster import OPTICS

    distance_NN = np.clip(1 - unit_ND @ unit_ND.T, 0, None)
    np.fill_diagonal(distance_NN, 0)
    optics = OPTICS(min_samples=settings.min_samples, min_cluster_size=smallest, xi=settings.xi, metric="precomputed")
    return np.asarray(optics.fit(distance_NN).labels_)


def _by_instances(raw_N: np.ndarray, *, weight_N: np.ndarray) -> np.ndarray:
    """Clusters numbered anew, the one with most instances first; ties by the name that stands first."""
    kept = sorted(set(raw_N.tolist()) - {NOISE}, key=lambda c: (-weight_N[raw_N == c].sum(), np.argmax(raw_N == c)))
    place = {old: new for new, old in enumerate(kept)} | {NOISE: NOISE}
    return np.array([place[old] for old in raw_N.tolist()], dtype=int)


def _silhouette(unit_ND: np.ndarray, *, cluster_N: np.ndarray) -> float | None:
    from sklearn.metrics import silhouette_score

    inside = cluster_N != NOISE
    if not 2 <= len(set(cluster_N[inside].tolist())) < inside.sum():
        return None
    return float(silhouette_score(unit_ND[inside], cluster_N[inside], metric="cosine"))


def describe(clusters: Clusters) -> str:
    """The result in one line."""
    noise = clusters.members(NOISE)
    score = "none, one cluster" if clusters.silhouette is None else f"{clusters.silhouette:.4f}"
    return (
        f"{clusters.count} clusters, silhouette {score}; {len(noise)} of {len(clusters.names)} names "
        f"({clusters.instances(NOISE)} of {sum(clusters.frequency.values())} instances) are noise"
    )


def record(clusters: Clusters, *, labels: Sequence[str], counts: Mapping[str, int]) -> dict[str, Any]:
    """Everything that was found, for JSON: every cluster with its names and instances, the noise, and the figures."""
    named = []
    for own, label in enumerate(labels):
        named.append({"label": label, "names": _frequencies(clusters, own)})
    return {
        "instances": sum(counts.values()),
        "distinct": len(counts),
        "frequent": len(clusters.names),
        "silhouette": clusters.silhouette,
        "clusters": named,
        "noise": _frequencies(clusters, NOISE),
    }


def _frequencies(clusters: Clusters, cluster: int) -> dict[str, int]:
    """The instances of each name of a cluster (or of NOISE), most frequent first."""
    return {name: clusters.frequency[name] for name in clusters.members(cluster)}
