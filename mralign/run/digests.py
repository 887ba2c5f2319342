"""The content of an input, file or directory, as a digest: what a fingerprint holds of it.

A local path, a URI or a name of the hub enters; hex digits leave that change when what matters of the content changes.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial

from pyarrow import fs

from mralign.run.directory import ahead
from mralign.run.filesystems import open_filesystem

_SAMPLED_ABOVE = 64 * 2**20
_BLOCK = 2**20
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt")


def digest(path: str) -> str:
    """Content digest of a file, or of the regular files in and below a directory (names and contents).

    Files are read whole, except model weights above 64 MiB: of those, the size and 64 blocks of 1 MiB spread evenly
    from first to last byte. Of a generation_config.json only the end tokens count: we sample by our own settings, and
    a file that is mended so that others can read it makes no other model; a README.md counts for nothing. A path that
    does not exist (a hub name, hub://...) is its own digest.
    """
    if path.startswith("hub://"):
        return f"name:{path}"
    filesystem, inner = open_filesystem(path)
    info = filesystem.get_file_info(inner)
    if info.type == fs.FileType.NotFound:
        return f"name:{path}"
    if info.type == fs.FileType.File:
        return _digest_file(filesystem, info)
    found = filesystem.get_file_info(fs.FileSelector(inner, recursive=True))
    files = [info for info in found if info.type == fs.FileType.File]
    counted = [info for info in files if info.base_name != "README.md"]  # a card is completed when results are there
    digests = ahead(partial(_digest_file, filesystem), counted)
    names = [info.path.removeprefix(inner).lstrip("/") for info in counted]
    lines = [f"{name} {found}" for name, found in zip(names, digests, strict=True)]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _ends(data: bytes) -> bytes:
    """The end tokens in a generation configuration; all of it where it is no JSON object."""
    try:
        values = json.loads(data)
    except ValueError:
        return data
    return json.dumps(values.get("eos_token_id")).encode() if isinstance(values, dict) else data


def _digest_file(filesystem: fs.FileSystem, info: fs.FileInfo) -> str:
    if info.base_name == "generation_config.json":
        with filesystem.open_input_file(info.path) as stream:
            return hashlib.sha256(_ends(bytes(stream.read()))).hexdigest()
    hasher = hashlib.sha256(str(info.size).encode())
    with filesystem.open_input_file(info.path) as stream:
        if info.size > _SAMPLED_ABOVE and info.base_name.endswith(_WEIGHTS):
            for block in range(64):
                stream.seek(block * (info.size - _BLOCK) // 63)
                hasher.update(stream.read(_BLOCK))
        else:
            while data := stream.read(16 * _BLOCK):
                hasher.update(data)
    return hasher.hexdigest()
