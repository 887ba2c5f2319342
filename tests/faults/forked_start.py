"""The command in a process forked from one that has imported its packages: a start takes seconds instead of ten.

Such a process is the command's in all that counts here: it has a session, output and signals of its own, and runs
`main` from its first line. What a real start does before that is tried by signal_runs.py with real starts.
"""

import multiprocessing
import os
import signal
import sys

from align_process import ROOT, environment

PACKAGES = [
    "pytest",
    "ray",
    "ray.data",
    "ray.train",
    "torch._dynamo",
    "transformers.generation",
    "peft",
    "sklearn.metrics",
]
PACKAGES += ["mralign.cli.entry", "mralign.cli.commands", "mralign.cli.align", "mralign.plan.walking"]
PACKAGES += [
    *("mralign.questions.stage", "mralign.rollouts.stage", "mralign.annotation.stage", "mralign.transitions.stage"),
    *("mralign.annotation.agreement_stage", "mralign.transitions.signal_stage", "mralign.training.stage"),
    *("mralign.evaluation.evidence_stage", "mralign.evaluation.judgements_stage", "mralign.evaluation.stage"),
    *("mralign.evaluation.responses_stage", "mralign.evaluation.predictions_stage"),
]


class Forked:
    """A started command, with what the tests use of `subprocess.Popen`."""

    def __init__(self, process):
        self.process, self.pid = process, process.pid

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.process.exitcode

    def wait(self, timeout=None):
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"{self.pid} has not ended within {timeout} s"
        return self.process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)


def start(run_dir, *arguments, log, variables, output=None):
    """As `align_process.start`; `output`: a path (of a named pipe) for standard output. `variables` also stand in this
    process's environment by now, since the process that is forked was begun with it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PACKAGES)
    given = ([f"run.dir={run_dir}", *arguments], {**environment(), **variables}, str(log), output)
    process = context.Process(target=_run, args=given)
    process.start()
    return Forked(process)


def _run(arguments, variables, log, output):
    os.setsid()
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(variables)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    noted = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(noted if output is None else os.open(output, os.O_WRONLY), 1)
    os.dup2(noted, 2)
    sys.argv = ["jobs/align.py", *arguments]
    from mralign.cli.entry import main

    sys.exit(main(["align", *arguments]))
