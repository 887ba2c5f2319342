"""Places that do not answer: each costs the time limit at most, whatever it is that waits."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import loopback_gcs
import pytest

from mralign.run import reach
from mralign.run.directory import Directory

LIMIT_S = 1.5


@pytest.fixture(autouse=True)
def nothing_is_known(monkeypatch):
    monkeypatch.setattr(reach, "_found", {})


@pytest.fixture
def silent_port():
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_far_places_are_told_apart():
    assert reach.is_far("s3://bucket/x")
    assert reach.is_far("https://host/x.jsonl")
    assert not any(map(reach.is_far, ("runs/x", "/x", "file:///x", "hub://owner/name", "pkg://mralign/x")))


def test_places_that_answer_and_places_that_do_not(bucket, silent_port, monkeypatch):
    silent = f"s3://user:secret@none/x?scheme=http&endpoint_override=127.0.0.1:{silent_port}"
    found = reach.faults(["s3://bucket/run", silent, "other://x"], limit_s=8)
    assert set(found) == {silent, "other://x"}
    assert found[silent] == "does not answer within 8 s"
    assert found["other://x"].startswith("refuses: other://x cannot be opened")
    assert "secret" not in reach.shown(silent)
    monkeypatch.setattr(reach.subprocess, "Popen", None)  # what was found is believed for a while
    assert reach.faults([silent, "s3://bucket/run"]) == {silent: "does not answer within 8 s"}


def test_a_place_where_nothing_can_be_written(bucket):
    assert reach.faults(["s3://bucket/run"], write=True) == {}
    assert not bucket.objects or not any("_probe" in key for key in bucket.objects)
    bucket.refuses_uploads = True
    reach._found.clear()
    assert "refuses: " in reach.faults(["s3://bucket/run"], write=True).get("s3://bucket/run", "")
    assert reach.faults(["s3://bucket/run"]) == {}


@pytest.mark.usefixtures("google_bucket")
def test_google_s_store_answers_and_one_that_is_not_there_does_not(monkeypatch):
    home = loopback_gcs.HOME
    assert reach.faults([f"{home}/run"], write=True) == {}
    assert "NOT_FOUND" in reach.faults(["gs://anonymous@none/run"], write=True)["gs://anonymous@none/run"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", f"http://127.0.0.1:{closed}")
    assert reach.faults([f"{home}/x"], write=True, limit_s=4) == {f"{home}/x": "does not answer within 4 s"}


def test_a_large_run_directory_is_not_listed_to_see_whether_it_may_be(bucket):
    Directory("s3://bucket/run").write_texts({f"responses/{n}": "x" for n in range(50)})
    bucket.calls.clear()
    assert reach.faults(["s3://bucket/run"], write=True) == {}
    (listing,) = (query for method, _, query in bucket.calls if method == "GET" and "list-type" in query)
    assert "_probe-" in listing["prefix"]
    assert not [key for key in bucket.objects if "_probe-" in key]


@pytest.mark.parametrize("status", [401, 403])
def test_a_right_that_is_missing_in_google_s_store_is_said(status, monkeypatch):
    with refusing(status) as address:
        monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", address)
        uri = f"{loopback_gcs.HOME}/run-{status}"
        said = reach.faults([uri], write=True)[uri]
    assert "no such right" in said
    assert "a run needs to list the bucket and to get, put and delete objects" in said


@contextmanager
def refusing(status):
    """A server that refuses every request."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.dumps({"error": {"code": status, "message": "no such right"}}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, format, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_wait_for_a_silent_server_can_be_interrupted(silent_port):
    uri = f"s3://none/x?scheme=http&endpoint_override=127.0.0.1:{silent_port}"
    code = (
        "from mralign.run import interruption\n"
        "interruption.listen()\n"
        "from mralign.run import reach\n"
        f"act = lambda: (print('asks', flush=True), reach.faults([{uri!r}], limit_s=500))\n"
        "raise SystemExit(interruption.guarded(act, explain=lambda error: None))\n"
    )
    environment = {**os.environ, "AWS_EC2_METADATA_DISABLED": "true"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline() == "asks\n"
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 130


def test_a_cluster_that_is_not_there(silent_port):
    assert reach.cluster_fault("") is None
    assert reach.cluster_fault("auto") is None
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    assert reach.cluster_fault(f"127.0.0.1:{closed}").startswith("leads to nobody (")
    assert reach.cluster_fault(f"ray://127.0.0.1:{closed}").startswith("leads to nobody (")
    assert "give HOST:PORT" in reach.cluster_fault("http://127.0.0.1:8265")
    assert "give HOST:PORT" in reach.cluster_fault("head")
    said = reach.cluster_fault(f"127.0.0.1:{silent_port}", limit_s=LIMIT_S)
    assert said == "leads to something that does not answer as the head of a Ray cluster within 2 s"


def test_a_local_directory_that_cannot_be_written(tmp_path):
    assert reach.local_fault(str(tmp_path / "a" / "b")) is None
    (tmp_path / "file").write_text("")
    assert reach.local_fault(str(tmp_path / "file" / "run")).endswith("file is a file and no directory")


@pytest.mark.integration
@pytest.mark.usefixtures("local_ray")
def test_the_head_of_a_cluster_answers():
    import ray

    assert reach.cluster_fault(ray.get_runtime_context().gcs_address) is None


@pytest.mark.parametrize("missing", ["PUT", "LIST", "DELETE", "GET"])
def test_a_right_that_is_missing_is_told_before_a_run_starts(bucket, missing):
    bucket.forbidden = (missing, "HEAD") if missing == "GET" else (missing,)
    said = reach._try(lambda: reach._look("s3://bucket/run", write=True))
    assert said.startswith("refuses: ") and "ACCESS_DENIED" in said
    assert said.endswith("a run needs to list the bucket and to get, put and delete objects")


def test_a_bucket_in_another_region_and_one_that_is_not_there(bucket):
    bucket.region = "eu-central-1"
    said = reach._try(lambda: reach._look("s3://bucket/run", write=True))
    assert said.endswith("set AWS_REGION to it (a file to read may have ?region=... behind it)")
    assert reach._try(lambda: reach._look("s3://bucket/run?region=eu-central-1", write=True)) is None
    bucket.region = ""
    assert "NO_SUCH_BUCKET" in reach._try(lambda: reach._look("s3://other/run", write=True))
