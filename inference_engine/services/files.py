"""Files of tenants: taken in piece by piece, listed, read, deleted; within limits. Knows no transport and no folder."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import BinaryIO

import msgspec

from inference_engine.domain.errors import InvalidRequest, NotFound
from inference_engine.domain.files import Draft, FileStore, StoredFile, new_id
from inference_engine.domain.jobs import WallClock
from inference_engine.services.storage import refusal

PIECE_BYTES = 1 << 20


class FileLimits(msgspec.Struct, frozen=True):
    """The largest file, and all files of a tenant together."""

    file_bytes: int
    tenant_bytes: int


class Receiving:
    """A file that is coming in: `write` its pieces, then `keep` it; `aclose` forgets what was not kept."""

    def __init__(self, service: FileService, tenant: str, draft: Draft, room_bytes: int) -> None:
        self._service = service
        self._tenant = tenant
        self._draft = draft
        self._room_bytes = room_bytes
        self._pieces = bytearray()

    async def write(self, data: bytes) -> None:
        """Raises `InvalidRequest`: larger than a file, or all the tenant's files, may be. Unavailable: disk full."""
        self._pieces += data
        if self._draft.size_bytes + len(self._pieces) > self._room_bytes:
            raise self._service.too_large(self._room_bytes)
        if len(self._pieces) >= PIECE_BYTES:
            await self._flush()

    async def keep(self, name: str, purpose: str, lifetime_s: int | None = None) -> StoredFile:
        """The file is complete: it is durable when this returns."""
        await self._flush()
        now = self._service.now_s()
        expires = None if lifetime_s is None else now + lifetime_s
        file = StoredFile(new_id("file-"), name, purpose, self._draft.size_bytes, now, expires)
        try:
            await asyncio.to_thread(self._draft.commit, file)
        except OSError as error:
            raise refusal(error, "the file") from error
        return file

    async def aclose(self) -> None:
        await asyncio.to_thread(self._draft.discard)

    async def _flush(self) -> None:
        pieces, self._pieces = self._pieces, bytearray()
        try:
            await asyncio.to_thread(self._draft.write, bytes(pieces))
        except OSError as error:
            raise refusal(error, "the file") from error


class FileService:
    """The files of all tenants. `users` are asked before a file is deleted: each names what still needs it, or None."""

    def __init__(self, store: FileStore, limits: FileLimits, now: WallClock) -> None:
        self.store = store
        self.limits = limits
        self._now = now
        self.users: list[Callable[[str, str], str | None]] = []

    def now_s(self) -> int:
        return int(self._now())

    async def receive(self, tenant: str) -> Receiving:
        """Begin to take in a file, to be closed by the caller.

        Raises:
            InvalidRequest: the tenant's files use up their room. Unavailable: the disk refuses.
        """
        used = sum(file.size_bytes for file in await self.listed(tenant))
        room = min(self.limits.file_bytes, self.limits.tenant_bytes - used)
        if room <= 0:
            raise self.too_large(room)
        try:
            return Receiving(self, tenant, await asyncio.to_thread(self.store.draft, tenant), room)
        except OSError as error:
            raise refusal(error, "the file") from error

    async def listed(self, tenant: str) -> list[StoredFile]:
        """The tenant's files, oldest first; those whose time is over are removed on the way."""
        files = await asyncio.to_thread(self.store.list, tenant)
        kept = [file for file in files if not self._over(file)]
        for file in files:
            if self._over(file) and self._user(tenant, file.id) is None:
                with contextlib.suppress(NotFound):  # somebody was quicker
                    await self._remove(tenant, file.id)
        return kept

    async def get(self, tenant: str, id: str) -> StoredFile:
        """Raises `NotFound`: also for a file of another tenant."""
        file = await asyncio.to_thread(self.store.get, tenant, id)
        if self._over(file):
            raise NotFound(f"file {id!r} has expired", param="file_id")
        return file

    async def open(self, tenant: str, id: str) -> AsyncGenerator[bytes]:
        """The bytes in pieces, to be closed by the caller. Raises `NotFound`."""
        await self.get(tenant, id)
        return _pieces(await asyncio.to_thread(self.store.open, tenant, id))

    async def delete(self, tenant: str, id: str) -> None:
        """Raises `NotFound`; InvalidRequest: something still needs the file."""
        await asyncio.to_thread(self.store.get, tenant, id)
        user = self._user(tenant, id)
        if user is not None:
            raise InvalidRequest(
                f"file {id!r} is in use: {user} still reads it; cancel that, or wait for its end", param="file_id"
            )
        await self._remove(tenant, id)

    async def _remove(self, tenant: str, id: str) -> None:
        try:
            await asyncio.to_thread(self.store.delete, tenant, id)
        except OSError as error:
            raise refusal(error, "the deletion") from error

    def _user(self, tenant: str, id: str) -> str | None:
        return next((user for ask in self.users if (user := ask(tenant, id)) is not None), None)

    def _over(self, file: StoredFile) -> bool:
        return file.expires_at is not None and file.expires_at <= self._now()

    def too_large(self, room_bytes: int) -> InvalidRequest:
        if room_bytes >= self.limits.file_bytes:
            return InvalidRequest(
                f"the file is larger than {self.limits.file_bytes} bytes: split it, or raise file_max_mb", param="file"
            )
        return InvalidRequest(
            f"your files may use {self.limits.tenant_bytes} bytes together, and this one does not fit: delete some, "
            "or raise files_total_mb",
            param="file",
        )


async def _pieces(stream: BinaryIO) -> AsyncGenerator[bytes]:
    try:
        while piece := await asyncio.to_thread(stream.read, PIECE_BYTES):
            yield piece
    finally:
        stream.close()
