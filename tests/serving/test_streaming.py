"""Batches as Ray Data sees them: one row each, whatever stands in them."""

import asyncio

import pyarrow as pa

from mralign.serving.streaming import pack, takes_packed, unpack


def table(rows):
    return pa.table({"n": list(range(rows)), "words": [["a"] * (n % 3) for n in range(rows)]})


def test_packed_batches_hold_the_rows_in_order_and_the_last_the_rest():
    batches = list(pack(table(10), rows=4))
    assert [batch.num_rows for batch in batches] == [1, 1, 1]
    assert [unpack(batch).num_rows for batch in batches] == [4, 4, 2]
    assert pa.concat_tables(map(unpack, batches)) == table(10)
    assert not list(pack(table(0), rows=4))
    assert len({batch.schema for batch in batches}) == 1


class Doubling:
    def __init__(self, *, factor):
        self.factor = factor

    async def __call__(self, batch):
        return pa.table({"n": [self.factor * n for n in batch.column("n").to_pylist()]})


def test_an_actor_gets_tables_and_gives_tables_and_keeps_its_name():
    actor = takes_packed(Doubling)
    assert actor.__name__ == "Doubling"  # as Ray calls its processes
    (batch,) = pack(table(3), rows=5)
    answer = asyncio.run(actor(factor=2)(batch))
    assert unpack(answer).column("n").to_pylist() == [0, 2, 4]
