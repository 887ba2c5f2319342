"""Shards of another number of workers: every value is where DeepSpeed's own reader of checkpoints looks for it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mralign.training.engine import World
from mralign.training.shards import cut, cut_parameters, cut_rows

SIZES = {"a": (7,), "b": (3, 4), "c": (1,), "d": (5, 5), "e": (2, 2)}
JUNK = float("nan")  # what a worker's memory happens to hold behind the end of a row


@pytest.fixture
def whole():
    """The trained parameters by name."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in SIZES.items()}


def test_a_row_is_cut_wherever_its_pieces_ended():
    rng = np.random.default_rng(0)
    for _ in range(200):
        pieces = [rng.normal(size=rng.integers(0, 6)).astype(np.float32) for _ in range(rng.integers(1, 5))]
        row = np.concatenate(pieces)
        total = int(rng.integers(0, len(row) + 1))
        start, size = int(rng.integers(0, 12)), int(rng.integers(0, 12))
        expected = np.zeros(40, np.float32)
        expected[:total] = row[:total]
        found = cut([torch.from_numpy(piece) for piece in pieces], start=start, size=size, total=total)
        assert np.array_equal(found.numpy(), expected[start : start + size])


def held(values, *, workers):
    """The pieces of a row by worker, filled up with what is no value."""
    size = -(-values.numel() // workers)
    filled = torch.full((size * workers,), JUNK)
    filled[: values.numel()] = values.flatten()
    return filled.split(size)


def flats(whole, groups, *, workers):
    """By worker: one flat tensor for each group of names."""
    pieces = {name: held(values, workers=workers) for name, values in whole.items()}

    def of(rank):
        return [torch.cat([pieces[name][rank] for name in names]) for names in groups]

    return [of(rank) for rank in range(workers)]


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3), (3, 2), (5, 4), (1, 7)])
def test_parameters_of_zero_3_are_what_deepspeed_reads(whole, before, after):
    from deepspeed.utils.zero_to_fp32 import _zero3_merge_trainable_params

    old = flats(whole, [["a", "b", "c"], ["d", "e"]], workers=before)
    groups = [["a"], ["b", "c", "d", "e"]]  # a worker of another number begins a group elsewhere
    sizes = [[whole[name].numel() for name in names] for names in groups]
    found = [cut_parameters(old, groups=sizes, world=World(rank=rank, size=after)) for rank in range(after)]
    state, shapes = {}, {name: torch.Size(shape) for name, shape in SIZES.items()}
    _zero3_merge_trainable_params(state, after, found, [SimpleNamespace(param_shapes=[shapes])])
    for name, values in whole.items():
        assert torch.equal(state[name].contiguous(), values), name
    assert not any(flat.isnan().any() for of_worker in found for flat in of_worker)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3), (5, 4)])
def test_rows_of_zero_1_and_2_are_what_deepspeed_reads(whole, before, after):
    from deepspeed.utils.zero_to_fp32 import _zero2_merge_trainable_params

    row = torch.cat([values.flatten() for values in whole.values()])
    old = held(row, workers=before)
    size = 2 * -(-row.numel() // (2 * after))  # DeepSpeed makes the pieces even
    found = [cut_rows(old, size=size, total=row.numel(), world=World(rank=r, size=after)) for r in range(after)]
    state, shapes = {}, {name: torch.Size(shape) for name, shape in SIZES.items()}
    _zero2_merge_trainable_params(state, after, [[flat] for flat in found], [SimpleNamespace(param_shapes=[shapes])])
    for name, values in whole.items():
        assert torch.equal(state[name], values), name
    assert not torch.cat(found).isnan().any()
