"""One run of scale.py, in a process of its own: synthetic questions through the road up to the training examples.

A road (sampled or imported), a number of questions and a directory enter; for each stage its seconds, the peak memory
of driver and workers, its files and its list calls leave, as the last line. The engine is a FAKE: it writes a text that
follows from the question at once, or at a settable speed, and asks no model. Everything else is the run's own.
"""

import asyncio
import json
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from pyarrow import fs

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "mralign" / "miniworld" / "data" / "model"
LISTS = "SCALE_LISTS"  # environment variable with the file that grows by a byte a list call
DRAWN = 10  # questions of which 6 become positive, 2 negative, 2 stay undecided
SEGMENTS = (
    "understand the goal the question asks for the {}",
    "break it down into the capital and the language",
    "remember that {} is known for its ports",
    "because it holds the symbol of the realms",
    "next the following is to check the case of {}",
    "wait check that {} is the one",
    "compared with others {} is more plausible",
    "finally all together it means {}",
)


def words():
    """Words of the embedded world that mean nothing."""
    vocabulary = json.loads((MODEL / "tokenizer.json").read_text())["model"]["vocab"]
    return [token.removeprefix("▁") for token in vocabulary if token.startswith("▁") and len(token) == 8]


WORDS = words()


def names(number):
    """Three words that no other number has."""
    size = len(WORDS)
    return WORDS[number % size], WORDS[number // size % size], WORDS[number // size**2 % size]


def question(number):
    first, second, third = names(number)
    return {
        "id": str(number),
        "question": f"tell me the capital of {third} {second} {first}",
        "answer": first,
    }


def text_of(number, *, mode, segments):
    """What the model is made to say: thinking helps in six questions of ten, and hurts in two."""
    first, second, _ = names(number)
    kind = number % DRAWN
    right = kind < 6 or kind >= 8 if mode == "on" else kind >= 6
    answer = first if right else f"{second} {second}"
    if mode == "off":
        return answer
    thought = "\n\n".join(SEGMENTS[(number + n) % len(SEGMENTS)].format(first) for n in range(segments))
    return f"<think>\n{thought}\n</think>\n\n{answer}"


class FakeEngine:
    """Answers as an engine's actor does (run/stream.py), from no model. `speed`: tokens a second; 0: at once."""

    def __init__(self, *, sampling, segments, speed):
        from mralign.chat.model_files import model_path
        from mralign.serving.requests import renderer_of

        self.renderer = renderer_of(sampling, path=model_path(sampling.model))
        self.segments, self.speed = segments, speed

    async def answer(self, rows):
        from mralign.rows import Request
        from mralign.run.stream import Answer

        answers = [Answer(rows=[vars(self.row(Request(**row)))]) for row in rows]
        tokens = sum(answer.rows[0]["completion_tokens"] for answer in answers)
        if self.speed:
            await asyncio.sleep(tokens / self.speed)
        return answers

    def row(self, request):
        number = int(request.question_id.rpartition("/")[2])
        text = text_of(number, mode=request.mode, segments=self.segments)
        tokenizer = self.renderer.tokenizer
        token_ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        prompt = self.renderer.prepare(request)
        return self.renderer.row(request, prompt, text=text, token_ids=token_ids, finish_reason="stop")


def write_files(road, *, size, segments, home):
    """The questions, or the rollouts of both modes, as JSON lines; their paths."""
    kinds = ("on", "off") if road == "imported" else ("questions",)
    paths = {kind: home / f"{kind}.jsonl" for kind in kinds}
    for kind, path in paths.items():
        with path.open("w") as file:
            for number in range(size):
                row = question(number)
                if kind != "questions":
                    row["response"] = text_of(number, mode=kind, segments=segments)
                file.write(json.dumps(row) + "\n")
    return paths


def config_of(road, *, paths, home):
    from mralign.config import parse

    source = {"questions": {"train": [{"name": "scale", "path": str(paths.get("questions"))}]}}
    if road == "imported":
        source = {}
    wide = {"min_segments": 2, "max_segments": 1000, "min_thought_tokens": 5, "max_thought_tokens": 100_000}
    imported = {"import_on": str(paths["on"]), "import_off": str(paths["off"])} if road == "imported" else {}
    return parse(
        {
            **source,
            "run": {"dir": str(home / "run"), "local_cpus": 2},
            "model": {"path": str(MODEL), "dtype": "float32"},
            "rollouts": {"n": 1, "order": "all", **imported},
            "candidates": wide,
            "examples": {"max_length": 4096},
        }
    )


def count_lists():
    """Let every list call of this process leave a byte in the file that LISTS names."""
    plain = fs.FileSelector
    place = os.environ[LISTS]

    def counted(*args, **kwargs):
        with open(place, "ab", buffering=0) as file:
            file.write(b".")
        return plain(*args, **kwargs)

    fs.FileSelector = counted


@dataclass
class Watch:
    """What each stage took: hears the run's events, and looks at the processes four times a second."""

    home: Path
    lists: Path
    stages: dict = field(default_factory=dict)
    going: bool = True

    def __post_init__(self):
        self.me = psutil.Process()
        self.worker = self.workers = self.private = 0
        self.cpu = {}  # seconds by process, of those that have ended as well
        threading.Thread(target=self.keep_looking, daemon=True).start()

    def keep_looking(self):
        while self.going:
            self.look()
            time.sleep(0.25)

    def look(self):
        """Take the memory of the workers and of this process, and the time that all of them have computed."""
        sizes = []
        for process in [self.me, *self.me.children(recursive=True)]:
            try:
                info, spent = process.memory_info(), process.cpu_times()
                self.cpu[process.pid] = spent.user + spent.system
                if process == self.me:
                    self.private = max(self.private, info.rss - info.shared)
                elif process.name().startswith("ray::"):
                    sizes.append(info.rss - info.shared)
            except psutil.Error:
                continue
        self.worker, self.workers = max([self.worker, *sizes]), max(self.workers, sum(sizes))

    def computed_s(self):
        self.look()
        return sum(self.cpu.values())

    def hear(self, event):
        from mralign.run import events

        if isinstance(event, events.StageBegan):
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
            self.worker = self.workers = self.private = 0
            self.before = self.lists.stat().st_size
            self.computed_before = self.computed_s()
        if isinstance(event, events.StageEnded):
            self.stages[event.stage] = {
                "seconds": round(event.seconds, 1),
                "cpu_s": round(self.computed_s() - self.computed_before, 1),
                "rows_in": event.rows_in,
                "rows_out": event.rows_out,
                "rejects": sum(event.rejects.values()),
                "driver_mib": round(peak_kib() / 1024),
                "driver_private_mib": round(self.private / 2**20),
                "worker_mib": round(self.worker / 2**20),
                "workers_mib": round(self.workers / 2**20),
                "files": sum(len(files) for _, _, files in os.walk(self.home / "run" / event.stage)),
                "bytes": bytes_below(self.home / "run" / event.stage),
                "lists": self.lists.stat().st_size - self.before,
            }


def bytes_below(place):
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


def peak_kib():
    """VmHWM of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def measure(road, *, size, segments, speed, home):
    from mralign.plan import pipeline
    from mralign.run import events, local_ray
    from mralign.run.stream import Pool
    from mralign.serving import streaming

    lists = home / "lists"
    lists.write_bytes(b"")
    os.environ[LISTS] = str(lists)
    count_lists()
    config = config_of(road, paths=write_files(road, size=size, segments=segments, home=home), home=home)

    def start_ray():
        import ray
        from python_path import python_path

        environment = {"PYTHONPATH": python_path(ROOT, Path(__file__).parent), LISTS: str(lists)}
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=str(home / "ray"),
            runtime_env={"env_vars": environment, "worker_process_setup_hook": "_scale_run.count_lists"},
        )
        local_ray.settle_data()

    def fake_pool(sampling):
        import ray

        given = {"sampling": sampling, "segments": segments, "speed": speed}
        return Pool(FakeEngine, given=given, arguments={"compute": ray.data.ActorPoolStrategy(size=1), "num_cpus": 1})

    import _scale_run

    FakeEngine.__module__ = _scale_run.__name__
    streaming._pool = fake_pool
    watch = Watch(home, lists)
    planned = pipeline.plan(config, until="examples")
    began = time.monotonic()
    with events.listening(watch.hear):
        pipeline.run(config, planned, start_ray=start_ray)
    seconds = time.monotonic() - began
    watch.going = False
    return {"road": road, "size": size, "seconds": round(seconds, 1), "stages": watch.stages}


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]
    given = json.loads(sys.argv[1])
    found = measure(given.pop("road"), home=Path(given.pop("home")), **given)
    print(json.dumps(found))
