"""One rank that loads a model as a training does, with no more memory of its own than it is given. A program.

Arguments: a tiny model, the model, `training.zero_stage`, and how many bytes the process may take beyond what it holds
when all is imported and the model's file is mapped (the system drops pages of a mapped file when it needs the room).
Prints as JSON how many numbers of the frozen parameters this rank holds, and how many there are.
"""

import json
import os
import resource
import sys

import torch
from tiny_policy import settings

from mralign.config import Model
from mralign.training.engine import World, cut_while_loading, prepare_process
from mralign.training.policy import build_policy


def data_bytes():
    """What RLIMIT_DATA counts: memory that this process may write and shares with nobody."""
    with open("/proc/self/status") as status:
        (line,) = (line for line in status if line.startswith("VmData"))
    return int(line.split()[1]) * 1024


def load(path, *, zero_stage, world):
    chosen, model = settings(zero_stage=zero_stage, workers=world.size), Model(path=path, dtype="float32")
    with cut_while_loading(model, chosen, rate=1e-3, world=world):
        return build_policy(model, chosen, seed=0)


if __name__ == "__main__":
    tiny, path, zero_stage, room = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    world = World(rank=int(os.environ["RANK"]), size=int(os.environ["WORLD_SIZE"]))
    prepare_process(settings(threads_per_worker=1))
    load(tiny, zero_stage=zero_stage, world=world)  # what it imports and starts is there from now on
    limit = data_bytes() + os.path.getsize(f"{path}/model.safetensors") + room
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    policy = load(path, zero_stage=zero_stage, world=world)
    frozen = [p for p in policy.parameters() if not p.requires_grad]
    held = sum(getattr(p, "ds_tensor", p).numel() for p in frozen)
    print(json.dumps({"held": held, "all": sum(getattr(p, "ds_numel", p.numel()) for p in frozen)}), flush=True)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
