"""Trajectories of two chains whose matrices are known, as tables of annotations."""

import numpy as np
import pyarrow as pa

LABELS = ("a", "b", "c", "d")
STATES = ("<start>", *LABELS, "<stop>")


def annotations(trajectories, *, polarity, draws=1, segments=None):
    """A table of the columns that the signal check reads; every `draws` trajectories in turn share a question."""
    sides = polarity if isinstance(polarity, list) else [polarity] * len(trajectories)
    rows = []
    for place, (steps, side) in enumerate(zip(trajectories, sides, strict=True)):
        labels = [[step] if isinstance(step, str) else list(step) for step in steps]
        rows.append(
            {
                "row_id": f"q{place // draws}{side:+d}/on/{place % draws}",
                "question_id": f"q{place // draws}{side:+d}",
                "dataset": "sim",
                "polarity": side,
                "segments": len(steps) if segments is None else segments[place],
                "steps": [{"labels": names} for names in labels],
            }
        )
    types = {"row_id": pa.string(), "question_id": pa.string(), "dataset": pa.string(), "polarity": pa.int8()}
    types |= {"segments": pa.int32(), "steps": pa.list_(pa.struct([("labels", pa.list_(pa.string()))]))}
    return pa.Table.from_pylist(rows, schema=pa.schema(list(types.items())))


def chain(*, seed=0, stop=0.12):
    """A random matrix over STATES: from <start> and the labels to the labels, and from these to <stop>."""
    K, rng = len(STATES), np.random.default_rng(seed)
    P = np.zeros((K, K))
    P[: K - 1, 1 : K - 1] = rng.dirichlet(np.full(K - 2, 3.0), size=K - 1)
    P[1 : K - 1] *= 1 - stop
    P[1 : K - 1, K - 1] = stop
    P[K - 1, K - 1] = 1
    return P


def with_edge(P, source, target, *, to):
    """The chain with another probability of one edge between labels; the rest of its row is scaled."""
    changed = P.copy()
    row, column = STATES.index(source), STATES.index(target)
    changed[row] *= (1 - to) / (1 - P[row, column])
    changed[row, column] = to
    return changed


def walk(P, *, rng):
    """The labels of one trajectory from <start> to <stop>."""
    steps, state = [], 0
    while True:
        state = int(rng.choice(len(P), p=P[state]))
        if state == len(P) - 1:
            return steps
        steps.append(STATES[state])


def corpus_table(P_positive, P_negative, *, positives, negatives, seed, draws=1):
    """Trajectories of both chains, questions of `draws` trajectories each."""
    rng = np.random.default_rng(seed)
    sides = ((P_positive, positives, 1), (P_negative, negatives, -1))
    tables = [annotations([walk(P, rng=rng) for _ in range(n)], polarity=side, draws=draws) for P, n, side in sides]
    return pa.concat_tables(tables)
