"""Files of tenants in `<state_dir>/files/TENANT/ID/`: `content`, and `meta.json` beside it. Checks no purpose, no size.

A file is written in a folder whose name begins with a dot and appears under its id by one rename.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import BinaryIO

import msgspec

from inference_engine.core.logging import get_logger
from inference_engine.domain.errors import NotFound
from inference_engine.domain.files import StoredFile
from inference_engine.infra.tenant_folders import checked_id, sync_folder, tenant_folder

_DRAFT = ".draft-"
_GONE = ".gone-"
_log = get_logger(__name__)


class FolderDraft:
    """A `Draft` in a folder of its own."""

    def __init__(self, store: FolderFileStore, tenant: str, folder: Path) -> None:
        self._store = store
        self._tenant = tenant
        self._folder: Path | None = folder
        self._stream = (folder / "content").open("wb", buffering=0)
        self._size = 0

    @property
    def size_bytes(self) -> int:
        return self._size

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:  # an unbuffered stream may take less than it was given
            view = view[self._stream.write(view) or 0 :]
        self._size += len(data)

    def commit(self, file: StoredFile) -> None:
        assert self._folder is not None, "a draft is committed once"
        os.fsync(self._stream.fileno())
        self._stream.close()
        with (self._folder / "meta.json").open("wb") as meta:
            meta.write(msgspec.json.encode(file))
            meta.flush()
            os.fsync(meta.fileno())
        sync_folder(self._folder)
        self._store.adopt(self._tenant, file, self._folder)
        self.discard()

    def discard(self) -> None:
        if self._folder is not None:
            self._stream.close()
            shutil.rmtree(self._folder, ignore_errors=True)  # gone already when it was adopted
            self._folder = None


class FolderFileStore:
    """A `FileStore` over one folder. What is known of the files is kept in memory once a tenant was seen."""

    def __init__(self, state_dir: Path) -> None:
        self._root = state_dir / "files"
        self._known: dict[str, dict[str, StoredFile]] = {}
        self._lock = threading.Lock()

    def draft(self, tenant: str) -> FolderDraft:
        folder = tenant_folder(self._root, tenant)
        folder.mkdir(parents=True, exist_ok=True)
        return FolderDraft(self, tenant, Path(tempfile.mkdtemp(dir=folder, prefix=_DRAFT)))

    def adopt(self, tenant: str, file: StoredFile, folder: Path) -> None:
        """Give a finished draft its name."""
        target = tenant_folder(self._root, tenant) / checked_id(file.id, "file")
        with self._lock:
            files = self._files(tenant)
            if file.id not in files:
                folder.rename(target)
                sync_folder(target.parent)
                files[file.id] = file

    def list(self, tenant: str) -> list[StoredFile]:
        with self._lock:
            return list(self._files(tenant).values())

    def get(self, tenant: str, id: str) -> StoredFile:
        with self._lock:
            found = self._files(tenant).get(id)
        if found is None:
            raise NotFound(f"there is no file {id[:80]!r}", param="file_id")
        return found

    def open(self, tenant: str, id: str) -> BinaryIO:
        self.get(tenant, id)
        try:
            return (tenant_folder(self._root, tenant) / id / "content").open("rb")
        except FileNotFoundError:
            raise NotFound(f"the content of file {id!r} is gone from the server's disk", param="file_id") from None

    def delete(self, tenant: str, id: str) -> None:
        self.get(tenant, id)
        folder = tenant_folder(self._root, tenant)
        with self._lock:
            if self._files(tenant).pop(id, None) is None:
                return
            gone = Path(tempfile.mkdtemp(dir=folder, prefix=_GONE))
            (folder / id).rename(gone / "file")  # one step: a kill from here on leaves nothing that looks like a file
        shutil.rmtree(gone, ignore_errors=True)  # what stays is removed by `tidy`

    def tidy(self) -> None:
        for pattern in (f"*/{_DRAFT}*", f"*/{_GONE}*"):
            for left in self._root.glob(pattern):
                shutil.rmtree(left, ignore_errors=True)

    def _files(self, tenant: str) -> dict[str, StoredFile]:
        known = self._known.get(tenant)
        if known is None:
            found = [self._read(meta) for meta in tenant_folder(self._root, tenant).glob("file-*/meta.json")]
            known = {file.id: file for file in sorted(filter(None, found), key=lambda file: (file.created_at, file.id))}
            self._known[tenant] = known
        return known

    @staticmethod
    def _read(meta: Path) -> StoredFile | None:
        try:
            file = msgspec.json.decode(meta.read_bytes(), type=StoredFile)
        except (OSError, msgspec.MsgspecError) as error:
            _log.warning("file cannot be read", file=str(meta), problem=str(error))
            return None
        return file if file.id == meta.parent.name else None
