"""The viewer's server: it answers this machine only, and hands out nothing but the page."""

import http.client
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from report.answered import write_stages
from report.page_words import page_data
from report.test_record_tables import add_answers
from report.test_report import make_run

from mralign.config import to_yaml
from mralign.report import publish
from mralign.report.page import Page
from mralign.report.run_directories import read_run
from mralign.report.view import page_of, server

PAGE = Page("<p>page</p>", {"data/trajectories-0-0000-0123456789ab.js": "mralign.register(0,0,[]);\n"})


@contextmanager
def serving(page):
    """The port of a server of the page."""
    with server(page, port=0) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield running.server_port
        finally:
            running.shutdown()
            thread.join()


def ask(port, path, *, method="GET", hosts=None):
    """(status, headers, body) of a request that says exactly this path and these Host headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    for host in [f"127.0.0.1:{port}"] if hosts is None else hosts:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_the_page_and_the_files_beside_it_are_handed_out_and_nothing_else(tmp_path):
    (tmp_path / "secret").write_text("secret")
    with serving(PAGE) as port:
        for path in ("/", "/index.html", "/?x=1"):
            status, headers, body = ask(port, path)
            assert (status, body, headers["Content-Type"]) == (200, b"<p>page</p>", "text/html; charset=utf-8")
        name = next(iter(PAGE.files))
        status, headers, body = ask(port, f"/{name}")
        assert (status, body, headers["Content-Type"]) == (
            200,
            PAGE.files[name].encode(),
            "text/javascript; charset=utf-8",
        )
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["X-Frame-Options"] == "DENY"
        for path in (
            *("/data", "/data/", "/config.yaml", "/../config.yaml", "/data/../index.html", "/%2e%2e/secret"),
            *(
                "//etc/passwd",
                "/..%2f..%2fetc/passwd",
                f"/{tmp_path}/secret",
                "/index.html/",
                "*",
                "/data/%00",
                "/INDEX.HTML",
            ),
        ):
            assert ask(port, path)[::2] == (404, b""), path
        assert ask(port, "/", method="HEAD")[::2] == (200, b"")
        assert ask(port, "/", method="POST")[0] == 501


@pytest.mark.parametrize(
    "hosts",
    [["evil.example"], ["evil.example:{port}"], ["127.0.0.1"], ["127.0.0.1:1"], [], ["127.0.0.1:{port}", "evil"]],
)
def test_a_request_for_another_host_is_refused(hosts):
    with serving(PAGE) as port:
        asked = [host.format(port=port) for host in hosts]
        assert ask(port, "/", hosts=asked)[::2] == (421, b"")
        assert ask(port, "/", hosts=[f"localhost:{port}"])[0] == 200


def test_only_the_loopback_address_listens():
    with server(PAGE, port=0) as running:
        assert running.server_address[0] == "127.0.0.1"


def test_a_port_that_is_taken_is_said():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ValueError, match=r"port \d+ cannot be served on 127.0.0.1: .*; give another one, or 0"):
            server(PAGE, port=taken.getsockname()[1])
    with pytest.raises(ValueError, match="port 70000 cannot be served"):
        server(PAGE, port=70000)


def written(home, *, answers=True):
    """A run directory as the stages leave it, without a page: its configuration and its stages."""
    config, planned = make_run(home)
    items = add_answers(home, planned) if answers else planned
    (home / "config.yaml").write_text(to_yaml(config))
    return config, items


def test_a_run_is_read_without_a_report_and_without_the_right_to_write(tmp_path):
    home = tmp_path / "run"
    home.mkdir()
    written(home)
    before = sorted(home.rglob("*"))
    for path in [home, *before]:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    try:
        page = page_of(str(home))
    finally:
        for path in [home, *before]:
            path.chmod(path.stat().st_mode | stat.S_IWUSR)
    assert sorted(home.rglob("*")) == before
    (run,) = page_data(page.html)["runs"]
    assert run["name"] == "run"
    assert len(run["index"]["columns"]["id"]) == 3 + 4


def test_the_page_of_a_directory_is_the_page_that_the_run_wrote(tmp_path):
    config, items = written(tmp_path)
    publish(config, items)
    assert page_of(str(tmp_path)).html == (tmp_path / "report" / "index.html").read_text()


def test_serve_says_where_it_serves_and_ends_quietly_when_it_is_interrupted(tmp_path):
    written(tmp_path)
    code = f"from mralign.report.view import serve; serve([{str(tmp_path)!r}], port=0, open_browser=False)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as viewer:
        said = viewer.stdout.readline()
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", said)[1])
        status, _, body = ask(port, "/")
        viewer.send_signal(signal.SIGINT)
        _, errors = viewer.communicate(timeout=60)
    assert (status, viewer.returncode, errors) == (200, 0, "")
    assert body.decode() == page_of([str(tmp_path)]).html


def test_what_the_last_report_of_a_finished_run_showed_is_shown_again(tmp_path):
    _, items = written(tmp_path)
    left_out = [item for item in items if item.stage.name != "training"]
    write_stages(tmp_path, left_out)
    assert "training" not in read_run(str(tmp_path)).acts
    write_stages(tmp_path, left_out, finished=False)  # the run has gone on since
    assert "training" in read_run(str(tmp_path)).acts


def test_two_runs_are_compared(tmp_path):
    homes = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    for home in homes:
        home.mkdir(parents=True)
        written(home, answers=False)
    text = (homes[1] / "config.yaml").read_text().replace("  seed: 0\n", "  seed: 7\n", 1)
    (homes[1] / "config.yaml").write_text(text)
    data = page_data(page_of([str(home) for home in homes]).html)
    assert [run["name"] for run in data["runs"]] == ["run", "run"]
    sections = {section["anchor"]: section for section in data["compared"]["sections"]}
    table, acc, _ = sections["runs-result"]["blocks"]
    assert table["head"][0] == "Run: method" and [row[0] for row in table["rows"]][:1] == ["run (1): base_think_off"]
    assert [(row["label"], row["tone"]) for row in acc["rows"]][2:4] == [
        ("run (1): mralign", "run-0"),
        ("run (2): base_think_off", "run-1"),
    ]
    assert acc["rows"][2]["value"] == pytest.approx(37.34)
    loss = sections["runs-training"]["blocks"][0]
    assert [line["name"] for line in loss["series"]] == ["run (1): loss", "run (2): loss"]
    (settings,) = sections["runs-settings"]["blocks"]
    assert settings["rows"] == [["run.dir", str(homes[0]), str(homes[1])], ["run.seed", "0", "7"]]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda home: None, r"does not exist; give the directory of a run"),
        (lambda home: home.mkdir(), r"holds no config.yaml, so it is no run directory; give"),
        (lambda home: (home / "one").mkdir(parents=True) or (home / "one/config.yaml").touch(), r"\(runs in it: one\)"),
        (lambda home: home.mkdir() or (home / "config.yaml").write_text("a: ["), r"config.yaml is no YAML"),
        (lambda home: home.mkdir() or (home / "config.yaml").write_text("[]"), r"is no mapping of settings"),
        (lambda home: home.mkdir() or (home / "config.yaml").write_text("{odd: 1}"), r"wrong configuration:"),
    ],
)
def test_a_directory_without_a_run_is_said(tmp_path, make, words):
    make(tmp_path / "home")
    with pytest.raises(ValueError, match=words):
        page_of(str(tmp_path / "home"))


def test_a_run_without_a_finished_stage_is_said(tmp_path):
    config, _ = make_run(tmp_path / "other")
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.yaml").write_text(to_yaml(config))
    with pytest.raises(ValueError, match="has no finished stage yet"):
        page_of(str(home))
    with pytest.raises(ValueError, match="no run directory; give one or more"):
        page_of([])


def test_no_file_descriptor_is_left_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    with serving(PAGE) as port:
        for _ in range(20):
            ask(port, "/")
    assert len(os.listdir("/proc/self/fd")) <= before + 1
