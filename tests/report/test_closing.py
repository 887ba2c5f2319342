"""The last lines of a run: what they print can be used."""

import os
import subprocess
import sys
from pathlib import Path

import loopback_gcs
import pytest

from mralign.report.closing import serving
from mralign.run.directory import Directory


def test_a_model_on_a_disk_is_served_from_there():
    assert serving("/my runs/model") == ["vllm serve '/my runs/model'"]


@pytest.mark.parametrize("names", [["config.json", "weights.bin"], ["config.json", "deep/weights.bin"]])
@pytest.mark.parametrize("store", ["bucket", "google_bucket"])
def test_a_model_in_a_store_is_fetched_by_the_line_that_is_printed(store, names, tmp_path, request):
    request.getfixturevalue(store)
    home = "s3://bucket" if store == "bucket" else loopback_gcs.HOME
    for name in [*(f"model/{name}" for name in names), "other"]:
        Directory(f"{home}/a%20run").write_text(name, "x")
    fetch, serve = serving(f"{home}/a%20run/model")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(fetch, shell=True, check=True, cwd=tmp_path, env={**os.environ, "PATH": path})
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {f"model/{name}" for name in names}
    assert serve == "vllm serve ./model"
