"""`mralign batches`: what it says of batches at a loopback server, and that it cancels them."""

import asyncio
from pathlib import Path

from command_line import ran
from loopback_batches import BatchServer, Plan
from serving.test_batch_requests import _until_it_is_made, settings


def test_batches_are_listed_and_cancelled(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    assert ran(capsys, "batches", str(run))[:2] == (0, f"{run}: no batch is waited for\n")
    with BatchServer(Plan(never=True)) as server:
        asyncio.run(_until_it_is_made(settings(server), run / "responses-abc"))
        status, said, _ = ran(capsys, "batches", str(run))
        assert status == 0 and said.split() == ["batch-1", "12", "requests", "in_progress"]
        _, said, _ = ran(capsys, "batches", str(run), "--cancel")
        assert "cancelled" in said and server.batches["batch-1"]["status"] == "cancelled"
        server.plan.forgotten = True
        assert "not known: HTTP 404" in ran(capsys, "batches", str(run))[1]
    assert not list(Path(run).glob("*.json"))  # nothing is written
