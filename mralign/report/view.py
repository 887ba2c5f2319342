"""The viewer: the page of one or several runs, served to this machine alone.

Run directories enter, also ones that cannot be written to; a server on the loopback address answers until it is
interrupted. It hands out the page and the files beside it, all made beforehand and held in memory: there is no path to
leave, and no file of the disk is ever opened for a request. A request whose Host header names another machine is
refused, so that no page of somebody else can read the run through a name that points here.
"""

from __future__ import annotations

import logging
import webbrowser
from collections.abc import Mapping, Sequence
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from mralign.report.document import document_of
from mralign.report.page import Page, make_page
from mralign.report.run_directories import read_run
from mralign.report.side_by_side import compared

log = logging.getLogger("mralign")

LOOPBACK = "127.0.0.1"
_TYPES = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8"}
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def serve(run_dir: str | Sequence[str], *, port: int = 0, open_browser: bool = True) -> None:
    """Serve the page of a run, or of several beside each other, until Ctrl-C; port 0 takes a free one.

    Raises ValueError for a directory that holds no run, and for a port that cannot be had.
    """
    page = page_of(run_dir)
    with server(page, port=port) as serving:
        address = f"http://{LOOPBACK}:{serving.server_port}/"
        print(f"the run can be looked at under {address}   (Ctrl-C ends this)", flush=True)
        if open_browser:
            webbrowser.open(address)
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            print()


def page_of(run_dir: str | Sequence[str]) -> Page:
    """The page of a run directory, or of several, made anew from their committed tables."""
    directories = [run_dir] if isinstance(run_dir, str) else list(run_dir)
    if not directories:
        raise ValueError("no run directory; give one or more, e.g. mralign view runs/default")
    runs = [read_run(directory) for directory in directories]
    log.info("reading the trajectories of %r", [run.name for run in runs])
    side_by_side = compared(runs) if len(runs) > 1 else None
    return make_page([document_of(run) for run in runs], compared=side_by_side)


def server(page: Page, *, port: int) -> ThreadingHTTPServer:
    """A server of the page, bound to the loopback address; `serve_forever` starts it.

    Raises ValueError for a port that is taken or not allowed.
    """
    files = {f"/{name}": text.encode() for name, text in page.files.items()}
    files |= dict.fromkeys(("/", "/index.html"), page.html.encode())
    try:
        return ThreadingHTTPServer((LOOPBACK, port), partial(_PageHandler, files))
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"port {port} cannot be served on {LOOPBACK}: {error}; give another one, or 0 for any that is free"
        ) from None


class _PageHandler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for the files of one page."""

    server_version = "mralign"
    sys_version = ""
    timeout = 30  # seconds that a silent client may hold a thread

    def __init__(self, files: Mapping[str, bytes], *given: object) -> None:
        self.files = files
        super().__init__(*given)  # type: ignore[arg-type]  # request, address, server: as the server hands them on

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        if not self._asked_of_here():
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST)
            return
        path = self.path.partition("?")[0]
        content = self.files.get(path)
        if content is None:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        ending = "html" if path == "/" else path.rpartition(".")[2]
        self._head(HTTPStatus.OK, length=len(content), kind=_TYPES[ending])
        if body:
            self.wfile.write(content)

    def _asked_of_here(self) -> bool:
        """Whether the Host header, of which there must be one, names this machine and this port."""
        assert isinstance(self.server, ThreadingHTTPServer)
        port = self.server.server_port
        allowed = {f"{name}:{port}" for name in (LOOPBACK, "localhost")}
        allowed |= {LOOPBACK, "localhost"} if port == 80 else set()
        return self.headers.get_all("Host", []) in [[name] for name in allowed]

    def _refuse(self, status: HTTPStatus) -> None:
        self._head(status, length=0, kind="text/plain")

    def _head(self, status: HTTPStatus, *, length: int, kind: str) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """What was asked goes to the log, where a control character of a path is shown by its code."""
        log.debug("viewer: %r", format % args)
