"""`mralign fetch`: a directory of a store, such as a trained model, on this machine, where vLLM can serve it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from mralign.run.directory import Directory
from mralign.run.shared_copies import copy_tree


def fetch(
    uri: Annotated[str, typer.Argument(metavar="URI", help="A directory: s3://bucket/..., gs://bucket/..., a path.")],
    target: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="Where it is copied to; not there yet.")],
) -> None:
    """Copy a directory of a store to this machine: the model or adapter of a run, say.

    The copy appears when it is whole.
    """
    if target.exists():
        raise ValueError(f"{target} is there already; delete it, or give another name")
    source = Directory(uri.rstrip("/"))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as beside:
        copied = Path(beside) / target.name
        try:
            copy_tree(source.filesystem, source.path(), target=copied)
        except FileNotFoundError:
            raise ValueError(f"{uri} does not exist, or holds no file; `mralign status` tells what a run has") from None
        shutil.move(copied, target)
    files = [path for path in target.rglob("*") if path.is_file()]
    print(f"{target}: {len(files)} files, {sum(path.stat().st_size for path in files) / 2**20:,.1f} MiB")
