"""Evaluate any model, aligned here or not; or compare two evaluated runs question by question.

    python jobs/evaluate.py --model DIR|NAME [--adapter DIR] [--suite miniworld|quick|paper|FILE] [--data DIR]
                            [--benchmarks NAME ...] [--dry-run] [section.field=value ...]
    python jobs/evaluate.py --compare RUN[:METHOD] RUN[:METHOD] [--common] [--out DIR]

Stop it at any time, run it again: it goes on where it was. A further benchmark asks its own questions only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from mralign.run import interruption  # noqa: E402

if __name__ == "__main__":
    interruption.listen()  # before the imports that take their time

from align import check_run_directory, guarded, job_parser, walk  # noqa: E402

from mralign.comparison import runs  # noqa: E402
from mralign.config import RunConfig, load, parse  # noqa: E402
from mralign.plan import template_dates  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    return guarded(lambda: run(_parser().parse_intermixed_args(arguments)))


def run(args: argparse.Namespace) -> None:
    """Compare two runs, or plan an evaluation, walk it, and print its end."""
    if args.compare:
        if args.overrides:
            raise ValueError(f"--compare takes no settings, given {args.overrides}; it compares what is finished")
        print(runs.compare_runs(*args.compare, common=args.common, out=args.out))
        return
    config = template_dates.settle(configure(args))
    check_run_directory(config)
    walk(config, args=args)


def configure(args: argparse.Namespace) -> RunConfig:
    """The suite with the model in it, its files under --data, and only the benchmarks that are asked for."""
    benchmarks = [item for item in args.benchmarks or () if "=" not in item]
    overrides = [item for item in args.benchmarks or () if "=" in item] + args.overrides
    given = {}
    if args.model is not None:
        label, place = named(args.model, adapter=args.adapter)
        given = {"model.path": args.model, "evaluation.label": label, "run.dir": f"runs/evaluate/{place}"}
    if args.adapter is not None:
        given["model.adapter"] = args.adapter
    said = [f"{name}={json.dumps(value)}" for name, value in given.items()]
    config = load(args.suite, overrides=[*said, *overrides], presets_dir=HERE / "presets" / "suites")
    if config.trains and not any(item.startswith("run.dir=") for item in [*said, *overrides]):
        raise ValueError(
            f"{args.suite} is the configuration of a training, whose run directory is {config.run.dir}; give --model "
            f"or a run.dir of the evaluation's own, or run it by jobs/align.py"
        )
    values: dict[str, Any] = config.model_dump(mode="json")
    values["rollouts"] |= {"import_on": None, "import_off": None}
    sources = values["questions"][config.evaluation.split]
    known = [source["name"] for source in sources]
    if unknown := sorted(set(benchmarks) - set(known)):
        raise ValueError(f"--benchmarks {' '.join(unknown)}: not in this suite; allowed are {', '.join(known)}")
    chosen = [source for source in sources if not benchmarks or source["name"] in benchmarks]
    placed = [source | {"path": _placed(source["path"], data=args.data)} for source in chosen]
    values["questions"] = {config.evaluation.split: placed}
    prompts = values["evaluation"]["prompts"]
    gone = set(known) - {source["name"] for source in chosen}
    values["evaluation"]["prompts"] = {name: prompt for name, prompt in prompts.items() if name not in gone}
    return parse(values)


def named(model: str, *, adapter: str | None) -> tuple[str, str]:
    """A model's name in tables, and that of its run directory, which no other model or adapter shares.

    The model of a run of ours lies in RUN/training/FINGERPRINT/model, and is called RUN.
    """
    path = Path(model)
    said = path.name if path.exists() else model
    if path.name == "model" and len(path.parts) > 3 and path.parts[-3] == "training":
        said = path.parts[-4]
    if adapter is not None:
        said += f"-{Path(adapter).name}"
    label = re.sub(r"[^\w.-]+", "_", said).strip("_") or "model"
    if not path.exists() and adapter is None:
        return label, label  # a name on the hub is one model
    absolute = [str(Path(item).expanduser().absolute()) for item in (model, adapter) if item]
    return label, f"{label}-{hashlib.sha256(' '.join(absolute).encode()).hexdigest()[:6]}"


def _placed(path: str, *, data: str | None) -> str:
    """A relative path under the directory (or URI) of the data; others stay as they are."""
    if data is None or "://" in path or path.startswith(("/", "~")):
        return path
    return f"{data.rstrip('/')}/{path}"


def _parser() -> argparse.ArgumentParser:
    parser = job_parser(__doc__, preset=False)
    parser.add_argument("--model", help="model directory or hub name; default: the suite's")
    parser.add_argument("--adapter", help="LoRA adapter directory on top of the model")
    parser.add_argument("--suite", default="miniworld", help="name in jobs/presets/suites or a YAML file")
    parser.add_argument("--data", metavar="DIR", help="where the suite's files lie")
    parser.add_argument("--benchmarks", nargs="+", metavar="NAME", help="only these of the suite")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--compare", nargs=2, metavar="RUN", help="two run directories, RUN or RUN:METHOD")
    parser.add_argument("--common", action="store_true", help="compare on the questions that both have")
    parser.add_argument("--out", metavar="DIR", help="where the comparison goes; default: in the second run")
    return parser


if __name__ == "__main__":
    sys.exit(main())
