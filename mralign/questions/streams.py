"""Files as streams of bytes and of text: compressed or not, in whatever encoding, with or without a byte order mark.

A path enters; its bytes leave as they come, unpacked by the suffix of the name. A packed file that ends early or holds
something else is an error that names the file: half a file must not pass for a whole one.
"""

from __future__ import annotations

import codecs
import io
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import PurePosixPath
from typing import IO, Any, cast

import pyarrow as pa
from pyarrow import fs

_BUFFER = 2**20  # bytes
LONGEST_LINE = 2**26  # bytes or characters: a line without end must not fill the memory
LARGEST_UNPACKED = 2**30  # bytes of a packed file that is read whole
_PIECE = 2**16  # bytes unpacked at a time: what comes before a fault is still read
PACKED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".xz": "xz"}
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def split_suffix(path: str) -> tuple[str, str]:
    """(suffix of the form, suffix of the packing or ""), both in lower case: .jsonl and .gz of a URL or path."""
    name = PurePosixPath(path.partition("?")[0] if "://" in path else path)
    last = name.suffix.lower()
    if last in PACKED:
        return PurePosixPath(name.stem).suffix.lower(), last
    return last, ""


@contextmanager
def open_bytes(filesystem: fs.FileSystem, inner: str, *, path: str) -> Iterator[io.BufferedReader]:
    """The unpacked bytes of a file; `path` is its name for the user."""
    packing = PACKED.get(split_suffix(path)[1])
    # compression=None: pyarrow would otherwise unpack by suffixes of its own choice.
    with filesystem.open_input_stream(inner, compression=None) as raw:
        if packing is None:
            yield io.BufferedReader(cast(io.RawIOBase, raw), _BUFFER)
        elif packing == "xz":
            with lzma.open(cast(IO[bytes], raw)) as unpacked:
                yield io.BufferedReader(_Unpacked(unpacked, path=path), _BUFFER)
        else:
            with pa.CompressedInputStream(raw, packing) as unpacked:
                yield io.BufferedReader(_Unpacked(unpacked, path=path), _BUFFER)


class _Unpacked(io.RawIOBase):
    """An unpacking stream whose faults name the file."""

    def __init__(self, stream: Any, *, path: str) -> None:
        super().__init__()
        self.stream, self.path, self.read_bytes = stream, path, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.stream.read(min(len(buffer), _PIECE))
        except (OSError, EOFError, lzma.LZMAError, pa.ArrowInvalid) as error:
            raise ValueError(
                f"file {self.path!r} cannot be unpacked beyond its first {self.read_bytes} bytes ({error}); it is cut "
                f"short or not what its suffix says; fetch it again"
            ) from error
        buffer[: len(data)] = data
        self.read_bytes += len(data)
        return len(data)


def read_whole(stream: io.BufferedReader, *, path: str) -> bytes:
    """All bytes of a stream of `open_bytes`. ValueError if a packed file unpacks to more than LARGEST_UNPACKED."""
    if not split_suffix(path)[1]:
        return stream.read()
    data = stream.read(LARGEST_UNPACKED + 1)
    if len(data) > LARGEST_UNPACKED:
        raise ValueError(
            f"file {path!r} unpacks to more than {LARGEST_UNPACKED} bytes, and can only be read whole; unpack it, or "
            f"convert it to JSONL"
        )
    return data


def lines_of(stream: io.BufferedReader | io.TextIOWrapper) -> Iterator[Any]:
    """The lines of a stream, with their ends. ValueError for one longer than LONGEST_LINE."""
    for number in count(1):
        line = stream.readline(LONGEST_LINE + 1)
        if not line:
            return
        if len(line) > LONGEST_LINE:
            raise ValueError(
                f"line {number} is longer than {LONGEST_LINE} characters; no record is that long: is the file what "
                f"its suffix says (else give `file`)?"
            )
        yield line


def encoding_of(first: bytes, *, default: str) -> str:
    """The encoding that the byte order mark at the beginning of `first` tells, else `default`."""
    for mark, encoding in _MARKS.items():
        if first.startswith(mark):
            return encoding
    return "utf-8-sig" if codecs.lookup(default).name == "utf-8" else default


def text_of(stream: io.BufferedReader, *, encoding: str) -> io.TextIOWrapper:
    """Bytes as text; a byte that is not of the encoding becomes a surrogate, and its record a reject."""
    actual = encoding_of(stream.peek(4)[:4], default=encoding)
    return io.TextIOWrapper(stream, encoding=actual, errors="surrogateescape", newline="")
