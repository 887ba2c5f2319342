"""The training loop with one worker in this process, for many small trainings in a row.

Sources and settings enter; the trained policy and the figures of its last step leave. It is the loop, the objectives,
the plan of pairs and the reference of the stage `training`, with torch's AdamW where the stage has DeepSpeed. It stays
beside the stage on purpose: a model of half a million parameters was trained six times faster so (13 s against 81 s),
because Ray Train and DeepSpeed take longer to start than such a training takes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from mralign.config import Training
from mralign.rows.schema import REFERENCE
from mralign.run.part_names import part_name
from mralign.run.store import StageDir
from mralign.training.batches import Micro
from mralign.training.begin import check_engine
from mralign.training.checkpoint import State
from mralign.training.engine import World
from mralign.training.logprobs import TokenLogProbs
from mralign.training.loop import train
from mralign.training.memory_choice import settle_memory
from mralign.training.policy import build_policy
from mralign.training.reference import blocks, model_mark, put_on_shelf
from mralign.training.task_files import Sources


class PlainEngine:
    """What the loop asks of a DeepSpeed engine, for one process in float32: AdamW, and gradients scaled down."""

    def __init__(self, policy: TokenLogProbs, settings: Training, *, rate: float) -> None:
        self.module, self.largest = policy, settings.max_grad_norm
        self.trained = [p for p in policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=rate, weight_decay=settings.weight_decay)
        self.norm: float | None = None

    def __call__(self, micro: Micro, **given: Any) -> Tensor:
        found: Tensor = self.module(micro, **given)
        return found

    @property
    def training(self) -> bool:
        return self.module.training

    def train(self, mode: bool = True) -> None:
        self.module.train(mode)

    def eval(self) -> None:
        self.module.eval()

    def backward(self, loss: Tensor, *, scale_wrt_gas: bool) -> None:
        assert not scale_wrt_gas  # the loop divides by the whole batch
        loss.backward()

    def set_gradient_accumulation_boundary(self, last: bool) -> None:
        """Gradients add up until `step` in any case."""

    def get_global_grad_norm(self) -> float | None:
        return self.norm

    def step(self) -> None:
        self.norm = float(torch.nn.utils.clip_grad_norm_(self.trained, self.largest))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


@dataclass(frozen=True)
class TrainedAlone:
    """A policy after its training, its adapter beside the weights, and what the last step logged."""

    policy: TokenLogProbs
    steps: int
    last: dict[str, float]


def train_alone(sources: Sources, *, settings: Training) -> TrainedAlone:
    """Train from the base to the end of the plan. Raises TrainingStopped as the loop does.

    The reference may have been planned for more epochs than are trained: the plan of an epoch does not depend on their
    number.
    """
    assert not settings.gpu and settings.dtype == "float32", "small trainings run on a CPU in float32"
    task = replace(sources, settings=settings).load()
    policy = build_policy(task.model, settings, seed=task.seed)
    engine = PlainEngine(policy, settings, rate=task.rate)
    check_engine(engine, task)
    task, choice = settle_memory(engine, task, world=World())
    state = State(memory=choice.figures() if choice else {})
    state = train(engine, task, world=World(), state=state, save=lambda state: None)
    return TrainedAlone(policy, state.step, state.history[-1])


def score_alone(sources: Sources, *, base: TokenLogProbs, out: StageDir) -> Sources:
    """The sources with a reference in `out`: every block of their plan is put on their shelf by the base model."""
    assert sources.shelf is not None
    task = sources.load()
    wanted = list(blocks(task.reader, task.plan, mark=model_mark(sources.model, sources.settings)))
    for block in wanted:
        put_on_shelf(sources.shelf, base, block, reader=task.reader, plan=task.plan, settings=task.settings)
    table = pa.Table.from_pylist([asdict(block) for block in wanted], schema=REFERENCE)
    out.commit(part_name("all"), table, schema=REFERENCE)
    return replace(sources, reference=out)
