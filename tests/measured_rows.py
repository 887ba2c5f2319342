"""Rows of the table of runs, for tests."""

from mralign.comparison.run_rows import RunRow


def row(method="kto", *, world="w0", acc=0.5, mis=0.2, epochs=2, rate=1e-3, seed=0, split="dev", mark="m", **more):
    """A row with the given values and ordinary ones elsewhere."""
    return RunRow(world, method, rate, epochs, seed, split, mark, acc, mis, 0.9, 30.0, 0.0, **more)
