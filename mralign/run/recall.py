"""What a client of a far store knows of finished stages, so that it asks for nothing twice.

Manifests and small files enter by place and leave again. Nothing in a finished stage changes: a stage that has to make
a part anew is unsealed first, and is then forgotten here. Of a stage under way nothing is kept, since other processes
write into it; nor of a local disk, which answers at once.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from mralign.run.manifest import Manifest

SMALL = 2**20  # bytes of a file that is kept
ROOM = 64 * 2**20  # bytes of all of them


class Recall:
    """Manifests by the URI of their stage, and the files that were used last, up to ROOM bytes; for any thread."""

    def __init__(self, room: int = ROOM, *, keeps: bool = True) -> None:
        self._lock, self._room, self._held, self.keeps = Lock(), room, 0, keeps
        self._manifests: dict[str, Manifest] = {}
        self._fixed: set[str] = set()
        self._files: OrderedDict[str, bytes] = OrderedDict()

    def manifest(self, stage: str) -> Manifest | None:
        """The manifest of a stage that was found finished."""
        return self._manifests.get(stage)

    def keep_manifest(self, stage: str, manifest: Manifest) -> None:
        if self.keeps:
            self._manifests[stage] = manifest

    def fix(self, directory: str) -> None:
        """Nobody but this process writes into a directory, until it is forgotten."""
        if self.keeps:
            self._fixed.add(directory)

    def is_finished(self, directory: str) -> bool:
        """Whether a directory is that of a finished stage or fixed, or lies in one that is."""
        return any(
            directory == stage or directory.startswith(f"{stage}/") for stage in [*self._manifests, *self._fixed]
        )

    def file(self, place: str) -> bytes | None:
        """What is in a file of a finished stage, if this process has read it."""
        with self._lock:
            data = self._files.get(place)
            if data is not None:
                self._files.move_to_end(place)
            return data

    def keep_file(self, place: str, data: bytes) -> None:
        """Keep what is in a file, if it is small and its stage is finished; others make room for it."""
        if len(data) > SMALL or not self.is_finished(place.rpartition("/")[0]):
            return
        with self._lock:
            self._drop(place)
            self._files[place] = data
            self._held += len(data)
            while self._held > self._room:
                self._drop(next(iter(self._files)))

    def forget(self, place: str) -> None:
        """Forget a file, or a stage and all its files."""
        with self._lock:
            self._manifests.pop(place, None)
            self._fixed.discard(place)
            for name in [name for name in self._files if name == place or name.startswith(f"{place}/")]:
                self._drop(name)

    def _drop(self, place: str) -> None:
        self._held -= len(self._files.pop(place, b""))
