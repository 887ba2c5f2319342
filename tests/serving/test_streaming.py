"""Batches as Ray Data sees them: one row each, whatever stands in them."""

import asyncio

import pyarrow as pa

from mralign.run.stream import pack, unpack
from mralign.serving.streaming import takes_packed


class Doubling:
    def __init__(self, *, factor):
        self.factor = factor

    async def __call__(self, batch):
        return pa.table({"n": [self.factor * n for n in batch.column("n").to_pylist()]})


def test_an_actor_gets_tables_and_gives_tables_and_keeps_its_name():
    actor = takes_packed(Doubling)
    assert actor.__name__ == "Doubling"  # as Ray calls its processes
    (batch,) = pack(pa.table({"n": [0, 1, 2]}), rows=5)
    answer = asyncio.run(actor(factor=2)(batch))
    assert unpack(answer).column("n").to_pylist() == [0, 2, 4]
