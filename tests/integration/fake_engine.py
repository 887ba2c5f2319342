"""An engine that stands for vLLM where the real one would take minutes: it takes a while to start and to answer, and
says on which node it runs."""

import asyncio
import time

import pyarrow as pa
import ray

from mralign.run.stream import Answer

SCHEMA = pa.schema([("row_id", pa.string()), ("node", pa.string())])


class FakeEngine:
    """An actor of a stream (mralign/run/stream.py)."""

    def __init__(self, *, start_s, batch_s):
        time.sleep(start_s)
        self.batch_s, self.node = batch_s, ray.get_runtime_context().get_node_id()

    async def answer(self, rows):
        await asyncio.sleep(self.batch_s)
        return [Answer(rows=[{"row_id": row["row_id"], "node": self.node}]) for row in rows]


def requests_of(part):
    return pa.table({"row_id": [f"{part}/{number}" for number in range(40)]})
