"""Files that tenants keep on the server, and the port behind which they lie. Knows no folder and no dialect."""

from __future__ import annotations

from secrets import token_hex
from typing import BinaryIO, Protocol

import msgspec


class StoredFile(msgspec.Struct, frozen=True):
    """What is known of a file beside its bytes. Times are whole seconds since 1970; `expires_at` None is never."""

    id: str
    name: str
    purpose: str
    size_bytes: int
    created_at: int
    expires_at: int | None = None


def new_id(prefix: str) -> str:
    """An identifier that cannot be guessed: 128 random bits behind `prefix`."""
    return prefix + token_hex(16)


class Draft(Protocol):
    """A file while it is being written. Nobody sees it before `commit`; blocking, used by one thread at a time."""

    @property
    def size_bytes(self) -> int:
        """How much has been written."""

    def write(self, data: bytes) -> None:
        """Append. Raises `OSError` (disk full); the draft can then only be discarded."""

    def commit(self, file: StoredFile) -> None:
        """Make it durable and visible in one step, under `file.id`. A file of that id that is there already stays."""

    def discard(self) -> None:
        """Forget it. Safe to call after `commit`, when it does nothing."""


class FileStore(Protocol):
    """Keeps the files of tenants apart from each other. Blocking and thread-safe; other methods than these see no path.

    Whatever text comes as an id, no method reaches outside of the tenant's own files.
    """

    def draft(self, tenant: str) -> Draft: ...

    def list(self, tenant: str) -> list[StoredFile]:
        """The tenant's files, oldest first."""

    def get(self, tenant: str, id: str) -> StoredFile:
        """Raises `NotFound`."""

    def open(self, tenant: str, id: str) -> BinaryIO:
        """The bytes, to be closed by the caller; they stay readable if the file is deleted. Raises `NotFound`."""

    def delete(self, tenant: str, id: str) -> None:
        """Raises `NotFound`."""

    def tidy(self) -> None:
        """Remove drafts that a killed server left. Called while nothing is being written."""
