"""`mralign batches`: the batches that a run has left at endpoints, and how to cancel them.

A run directory enters; what the endpoints say of its batches leaves. The keys come from the environment variables that
the run used. What a cancelled batch has answered is still taken by the next run, and what it has not is asked again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated

import aiohttp
import typer
from pyarrow import fs

from mralign.cli.arguments import RunDir
from mralign.config import Http
from mralign.report.wording import aligned
from mralign.run.printable import printable
from mralign.run.store import Directory, absolute
from mralign.serving.api_key import ApiKey
from mralign.serving.batch_api import ENDED, BatchApi, BatchRefused, BatchState, BatchUnanswered
from mralign.serving.batch_requests import Sent, read_sent


@dataclass(frozen=True)
class KnownBatch:
    """A batch of the run, and what its endpoint says of it."""

    sent: Sent
    state: BatchState | None  # None: the endpoint has none
    fault: str = ""  # why it could not be asked


def batches(
    run_dir: RunDir,
    *,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel those that have not ended.")] = False,
) -> None:
    """The batches of requests that a run has left at endpoints (http.batch=true)."""
    written = chain.from_iterable(map(read_sent, caches(run_dir)))
    sent = [one for one in written if not one.done]
    if not sent:
        print(f"{run_dir}: no batch is waited for")
        return
    found = asyncio.run(_ask(sent, cancel=cancel))
    rows = [(one.sent.id or one.sent.mark, f"{len(one.sent.rows)} requests", _status(one)) for one in found]
    print(printable(aligned(rows)))
    if cancel:
        print("what they have answered is taken by the next run, the rest is asked again")


def caches(run_dir: str) -> list[Directory]:
    """The directories of a run in which endpoints keep their answers."""
    run = Directory(absolute(run_dir))
    entries = run.filesystem.get_file_info(fs.FileSelector(run.path(), allow_not_found=True))
    names = sorted(entry.base_name for entry in entries if entry.base_name.startswith("responses"))
    return [Directory(f"{run.uri}/{name}") for name in names]


async def _ask(sent: Sequence[Sent], *, cancel: bool) -> list[KnownBatch]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        return [await _look(session, one, cancel=cancel) for one in sent]


async def _look(session: aiohttp.ClientSession, sent: Sent, *, cancel: bool) -> KnownBatch:
    http = Http(base_url=sent.base_url, key_env=sent.key_env, max_retries=2, max_backoff_s=2)
    api = BatchApi(http, key=ApiKey.from_environment(sent.key_env))
    try:
        state = await (api.look(session, sent.id) if sent.id else api.find(session, mark=sent.mark))
        if cancel and state is not None and state.status not in ENDED:
            state = await api.cancel(session, state.id)
    except (BatchRefused, BatchUnanswered) as error:
        return KnownBatch(sent, None, str(error))
    return KnownBatch(sent, state)


def _status(found: KnownBatch) -> str:
    if found.fault:
        return f"not known: {found.fault}"
    return "was never made" if found.state is None else found.state.status
