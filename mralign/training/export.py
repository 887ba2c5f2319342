"""What training leaves, copied to where the run lives.

A local directory (the adapter, or the merged model) enters; the same files in the run directory leave.
"""

from __future__ import annotations

from pathlib import Path

from mralign.store import Directory


def upload(source: Path, *, out: Directory, name: str) -> None:
    """Copy the files below the local directory `source` to `name` in `out`."""
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        out.write_bytes(f"{name}/{path.relative_to(source).as_posix()}", path.read_bytes())
