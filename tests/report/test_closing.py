"""The last lines of a run: what they print can be used."""

import os
import subprocess
import sys
from pathlib import Path

from mralign.report.closing import serving


def test_a_model_on_a_disk_is_served_from_there():
    assert serving("/my runs/model") == ["vllm serve '/my runs/model'"]


def test_a_model_in_a_store_is_fetched_by_the_line_that_is_printed(bucket, tmp_path):
    bucket.objects |= {"a run/model/config.json": b"{}", "a run/model/deep/weights.bin": b"123", "a run/other": b"no"}
    fetch, serve = serving("s3://bucket/a%20run/model")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(fetch, shell=True, check=True, cwd=tmp_path, env={**os.environ, "PATH": path})
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"model/config.json", "model/deep/weights.bin"}
    assert serve == "vllm serve ./model"
