"""What a client of a far store knows of finished stages, so that it asks for nothing twice.

Manifests and small files enter by place and leave again. Nothing in a finished stage changes: a stage that has to make
a part anew is unsealed first, and is then forgotten here. Of a stage under way something is kept only while nobody but
this process writes into it (`fix`); of a local disk nothing, as it answers at once. A plan, and a run that has the
lease, begin by forgetting the run directory: other processes may have worked there. Folders that were missing by then
stay so until this process writes into one, or lets others do so (`appears`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
        self._missing: set[str] = set()
        self._filling: list[str] = []
        self._files: OrderedDict[str, bytes] = OrderedDict()

    def manifest(self, stage: str) -> Manifest | None:
        """The manifest of a stage that was found finished."""
        with self._lock:
            return self._manifests.get(stage)

    def keep_manifest(self, stage: str, manifest: Manifest) -> None:
        if self.keeps:
            with self._lock:
                self._manifests[stage] = manifest

    def fix(self, directory: str) -> None:
        """Nobody but this process writes into a directory, until it is forgotten."""
        if self.keeps:
            with self._lock:
                self._fixed.add(directory)

    def is_still(self, directory: str) -> bool:
        """Whether a directory is that of a finished stage or fixed, or lies in one that is."""
        with self._lock:
            still = {*self._manifests, *self._fixed}
        return any(_is_in(directory, stage) for stage in still)

    def keep_missing(self, folders: Iterable[str]) -> None:
        """These folders do not exist, and nobody but this process will let them appear. Those that are being filled
        are left out."""
        if self.keeps:
            with self._lock:
                self._missing.update(folder for folder in folders if not self._is_filled(folder))

    @contextmanager
    def filling(self, place: str) -> Iterator[None]:
        """Within the block workers write to a place, whatever any thread of this process has found there before."""
        with self._lock:
            self._filling.append(place)
        try:
            self.appears(place)
            yield
        finally:
            with self._lock:
                self._filling.remove(place)

    def appears(self, place: str) -> None:
        """From now on there may be something at a place: in the folder that it lies in, in any folder below it."""
        with self._lock:
            self._missing = {one for one in self._missing if not _is_in(place, one) and not _is_in(one, place)}

    def is_missing(self, place: str) -> bool:
        """Whether a place is known to be a folder that does not exist, or to lie in one."""
        with self._lock:
            return any(_is_in(place, folder) for folder in self._missing)

    def file(self, place: str) -> bytes | None:
        """What is in a file of a finished stage, if this process has read it."""
        with self._lock:
            data = self._files.get(place)
            if data is not None:
                self._files.move_to_end(place)
            return data

    def keep_file(self, place: str, data: bytes) -> None:
        """Keep what is in a file, if it is small and its stage is finished; others make room for it."""
        if len(data) > SMALL or not self.is_still(place.rpartition("/")[0]):
            return
        with self._lock:
            self._drop(place)
            self._files[place] = data
            self._held += len(data)
            while self._held > self._room:
                self._drop(next(iter(self._files)))

    def forget(self, place: str) -> None:
        """Forget a file, or a directory with all that is known of what lies below it."""

        def gone(name: str) -> bool:
            return _is_in(name, place)

        with self._lock:
            self._manifests = {stage: found for stage, found in self._manifests.items() if not gone(stage)}
            self._fixed = {directory for directory in self._fixed if not gone(directory)}
            self._missing = {folder for folder in self._missing if not gone(folder)}
            for name in [name for name in self._files if gone(name)]:
                self._drop(name)

    def _is_filled(self, folder: str) -> bool:
        """Whether workers write to a place in a folder."""
        return any(_is_in(place, folder) for place in self._filling)

    def _drop(self, place: str) -> None:
        self._held -= len(self._files.pop(place, b""))


def _is_in(place: str, folder: str) -> bool:
    """Whether a place is a folder or lies in it."""
    return place == folder or place.startswith(f"{folder}/")
