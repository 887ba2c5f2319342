"""Draws from (seed, purpose, row_id): nothing else may matter, and they must look like chance."""

import math

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from mralign.transitions.draws import poisson, poisson_columns, row_keys

IDS = pa.array([f"q{number}/on/0" for number in range(40_000)])


def keys(ids: pa.Array | pa.ChunkedArray, *, seed: int = 0, purpose: str = "test") -> np.ndarray:
    return row_keys(ids, seed=seed, purpose=purpose)


@given(ids=st.lists(st.text(max_size=30), max_size=12), data=st.data())
def test_a_key_depends_on_its_own_id_alone(ids: list[str], data: st.DataObject) -> None:
    whole = keys(pa.array(ids, pa.string()))
    assert whole.tolist() == [int(keys(pa.array([row_id]))[0]) for row_id in ids]
    cut = data.draw(st.integers(0, len(ids)))
    array = pa.array(ids, pa.string())
    assert keys(array.slice(cut)).tolist() == whole[cut:].tolist()
    assert keys(pa.chunked_array([array.slice(0, cut), array.slice(cut)])).tolist() == whole.tolist()
    assert len(set(whole.tolist())) == len(set(ids))


def test_seed_purpose_and_the_place_of_a_byte_matter() -> None:
    few = pa.array(["ab", "ba", "a", "b", "", "aab", "aba"])
    found = [keys(few), keys(few, seed=1), keys(few, purpose="other")]
    assert len({key for row in found for key in row.tolist()}) == 21


def test_weights_are_poisson_and_independent() -> None:
    weight_NB = poisson(keys(IDS), replicates=50)
    assert weight_NB.shape == (40_000, 50)
    share = np.bincount(weight_NB.ravel(), minlength=9) / weight_NB.size
    expected = [math.exp(-1) / math.factorial(k) for k in range(9)]
    np.testing.assert_allclose(share, expected, atol=4 * math.sqrt(0.25 / weight_NB.size))
    between = np.corrcoef(weight_NB.T.astype(float))[np.triu_indices(50, 1)]
    assert np.abs(between).max() < 5 / math.sqrt(40_000)  # 1,225 pairs of replicates
    neighbours = np.corrcoef(weight_NB[:-1].ravel(), weight_NB[1:].ravel())[0, 1]
    assert abs(neighbours) < 5 / math.sqrt(weight_NB.size)


def test_more_replicates_keep_the_first_ones() -> None:
    some = keys(IDS[:100])
    assert np.array_equal(poisson(some, replicates=7), poisson(some, replicates=50)[:, :7])
    assert poisson(some, replicates=0).shape == (100, 0)


def test_rows_are_drawn_alike_however_many_there_are():
    key_N = np.arange(40_000, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    apart = [poisson(one, replicates=6) for one in np.split(key_N, [5, 16_384, 16_385, 39_999])]
    assert np.array_equal(poisson(key_N, replicates=6), np.concatenate(apart))


def test_weights_drawn_replicate_by_replicate_are_the_same():
    some = keys(IDS[:1000])
    for replicates in (0, 1, 7, 8):
        columns = list(poisson_columns(some, replicates=replicates))
        assert len(columns) == replicates
        assert all(map(np.array_equal, columns, poisson(some, replicates=replicates).T))
