"""The clusters of a discovery as a picture: one SVG file, drawn by hand.

Embeddings and clusters enter; a map of the names on the two directions in which they differ most leaves, one dot a
name (larger for a more frequent one), one colour a cluster, noise in grey. Every text is escaped.

Axes: N names, D dimensions of the embedding, 2 of the map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from mralign.annotation.discovery import NOISE, Clusters, unit

_INK, _MUTED, _GREY = "#22303c", "#6b7885", "#c9ced3"
_SIDE, _MARGIN, _LEGEND, _LINE = 640, 30, 340, 17


def draw(clusters: Clusters, *, embedding_ND: np.ndarray, labels: Sequence[str]) -> str:
    """The picture; `labels` is what each cluster is called, in order."""
    position_N2, share = principal(unit(embedding_ND, names=clusters.names))
    low_2, high_2 = position_N2.min(axis=0), position_N2.max(axis=0)
    scale = _SIDE / (float((high_2 - low_2).max()) or 1.0)  # one for both directions
    x_N, y_N = (_MARGIN + scale * (position_N2 - low_2)).T
    order = sorted(range(len(clusters.names)), key=lambda i: int(clusters.cluster_N[i]) != NOISE)  # noise underneath
    marks = [_dot(clusters, i, x=x_N[i], y=y_N[i], labels=labels) for i in order]
    for own in range(clusters.count):
        inside = clusters.cluster_N == own
        marks.append(_number(own, x=float(np.median(x_N[inside])), y=float(np.median(y_N[inside]))))
    score = "no silhouette (one cluster)" if clusters.silhouette is None else f"silhouette {clusters.silhouette:.4f}"
    note = f"{len(clusters.names)} names, {score}; the map shows {share:.0%} of the variance"
    return _page([*marks, *_legend(clusters, labels=labels)], note=note, lines=clusters.count + 1)


def principal(points_ND: np.ndarray) -> tuple[np.ndarray, float]:
    """Points on their first two principal components (N, 2), and the share of the variance that these hold.

    The sign of a component is the one that makes its largest coefficient positive: the same input, the same picture.
    """
    centred_ND = points_ND - points_ND.mean(axis=0)
    _, spread, axes = np.linalg.svd(centred_ND, full_matrices=False)
    axes_2D = np.zeros((2, points_ND.shape[1]))
    axes_2D[: min(2, len(axes))] = axes[:2]
    largest = np.take_along_axis(axes_2D, np.abs(axes_2D).argmax(axis=1)[:, None], axis=1)
    total = float((spread**2).sum())
    return centred_ND @ (axes_2D * np.where(largest < 0, -1, 1)).T, float((spread[:2] ** 2).sum()) / (total or 1.0)


def colour(cluster: int) -> str:
    """Neighbouring numbers get hues a golden angle apart, so that 64 clusters can be told apart as well as they can."""
    if cluster == NOISE:
        return _GREY
    return f"hsl({(cluster * 137.508 + 175) % 360:.0f} {(70, 55)[cluster // 8 % 2]}% {(38, 52, 28)[cluster // 3 % 3]}%)"


def _dot(clusters: Clusters, index: int, *, x: float, y: float, labels: Sequence[str]) -> str:
    name, own = clusters.names[index], int(clusters.cluster_N[index])
    radius = min(2 + 0.6 * math.sqrt(clusters.frequency[name]), 12)
    tip = f"{name} ({clusters.frequency[name]}): {'noise' if own == NOISE else labels[own]}"
    shape = f'cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour(own)}" fill-opacity="0.7"'
    return f"<circle {shape}><title>{escape(tip)}</title></circle>"


def _number(own: int, *, x: float, y: float) -> str:
    halo = 'stroke="#fff" stroke-width="4" paint-order="stroke" font-weight="bold" text-anchor="middle"'
    return f'<text x="{x:.1f}" y="{y + 4:.1f}" fill="{_INK}" {halo}>{own + 1}</text>'


def _legend(clusters: Clusters, *, labels: Sequence[str]) -> list[str]:
    marks = []
    for place, own in enumerate([*range(clusters.count), NOISE]):
        y, left = _MARGIN + _LINE * place, _SIDE + 2 * _MARGIN
        title = "noise: in no cluster" if own == NOISE else f"{own + 1} {labels[own]}"
        counts = f"{len(clusters.members(own))} names, {clusters.instances(own)} instances"
        marks.append(f'<circle cx="{left}" cy="{y - 4}" r="5" fill="{colour(own)}"/>')
        aside = f'<tspan fill="{_MUTED}"> {counts}</tspan>'
        marks.append(f'<text x="{left + 12}" y="{y}" fill="{_INK}">{escape(title)}{aside}</text>')
    return marks


def _page(marks: Sequence[str], *, note: str, lines: int) -> str:
    width, height = _SIDE + 3 * _MARGIN + _LEGEND, max(_SIDE + 3 * _MARGIN, _LINE * lines + 2 * _MARGIN)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    paper = f'<rect width="{width}" height="{height}" fill="#fff"/>'
    foot = f'<text x="{_MARGIN}" y="{height - 12}" fill="{_MUTED}">{escape(note)}</text>'
    title = "<title>Clusters of strategy names</title>"
    return f'{head} font-family="sans-serif" font-size="12">{title}{paper}{"".join(marks)}{foot}</svg>\n'
