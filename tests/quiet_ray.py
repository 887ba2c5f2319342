"""A local Ray of one process, for benchmarks and scripts: it prints nothing of its own."""

import logging
from contextlib import contextmanager
from pathlib import Path

from python_path import python_path

ROOT = Path(__file__).resolve().parents[1]
PATHS = (ROOT, ROOT / "tests")  # where workers find the package and what tests share


@contextmanager
def quiet_ray(home, *, cpus=6, gpus=None, paths=PATHS):
    """Ray runs while the block does, with its files below `home`, a short path: sockets lie there."""
    import ray

    ray.init(
        address="local",
        num_cpus=cpus,
        num_gpus=gpus,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        _temp_dir=str(Path(home) / "ray"),
        runtime_env={"env_vars": {"PYTHONPATH": python_path(*paths)}},
    )
    ray.data.DataContext.get_current().enable_progress_bars = False  # a stage shows its own
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()
