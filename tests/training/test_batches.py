import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tiny_policy import settings

from mralign.training.batches import deal, packed, packs, padded

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=40)


@given(LENGTHS, st.integers(1, 5), st.integers(1, 200), st.booleans())
def test_every_sequence_is_dealt_once_within_the_budget(lengths, workers, budget, packing):
    dealt = deal(lengths, workers=workers, budget=budget, packing=packing)
    assert len(dealt) == workers
    assert len({len(micros) for micros in dealt}) == 1  # every worker makes the same number of passes
    places = [int(place) for micros in dealt for micro in micros for place in micro]
    assert sorted(places) == list(range(len(lengths)))
    for micro in (m for micros in dealt for m in micros if len(m) > 1):
        held = [lengths[place] for place in micro]
        assert (sum(held) if packing else max(held) * len(held)) <= budget


@given(LENGTHS, st.integers(1, 5))
def test_workers_get_nearly_the_same_number_of_tokens(lengths, workers):
    dealt = deal(lengths, workers=workers, budget=64, packing=False)
    load = [sum(lengths[place] for micro in micros for place in micro) for micros in dealt]
    assert max(load) - min(load) <= max(lengths)


def test_lengths_are_sorted_so_that_little_is_padding():
    rng = np.random.default_rng(0)
    lengths = rng.integers(180, 400, 64)
    (micros,) = deal(lengths, workers=1, budget=2048, packing=False)
    positions = sum(len(micro) * lengths[micro].max() for micro in micros)
    assert positions < 1.05 * lengths.sum()
    unsorted = sum(8 * lengths[i : i + 8].max() for i in range(0, 64, 8))
    assert unsorted > 1.2 * lengths.sum()


def test_both_layouts_name_the_same_tokens():
    pairs = [(np.array([5, 6]), np.array([7, 8, 9])), (np.array([1, 2, 3]), np.array([4]))]
    row, square = packed(pairs), padded(pairs)
    assert row.ids_BS.tolist() == [[5, 6, 7, 8, 9, 1, 2, 3, 4]]
    assert row.positions_BS.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3]]
    assert square.ids_BS.tolist() == [[5, 6, 7, 8, 9], [1, 2, 3, 4, 0]]
    assert row.where_N.tolist() == [1, 2, 3, 7]  # the position before each completion token
    assert square.where_N.tolist() == [1, 2, 3, 5 + 2]
    for micro in (row, square):
        assert micro.target_N.tolist() == [7, 8, 9, 4]
        assert micro.sequence_N.tolist() == [0, 0, 0, 1]
        assert micro.sum(micro.target_N).tolist() == [24, 4]


def test_attentions_without_a_mask_are_told_where_sequences_begin():
    pairs = [(np.array([5, 6]), np.array([7, 8, 9])), (np.array([1, 2, 3]), np.array([4]))]
    limits = packed(pairs).limits()
    assert limits["cu_seq_lens_q"].tolist() == limits["cu_seq_lens_k"].tolist() == [0, 5, 9]
    assert limits["max_length_q"] == limits["max_length_k"] == 5
    assert padded(pairs).limits() == {}


def test_packing_goes_with_flash_attention_unless_asked():
    assert not packs(settings())
    assert packs(settings(attention="varlen"))
    assert packs(settings(gpu=True, dtype="bfloat16"))  # auto: varlen
    assert not packs(settings(gpu=True, dtype="float32"))
    assert not packs(settings(gpu=True, dtype="bfloat16", packing="off"))
    assert packs(settings(attention="flash_attention_2"))
    assert packs(settings(packing="on"))
    assert not packs(settings(attention="flash_attention_2", packing="off"))
