"""The run: from questions to an aligned model and a report.

    python jobs/align.py [--preset NAME|FILE] [--dry-run] [--until STAGE | --only STAGE] [section.field=value ...]

The same command works on a laptop (a local Ray is started) and as `ray job submit -- python jobs/align.py ...` on a
cluster. Stop it at any time, run it again: it goes on where it was.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # a submitted working directory runs its own code

from mralign.run import interruption  # noqa: E402

if __name__ == "__main__":
    interruption.listen()  # before the imports that take their time

from mralign import report  # noqa: E402
from mralign.config import RunConfig, load  # noqa: E402
from mralign.plan import pipeline, plan_text, template_dates  # noqa: E402
from mralign.run.disk import full_disk  # noqa: E402

log = logging.getLogger("mralign")


def main(arguments: list[str] | None = None) -> int:
    return guarded(lambda: run(_parser().parse_intermixed_args(arguments)))


def guarded(act: Callable[[], None]) -> int:
    """Exit status of a job that does `act`: 0 done, 2 wrong input, 130 interrupted (resumable)."""
    logging.basicConfig(
        level=logging.WARNING,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        handlers=[interruption.Handler()],
    )
    log.setLevel(logging.INFO)
    return interruption.guarded(act, explain=_reason, close=_stop_ray)


def _reason(error: BaseException) -> str | None:
    """What to tell the user in one sentence; None for a fault of ours."""
    return str(error) if isinstance(error, ValueError) else full_disk(error)


def run(args: argparse.Namespace) -> None:
    """Plan the run, walk it, and print its end."""
    config = configured(args)
    check_trains(config)
    walk(config, args=args, until=args.until, only=args.only)


def configured(args: argparse.Namespace) -> RunConfig:
    """The configuration that a job's --preset and settings say, with its dates settled and its directory checked."""
    config = template_dates.settle(load(args.preset, overrides=args.overrides, presets_dir=HERE / "presets"))
    check_run_directory(config)
    return config


def walk(config: RunConfig, *, args: argparse.Namespace, until: str | None = None, only: str | None = None) -> None:
    """Plan a run; tell the plan and stop where that is asked for, else do what is not finished and print its end."""
    planned = pipeline.plan(config, until=until, only=only, dry_run=args.dry_run)
    if args.dry_run:
        print(plan_text.describe(config, planned))
        return
    with pipeline.writing(config, planned, take_over=args.take_over) as planned:
        report.begin(config)
        pipeline.run(config, planned, start_ray=lambda: start_ray(config))
        print(report.publish(config, pipeline.survey(config) if until or only else planned))


def check_trains(config: RunConfig) -> None:
    """Raise ValueError for a configuration that only evaluates."""
    if not config.trains:
        raise ValueError(
            "no training questions: give questions.train (a list of {name, path}) or rollouts.import_on/import_off; "
            "jobs/evaluate.py evaluates a model as it is"
        )


def job_parser(doc: str | None, *, preset: bool = True, settings: bool = True) -> argparse.ArgumentParser:
    """A parser of what all jobs take, but for those that have no `--preset` or no settings."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--take-over", action="store_true", help="end the driver that writes there, go on in its place")
    if preset:
        parser.add_argument("--preset", default="miniworld", help="name in jobs/presets or a YAML file")
    if settings:
        parser.add_argument("overrides", nargs="*", metavar="section.field=value")
    return parser


def check_run_directory(config: RunConfig) -> None:
    """Raise ValueError for a relative run directory inside a submitted job, whose working directory is thrown away."""
    submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    if submitted and "://" not in config.run.dir and not Path(config.run.dir).expanduser().is_absolute():
        raise ValueError(
            f"run.dir={config.run.dir} is relative, but a submitted job runs in a temporary directory; "
            f"give an absolute path or a URI that all nodes see"
        )


def start_ray(config: RunConfig) -> None:
    """Join the cluster that this process belongs to, or start a local one."""
    # Ray's core writes remarks on its own actors to our standard error; faults still arrive as exceptions.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():
        return
    _init_ray(config)
    ray.data.DataContext.get_current().enable_progress_bars = False  # ours count rows
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)


def _init_ray(config: RunConfig) -> None:
    import ray

    given: dict[str, Any] = {"runtime_env": _runtime_environment(), "logging_level": logging.WARNING}
    given["log_to_driver"] = False  # an exception still arrives with its trace; the rest is in Ray's log files
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**given)
        return
    # One of our own, even if a cluster runs (or was killed) on this machine.
    given |= {"address": "local", "num_cpus": config.run.local_cpus, "include_dashboard": False}
    try:
        ray.init(**given)
    except Exception as error:  # Ray has no type for it
        if "timed out during startup" not in str(error):
            raise
        log.warning("Ray did not start within its 30 s: this machine is busy. It is started once more")
        ray.shutdown()
        ray.init(**given)


def _runtime_environment() -> dict[str, Any]:
    """Workers import the code of this checkout."""
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    return {"env_vars": {"PYTHONPATH": path}}


def _stop_ray() -> None:
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()


def _parser() -> argparse.ArgumentParser:
    parser = job_parser(__doc__)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--until", metavar="STAGE", help="stop after this stage")
    parser.add_argument("--only", metavar="STAGE", help="run this stage and those that it stands on, no other")
    return parser


if __name__ == "__main__":
    sys.exit(main())
