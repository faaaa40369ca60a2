"""Documents of tenants in `<state_dir>/KIND/TENANT/ID.json`, bounded in age and bytes. Does not know what they say."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import OrderedDict
from pathlib import Path

from inference_engine.domain.errors import NotFound
from inference_engine.domain.jobs import WallClock
from inference_engine.infra.tenant_folders import checked_id, tenant_folder, write_whole

_SUFFIX = ".json"
_LEFT_FOR_S = 3600


class _Shelf:
    """The documents of one tenant, least recently used first: id -> (last use, bytes)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: OrderedDict[str, tuple[float, int]] = OrderedDict()
        found = []
        for file in folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                status = file.stat()
                found.append((status.st_mtime, file.name.removesuffix(_SUFFIX), status.st_size))
        for used, id, size in sorted(found):
            self.entries[id] = (used, size)
        for left in folder.glob(".draft-*"):  # of a killed server; a young one may be another thread's
            with contextlib.suppress(FileNotFoundError):
                if left.stat().st_mtime < time.time() - _LEFT_FOR_S:
                    left.unlink()
        self.bytes = sum(size for _, size in self.entries.values())

    def file(self, id: str) -> Path:
        return self.folder / (id + _SUFFIX)

    def forget(self, id: str) -> None:
        _, size = self.entries.pop(id)
        self.bytes -= size
        self.file(id).unlink(missing_ok=True)


class FolderDocumentStore:
    """A `DocumentStore` over a folder. `kind` names the folder and, in the singular, the documents in messages."""

    def __init__(self, state_dir: Path, kind: str, max_bytes: int, ttl_s: float, now: WallClock) -> None:
        self._root = state_dir / kind
        self._word = kind.removesuffix("s")
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._now = now
        self._shelves: dict[str, _Shelf] = {}
        self._lock = threading.Lock()

    def put(self, tenant: str, id: str, document: bytes) -> None:
        checked_id(id, self._word)
        with self._lock:
            shelf = self._shelf(tenant)
        write_whole(shelf.file(id), document)  # which takes as long as the disk does: others need not wait
        with self._lock:
            if id in shelf.entries:
                shelf.bytes -= shelf.entries.pop(id)[1]
            self._used(shelf, id, len(document))
            shelf.bytes += len(document)
            self._make_room(shelf, keep=id)

    def get(self, tenant: str, id: str) -> bytes:
        checked_id(id, self._word)
        with self._lock:
            shelf = self._shelf(tenant)
            self._make_room(shelf)
            try:
                document = shelf.file(id).read_bytes() if id in shelf.entries else None
            except FileNotFoundError:
                document = None
            if document is None:
                raise NotFound(f"there is no {self._word} {id!r}: it was never stored, or was deleted, or is too old")
            shelf.entries.pop(id)
            self._used(shelf, id, len(document))
            return document

    def delete(self, tenant: str, id: str) -> None:
        checked_id(id, self._word)
        with self._lock:
            shelf = self._shelf(tenant)
            self._make_room(shelf)
            if id not in shelf.entries:
                raise NotFound(f"there is no {self._word} {id!r}: it was never stored, or was deleted, or is too old")
            shelf.forget(id)

    def _shelf(self, tenant: str) -> _Shelf:
        shelf = self._shelves.get(tenant)
        if shelf is None:
            shelf = self._shelves[tenant] = _Shelf(tenant_folder(self._root, tenant))
        return shelf

    def _used(self, shelf: _Shelf, id: str, size: int) -> None:
        now = self._now()
        shelf.entries[id] = (now, size)
        os.utime(shelf.file(id), (now, now))

    def _make_room(self, shelf: _Shelf, keep: str | None = None) -> None:
        oldest_allowed = self._now() - self._ttl_s
        while shelf.entries:
            id, (used, _) = next(iter(shelf.entries.items()))
            if id == keep or (used >= oldest_allowed and shelf.bytes <= self._max_bytes):
                return
            shelf.forget(id)
