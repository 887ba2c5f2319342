"""What a worker of a training needs of its machine: a device and packages.

Settings enter; sentences on what is missing leave. Each worker's machine is asked itself: a cluster's nodes need not
have what the machine that starts the run has.
"""

from __future__ import annotations

from importlib.util import find_spec

from mralign.config import RunConfig, Training
from mralign.run.placement import NodeFault
from mralign.training.engine import missing_device

# The module of a package, where it is called otherwise.
_MODULES = {"tensorboard": "tensorboardX", "liger-kernel": "liger_kernel", "flash-attn": "flash_attn"}


def missing_packages(training: Training) -> str | None:
    """What to tell the user where packages of the settings are not installed on the machine of this process."""
    wanted: dict[str, str] = {f"trackers=[{name}]": name for name in training.trackers}  # by setting its package
    wanted |= {"tuning=qlora": "bitsandbytes"} if training.tuning == "qlora" else {}
    wanted |= {"kernels=liger": "liger-kernel"} if training.kernels == "liger" else {}
    wanted |= {f"attention={training.attention}": "flash-attn"} if training.attention == "flash_attention_2" else {}
    missing = {setting: name for setting, name in wanted.items() if find_spec(_MODULES.get(name, name)) is None}
    if not missing:
        return None
    needs = ", ".join(f"training.{setting} needs {name}" for setting, name in missing.items())
    return f"{needs}, not installed here: pip install {' '.join(missing.values())}, or leave that out"


def worker_faults(config: RunConfig) -> list[NodeFault]:
    """What the machine of this process lacks for a worker of the training."""
    training = config.training
    found = (missing_device(training), missing_packages(training))
    return [NodeFault(text) for text in found if text]
