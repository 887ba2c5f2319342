"""What a command shows: on a real pseudo-terminal of several sizes, into pipes, as JSON; how it ends; its log file."""

import json
import re
import signal
import subprocess
import sys

import jsonschema
import pytest
from cli.terminal import PROCESS, ROOT, Terminal

from mralign.cli.event_lines import schema

NOISE = ("noise of", "noise below", "bar done", "its error")


def log_of(run):
    (file,) = (run / "logs").iterdir()
    return file


@pytest.mark.parametrize(("columns", "types"), [(40, True), (40, False), (130, True)])
def test_the_table_stays_as_the_last_picture_and_the_result_follows(tmp_path, columns, types):
    terminal = Terminal(str(tmp_path / "run"), "done", columns=columns, types=types)
    assert terminal.end() == 0, terminal.raw.decode()
    lines = terminal.lines
    assert sum(line.startswith("✓ ") for line in lines) == 4  # one table, drawn in one place
    assert "careful: evilred gnp[bold]" in " ".join(" ".join(lines).split())
    end = lines.index("4 of 4 stages done")
    rest = "".join(lines[end + 1 :]).replace(" ", "")
    assert rest == f"report{tmp_path}/run/report/index.htmlnextopenitlog{log_of(tmp_path / 'run')}"
    assert terminal.cursor_is_shown
    assert not any(noise in "\n".join(lines) for noise in NOISE)


def test_halfway_the_stage_under_way_has_a_bar(tmp_path):
    terminal = Terminal(str(tmp_path / "run"), "slow", columns=100)
    terminal.until_ready()
    terminal.read(0.8)
    (row,) = (line for line in terminal.lines if line.startswith("▸"))
    assert re.fullmatch(r"▸ doing 1 ━+[╸╺]?━* +5 of 10 under 1 s left", row)
    assert [line[:9] for line in terminal.lines[1:5]] == ["✓ doing 0", "▸ doing 1", "· doing 2", "· doing 3"]
    assert not terminal.cursor_is_shown
    terminal.type("\n")
    assert terminal.end() == 0


@pytest.mark.parametrize("columns", [40, 140])
def test_a_terminal_that_is_resized_has_one_whole_table(tmp_path, columns):
    terminal = Terminal(str(tmp_path / "run"), "slow", columns=90, rows=20)
    terminal.until_ready()
    terminal.read(0.6)
    terminal.resize(columns=columns, rows=18)
    terminal.read(1.0)
    assert [" ".join(line.split())[:9] for line in terminal.lines if line[:1] in "✓▸·"] == [
        *("✓ doing 0", "▸ doing 1", "· doing 2", "· doing 3"),
    ]
    terminal.type("\n")
    assert terminal.end() == 0
    assert sum(line.startswith("✓ ") for line in terminal.lines) == 4


def test_ctrl_c_ends_it_in_one_sentence_and_the_table_shows_where(tmp_path):
    terminal = Terminal(str(tmp_path / "run"), "waits")
    terminal.until_ready()
    terminal.type("\x03")
    assert terminal.end() == 130
    assert any(line.startswith("✗ doing 1") for line in terminal.lines)
    assert "interrupted: what was committed is kept; run the same command to go on" in terminal.lines[-1]
    assert "Traceback" not in terminal.raw.decode()
    assert terminal.cursor_is_shown
    assert "noise of print" in log_of(tmp_path / "run").read_text()


def test_ctrl_c_twice_gives_the_cursor_back(tmp_path):
    terminal = Terminal(str(tmp_path / "run"), "deaf")
    terminal.until_ready()
    terminal.type("\x03")
    terminal.until_ready()
    assert not terminal.cursor_is_shown
    terminal.type("\x03")
    assert terminal.end() == 130
    assert terminal.cursor_is_shown
    assert log_of(tmp_path / "run").suffix == ".log"  # and nothing beside it


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True)]
)
def test_no_color(tmp_path, environment, coloured):
    terminal = Terminal(str(tmp_path / "run"), "user", **environment)
    assert terminal.end() == 2
    assert bool(re.search(rb"\x1b\[[0-9;]*3[0-7]m", terminal.raw)) == coloured


def test_a_terminal_that_cannot_draw_gets_plain_lines(tmp_path):
    terminal = Terminal(str(tmp_path / "run"), "done", TERM="dumb")
    assert terminal.end() == 0
    assert b"\x1b" not in terminal.raw
    assert b"[2/4] s1: starts (doing 1)" in terminal.raw


def piped(run, how, *options):
    return subprocess.run(
        [sys.executable, str(PROCESS), str(run), how, *options],
        cwd=ROOT,
        capture_output=True,
        timeout=120,
        check=False,
    )


def test_into_pipes_go_plain_lines_and_the_result(tmp_path):
    done = piped(tmp_path / "run", "done")
    assert done.returncode == 0
    assert done.stdout.decode() == f"report  {tmp_path}/run/report/index.html\n\nnext  open it\n"
    said = [line[9:] for line in done.stderr.decode().splitlines()]  # without the time
    assert b"\r" not in done.stderr and b"\x1b" not in done.stderr
    ends = "9 out, rejects {'evil\\x1b[2J\\x1b[31mred\\r\\n\\u202egnp\\x07[bold]': 1}, 1.0 s"
    assert said == [
        *("[1/4] s0: starts (doing 0)", f"[1/4] s0: 10 rows in, {ends}"),
        *("[2/4] s1: starts (doing 1)", f"[2/4] s1: 10 rows in, {ends}"),
        *("[3/4] s2: starts (doing 2)", "careful: evilred", "", f"[3/4] s2: 10 rows in, {ends}"),
        *("[4/4] s3: starts (doing 3)", f"[4/4] s3: 10 rows in, {ends}"),
    ]


def test_quiet_leaves_the_result(tmp_path):
    done = piped(tmp_path / "run", "done", "--quiet")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"next  open it" in done.stdout


def test_verbose_shows_what_is_hidden(tmp_path):
    done = piped(tmp_path / "run", "done", "--verbose")
    assert done.returncode == 0
    for noise in ("noise of print", "noise below python", "noise of a program", "bar done", "noise of a logger"):
        assert noise in done.stderr.decode()
    assert b"a line for the file alone" in done.stderr


def test_json_is_alone_on_standard_output_and_as_documented(tmp_path):
    done = piped(tmp_path / "run", "done", "--json")
    assert done.returncode == 0
    told = [json.loads(line) for line in done.stdout.decode().splitlines()]
    for line in told:
        jsonschema.validate(line, schema())
    assert {line["run"] for line in told} == {log_of(tmp_path / "run").stem}
    kinds = [line["event"] for line in told]
    assert (kinds[0], kinds[-1], kinds.count("stage_began"), kinds.count("stage_ended")) == (
        *("run_began", "run_ended"),
        *(4, 4),
    )
    assert [line["text"] for line in told if line["event"] == "noted"] == ["careful: evilred\ngnp[bold]"]
    assert (told[-1]["status"], told[-1]["log"]) == (0, str(log_of(tmp_path / "run")))
    assert "next  open it" in told[-1]["text"]
    assert [line for line in done.stderr.decode().splitlines() if "careful" not in line and "gnp" not in line] == []


def test_a_reader_of_json_that_has_gone_ends_the_run(tmp_path):
    command = f"{sys.executable} {PROCESS} {tmp_path}/run waits --json | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert done.returncode == 130
    assert b"Traceback" not in done.stderr


def test_a_reader_of_the_result_that_has_gone_is_no_fault(tmp_path):
    command = f"{sys.executable} {PROCESS} {tmp_path}/run done | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert done.returncode == 130, done.stderr
    assert b"fault" not in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_fault_of_ours_is_one_sentence_with_the_place_of_the_traceback(tmp_path, options):
    done = piped(tmp_path / "run", "fails", *options)
    assert done.returncode == 1
    (said,) = (line for line in done.stderr.decode().splitlines() if "fault" in line)
    file = log_of(tmp_path / "run")
    assert said[9:] == f"a fault of mralign, not of your input: KeyError: 'row of ours'. The whole traceback: {file}"
    assert "Traceback" not in done.stderr.decode()
    text = file.read_text()
    assert "Traceback (most recent call last):" in text and "in halfway" in text
    if options:
        last = json.loads(done.stdout.decode().splitlines()[-1])
        assert (last["event"], last["status"], last["text"]) == ("run_ended", 1, said[9:])


def test_what_the_user_can_mend_ends_it_with_2(tmp_path):
    done = piped(tmp_path / "run", "user")
    assert done.returncode == 2
    assert done.stderr.decode().splitlines()[-1][9:] == "stopped: give a number, not a word"


@pytest.mark.integration
def test_a_worker_s_warning_and_fault_reach_the_user_and_its_noise_the_log(tmp_path):
    done = piped(tmp_path / "run", "ray")
    assert done.returncode == 2, done.stderr.decode()
    said = done.stderr.decode()
    assert said.splitlines()[-1][9:] == "stopped: give a number, not a word"
    assert "the endpoint is left alone: evilred" in said
    assert "noise" not in said and "Traceback" not in said and "\x1b" not in said
    text = log_of(tmp_path / "run").read_text()
    assert re.search(r"WARNING mralign \[s1\] the endpoint is left alone: evilred", text)
    assert re.search(r"INFO foreign \[s1\] \(work pid=\d+\) noise of a worker", text)
    assert "ValueError: give a number, not a word" in text  # the traceback


def test_the_log_file_has_everything(tmp_path):
    assert piped(tmp_path / "run", "done").returncode == 0
    file = log_of(tmp_path / "run")
    text = file.read_text()
    for line in (
        *("noise of print", "noise of an error", "noise below python", "noise of a program", "its error"),
        *("noise of a logger", "noise of a warning", "bar 10%", "bar done", "a line for the file alone"),
        *("[2/4] s1: starts (doing 1)", "careful: evilred", "next  open it"),
    ):
        assert line in text, line
    assert re.search(r"INFO foreign \[s1\] noise of print\n", text)
    assert all(line.isprintable() for line in text.splitlines())
    assert file.stat().st_mode & 0o077 == 0


def test_lines_of_the_log_as_json(tmp_path):
    done = piped(tmp_path / "run", "fails", "--log-json")
    assert done.returncode == 1
    file = log_of(tmp_path / "run")
    assert file.suffix == ".jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {row["run"] for row in rows} == {file.stem}
    (noise,) = (row for row in rows if row["message"] == "noise of print")
    assert (noise["stage"], noise["logger"], noise["level"]) == ("s1", "foreign", "INFO")
    (fault,) = (row for row in rows if "traceback" in row)
    assert "KeyError: 'row of ours'" in fault["traceback"]
    assert "[2/4] s1: starts (doing 1)" in [json.loads(line)["message"] for line in done.stderr.decode().splitlines()]


def test_a_signal_into_pipes_ends_it_with_130(tmp_path):
    process = subprocess.Popen(
        [sys.executable, str(PROCESS), str(tmp_path / "run"), "waits"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    for line in process.stderr:
        if b"[2/4] s1: starts" in line:
            break
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"interrupted: what was committed is kept" in said
