"""The command line itself: help, faults of usage, values of options, what a shell completes."""

import os
import subprocess
import sys

import pytest
from command_line import parsed, ran

from mralign.cli.arguments import complete_section, complete_setting, complete_suite, complete_table, listed


def test_without_a_command_the_commands_are_listed(capsys):
    status, said, _ = ran(capsys)
    assert status == 0
    for name in ("align", "evaluate", "compare", "ablate", "taxonomy", "config", "doctor", "version"):
        assert f"\n  {name} " in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["aling"], "No such command 'aling'. Did you mean 'align'?; see mralign --help"),
        (["align", "--presett", "x"], "No such option: --presett"),
        (["align", "--until"], "Option '--until' requires an argument; see mralign --help"),
        (["ablate"], "Missing option '--table'; see mralign ablate --help"),
        (["compare", "--worlds", "0", "1"], "extra argument(s) (1); several values of an option go with commas; see"),
        (["compare", "--worlds", "0,x"], "--worlds 'x': allowed are whole numbers, several with commas between them"),
        (["compare", "--rates", "fast"], "--rates 'fast': allowed are numbers"),
        (["compare", "--methods", "sft,kro"], "--methods 'kro': allowed are sft, kto, mralign, "),
        (["compare", "--trainers", "0"], "Invalid value for '--trainers'"),
        (["evaluate", "--compare", "a"], "Option '--compare' requires 2 arguments"),
    ],
)
def test_a_fault_of_usage_is_one_sentence_and_status_2(capsys, arguments, told):
    status, said, errors = ran(capsys, *arguments)
    assert status == 2
    assert told in errors
    assert said == ""
    assert len(errors.strip().splitlines()) == 1


def test_options_and_settings_may_stand_in_any_order():
    given = parsed("align", "run.seed=1", "--dry-run", "training.epochs=2", "--until", "weights", "run.dir=x")
    assert given["settings"] == ["run.seed=1", "training.epochs=2", "run.dir=x"]
    assert (given["dry_run"], given["until"], given["preset"]) == (True, "weights", "miniworld")


def test_values_of_an_option_come_repeated_or_with_commas():
    assert listed(["1,2", "3", "2"], option="--worlds", of=int, allowed="whole numbers") == (1, 2, 3)
    assert parsed("evaluate", "--benchmarks", "a", "--benchmarks", "b,c")["benchmarks"] == ["a", "b,c"]


def test_settings_and_names_are_completed():
    assert complete_setting("weights.c") == ["weights.control=", "weights.clip_min=", "weights.clip_max="]
    assert complete_setting("training.lo") == ["training.lora.", "training.log_every="]
    assert complete_setting("training.lora.a") == ["training.lora.alpha="]
    assert complete_setting("wei") == ["weights."]
    assert complete_section("wei") == ["weights", "weights."]
    assert complete_table("l") == ["lambda"]
    assert complete_suite("q") == ["quick"]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("mralign align --preset m", ["miniworld"]),
        ("mralign align weights.an", ["weights.anchor="]),
    ],
)
def test_a_shell_gets_its_completions(words, wanted):
    environment = {**os.environ, "_MRALIGN_COMPLETE": "complete_bash", "COMP_WORDS": words}
    environment["COMP_CWORD"] = str(len(words.split()) - 1)
    command = [sys.executable, "-m", "mralign"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == wanted, done.stderr


def test_completion_is_shown_and_installed(tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    command = [sys.executable, "-m", "mralign"]
    for option, shell in (("--show-completion", "bash"), ("--install-completion", "bash")):
        done = subprocess.run(
            [*command, option, shell], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "mralign" in done.stdout
    assert "mralign" in (tmp_path / ".bashrc").read_text()
