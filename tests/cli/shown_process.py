"""A command that shows a run without doing one, as a process of its own: the events come from here, all else is real.

    python shown_process.py RUN_DIR HOW [OPTION ...]

HOW: done | waits | deaf | slow | fails | user | ray. Once it waits it says `ready` on file descriptor 9, where there is
one.
"""

import logging
import os
import sys
import time
import warnings

from mralign.run import interruption

if __name__ == "__main__":
    interruption.listen()

from mralign.cli.display import display
from mralign.cli.display_options import wishes_of
from mralign.cli.guard import guarded
from mralign.run.events import RunBegan, StageAhead, StageBegan, StageEnded, WorkAdvanced, WorkBegan, tell, within

log = logging.getLogger("mralign")
HOSTILE = "evil\x1b[2J\x1b[31mred\r\n\u202egnp\x07[bold]"


def noise():
    """What other packages do: print, log, warn, write below Python, start programs that print."""
    print("noise of print")
    print("noise of an error", file=sys.stderr)
    os.write(1, b"noise below python\n")
    os.write(2, b"bar 10%\rbar 90%\rbar done\n")
    os.system("echo noise of a program; echo its error >&2")
    logging.getLogger("transformers").warning("noise of a logger")
    warnings.warn("noise of a warning", stacklevel=1)


def ready():
    """Tell whoever started this process."""
    try:
        os.write(9, b"ready\n")
    except OSError:
        return


def play(run_dir, how):
    ahead = [StageAhead(name=f"s{n}", words=f"doing {n}", done=False) for n in range(4)]
    with display.running(run_dir):
        tell(RunBegan(run_dir=run_dir, stages=tuple(ahead)))
        for n in range(4):
            with within(f"s{n}"):
                tell(StageBegan(stage=f"s{n}"))
                stage(n, how)
                tell(StageEnded(stage=f"s{n}", rows_in=10, rows_out=9, rejects={HOSTILE: 1}, seconds=1.0))
        display.result(f"report  {run_dir}/report/index.html\n\nnext  open it")


def stage(number, how):
    tell(WorkBegan(unit="rows", total=10))
    for done in range(1, 11):
        tell(WorkAdvanced(done=done, worked_s=done / 10))
        if number == 1 and done == 5:
            halfway(how)
    if number == 2:
        log.warning("careful: %s", HOSTILE)
        log.debug("a line for the file alone")


def halfway(how):
    noise()
    if how == "waits":
        ready()
        end = time.monotonic() + 50
        while time.monotonic() < end:
            time.sleep(0.1)
            tell(WorkBegan(what="waiting"))
    if how == "deaf":
        while True:
            try:
                ready()
                time.sleep(60)
            except KeyboardInterrupt:
                pass
    if how == "slow":
        ready()
        sys.stdin.readline()
    if how == "ray":
        on_ray()
    if how == "fails":
        raise KeyError("row of ours")
    if how == "user":
        raise ValueError("give a number, not a word")


def on_ray():
    """A worker logs, prints and raises what the user can mend."""
    import ray

    from mralign.config import parse
    from mralign.run import local_ray

    config = parse({"questions": {"test": [{"name": "q", "path": "q.jsonl"}]}, "run": {"local_cpus": 2}})
    local_ray.start(config, hears_workers=True)

    def work():
        print("noise of a worker")
        logging.getLogger("mralign").warning("the endpoint is left alone: %s", HOSTILE)
        time.sleep(2)  # Ray hands on what a worker has printed every half second
        raise ValueError("give a number, not a word")

    ray.get(ray.remote(work).remote())


if __name__ == "__main__":
    given = {name: f"--{name}" in sys.argv for name in ("json", "verbose", "quiet")}
    log_format = "json" if "--log-json" in sys.argv else "text"
    display.wishes = wishes_of({**given, "log_format": log_format})
    sys.exit(guarded(lambda: play(sys.argv[1], sys.argv[2])))
