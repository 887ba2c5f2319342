"""One rank that loads a model as a training does, and watches what memory of its own that takes. A program.

Arguments: a tiny model, the model, `training.zero_stage`. Prints as JSON how many numbers of the frozen parameters this
rank holds, how many there are, and the most bytes of its own that the process had while it loaded, beyond what it had
when all was imported. Pages of a mapped file are not its own: the system drops them when it needs the room.
"""

import json
import os
import sys
import threading
from contextlib import contextmanager

import torch
from tiny_policy import settings

from mralign.config import Model
from mralign.training.engine import World, cut_while_loading
from mralign.training.policy import build_policy

LOOK_EVERY_S = 0.005


def own_bytes():
    """Memory of this process that no file stands for."""
    with open("/proc/self/status") as status:
        (line,) = (line for line in status if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


@contextmanager
def watched():
    """While the block runs, the most bytes of this process's own so far stand in the list."""
    seen, over = [own_bytes()], threading.Event()

    def look():
        while not over.wait(LOOK_EVERY_S):
            seen[0] = max(seen[0], own_bytes())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()
        seen[0] = max(seen[0], own_bytes())


def load(path, *, zero_stage, world):
    chosen, model = settings(zero_stage=zero_stage, workers=world.size), Model(path=path, dtype="float32")
    with cut_while_loading(model, chosen, rate=1e-3, world=world):
        return build_policy(model, chosen, seed=0)


if __name__ == "__main__":
    tiny, path, zero_stage = sys.argv[1], sys.argv[2], int(sys.argv[3])
    world = World(rank=int(os.environ["RANK"]), size=int(os.environ["WORLD_SIZE"]))
    os.environ["DS_ACCELERATOR"] = "cpu"  # and no more of what `prepare_process` does: it keeps freed memory on a CPU
    torch.set_num_threads(1)
    load(tiny, zero_stage=zero_stage, world=world)  # what it imports and starts is there from now on
    before = own_bytes()
    with watched() as most:
        policy = load(path, zero_stage=zero_stage, world=world)
    frozen = [p for p in policy.parameters() if not p.requires_grad]
    found = {"held": sum(getattr(p, "ds_tensor", p).numel() for p in frozen), "peak": most[0] - before}
    print(json.dumps(found | {"all": sum(getattr(p, "ds_numel", p.numel()) for p in frozen)}), flush=True)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
