"""The page: documents of one or several runs become one self-contained HTML file.

Documents enter; HTML leaves, and script files beside it where the texts of the trajectories are too long for one file.
Texts of models are untrusted. They stand in the page as JSON in data blocks, in which no tag can occur; the scripts put
them into the page as text, never as HTML, and the policy of the page runs no script but its own.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from mralign.report.blocks import View, to_script
from mralign.report.document import RunDocument

ALONE_BYTES = 20_000_000  # a page that would be larger keeps its trajectories in files beside it
DATA = "data"  # their directory
_STYLES = ("colours.css", "layout.css", "trajectories.css")
_SCRIPTS = ("dom.js", "figures.js", "maps.js", "blocks.js", "trajectory.js", "browser.js", "main.js")


@dataclass(frozen=True)
class Page:
    """`index.html`, and by name the files that lie beside it."""

    html: str
    files: Mapping[str, str]


def make_page(
    documents: Sequence[RunDocument], *, compared: View | None = None, alone_bytes: int = ALONE_BYTES
) -> Page:
    """The page of these runs. `compared`: what they have side by side, where they are several."""
    style, script = _joined(_STYLES), _joined(_SCRIPTS)
    size = sum(len(chunk) for chunk in chain.from_iterable(document.shelves.chunks for document in documents))
    inside = size <= alone_bytes
    beside, blocks, names = {}, [], []
    for run, document in enumerate(documents):
        own = []
        for number, chunk in enumerate(document.shelves.chunks):
            if inside:
                blocks.append((f"chunk-{run}-{number}", Markup(chunk)))
            else:
                digest = hashlib.sha256(chunk.encode()).hexdigest()[:12]
                name = f"{DATA}/trajectories-{run}-{number:04d}-{digest}.js"
                beside[name] = f"mralign.register({run},{number},{chunk});\n"
                own.append(name)
        names.append(own)
    data = {
        "runs": [_run_data(document, chunks=own) for document, own in zip(documents, names, strict=True)],
        "compared": compared,
    }
    blocks.insert(0, ("page-data", Markup(to_script(data))))
    html = _template().render(
        title=_visible(", ".join(document.name for document in documents)),
        policy=_policy(style=style, script=script, inside=inside),
        style=Markup(style),
        script=Markup(script),
        blocks=blocks,
    )
    return Page(html, beside)


def _run_data(document: RunDocument, *, chunks: Sequence[str]) -> dict[str, object]:
    return {
        "name": document.name,
        "summary": document.summary,
        "views": document.views,
        "macros": document.macros,
        "bounds": document.bounds,
        "footer": document.footer,
        "index": document.shelves.index,
        "files": chunks,
    }


def _policy(*, style: str, script: str, inside: bool) -> str:
    """The Content-Security-Policy: this style and this script, pictures that the page itself made, and nothing else."""
    beside = "" if inside else " 'self' file:"  # a page from the disk is itself to some browsers only
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_digest(script)}'{beside}",
            f"style-src '{_digest(style)}'",
            "img-src blob: data:",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types mralign",
        ]
    )


def _digest(text: str) -> str:
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _joined(names: Sequence[str]) -> str:
    return "\n".join(_packaged(name) for name in names)


def _packaged(name: str) -> str:
    return files(__package__).joinpath("viewer", name).read_text(encoding="utf-8")


def _visible(text: str) -> str:
    """The text with replacement characters for what UTF-8 cannot hold: a name of a file may be any bytes."""
    return text.encode("utf-8", "replace").decode()


def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_packaged("page.html.j2"))
