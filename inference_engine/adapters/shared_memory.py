"""Regions of system shared memory that local clients registered, read and written by offset. Knows no protocol.

The kernel bounds every access (`pread`, `pwrite`): a client that shrinks its region gets an error, not a server that is
killed by a fault, as a mapping would be. Blocking, short.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import msgspec

from inference_engine.domain.errors import Forbidden, InvalidRequest, InvalidTensor

_FOLDER = Path("/dev/shm")
_KEY = re.compile(r"/?(?!\.)[A-Za-z0-9._-]{1,200}")
_MAX_REGIONS = 256
_MAX_NAME = 256


class Region(msgspec.Struct, frozen=True):
    """`size_bytes` from `offset` on of the shared memory object `key`, held open by `descriptor`."""

    name: str
    key: str
    offset: int
    size_bytes: int
    descriptor: int


class Regions:
    """What is registered now. Every use raises `Forbidden` where the operator has not switched `setting` on."""

    def __init__(self, enabled: bool, setting: str) -> None:
        self._enabled = enabled
        self._setting = setting
        self._regions: dict[str, Region] = {}

    def register(self, name: str, key: str, offset: int, size_bytes: int) -> None:
        """Make a region known by `name`.

        Raises:
            InvalidRequest: a name that is taken, a key outside /dev/shm, or a size beyond the object.
        """
        self._check()
        if not 0 < len(name) <= _MAX_NAME:
            raise InvalidRequest(f"name must have 1 to {_MAX_NAME} characters", param="name")
        if name in self._regions:
            raise InvalidRequest(f"region {name[:80]!r} is registered already: unregister it first", param="name")
        if len(self._regions) >= _MAX_REGIONS:
            raise InvalidRequest(f"{_MAX_REGIONS} regions are registered: unregister some first", param="name")
        if not _KEY.fullmatch(key):
            raise InvalidRequest(
                f"key {key[:80]!r} is not the name of a shared memory object: use letters, digits, '.', '_' and '-'",
                param="key",
            )
        descriptor = _opened(key)
        try:
            _check_object(os.fstat(descriptor), key, offset, size_bytes)
        except BaseException:
            os.close(descriptor)
            raise
        self._regions[name] = Region(name, key, offset, size_bytes, descriptor)

    def unregister(self, name: str) -> None:
        """Forget one region, or all for the empty name; one that is not there is no error, as in Triton."""
        self._check()
        for gone in [name] if name else list(self._regions):
            region = self._regions.pop(gone, None)
            if region is not None:
                os.close(region.descriptor)

    def status(self, name: str) -> list[Region]:
        """One region, or all for the empty name. Raises `InvalidRequest` for one that is not there."""
        self._check()
        return [self._found(name, "name")] if name else list(self._regions.values())

    def read(self, region: str, offset: int, size_bytes: int, tensor: str) -> bytes:
        """The bytes of an input. Raises `InvalidTensor` for bytes outside the region."""
        found = self._part(region, offset, size_bytes, tensor)
        raw = os.pread(found.descriptor, size_bytes, found.offset + offset)
        if len(raw) != size_bytes:
            raise InvalidTensor(f"input {tensor!r}: the region {region!r} has become shorter", param=tensor)
        return raw

    def write(self, region: str, offset: int, room_bytes: int, raw: bytes, tensor: str) -> None:
        """Put an output where the client wants it. Raises `InvalidTensor` where it does not fit."""
        found = self._part(region, offset, room_bytes, tensor)
        if len(raw) > room_bytes:
            raise InvalidTensor(
                f"output {tensor!r} has {len(raw)} bytes, shared_memory_byte_size gives it {room_bytes}", param=tensor
            )
        if found.offset + offset + len(raw) > os.fstat(found.descriptor).st_size:
            raise InvalidTensor(f"output {tensor!r}: the region {region!r} has become shorter", param=tensor)
        os.pwrite(found.descriptor, raw, found.offset + offset)

    def close(self) -> None:
        """Forget all regions."""
        if self._enabled:
            self.unregister("")

    def _part(self, region: str, offset: int, size_bytes: int, tensor: str) -> Region:
        self._check()
        found = self._found(region, tensor)
        if offset < 0 or size_bytes < 0 or offset + size_bytes > found.size_bytes:
            raise InvalidTensor(
                f"tensor {tensor!r}: shared_memory_offset {offset} and shared_memory_byte_size {size_bytes} end beyond "
                f"the {found.size_bytes} bytes of region {region!r}",
                param=tensor,
            )
        return found

    def _found(self, name: str, param: str) -> Region:
        region = self._regions.get(name)
        if region is None:
            raise InvalidRequest(
                f"shared memory region {name[:80]!r} is not registered: register it first", param=param
            )
        return region

    def _check(self) -> None:
        if not self._enabled:
            raise Forbidden(
                f"shared memory is switched off: the server's operator can set {self._setting}, or send the tensor"
            )


def _opened(key: str) -> int:
    try:
        return os.open(_FOLDER / key.lstrip("/"), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InvalidRequest(
            f"shared memory object {key!r} cannot be opened: {os.strerror(error.errno or 0)}", param="key"
        ) from None


def _check_object(found: os.stat_result, key: str, offset: int, size_bytes: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise InvalidRequest(f"key {key!r} is no shared memory object", param="key")
    if size_bytes < 1 or offset < 0 or offset + size_bytes > found.st_size:
        raise InvalidRequest(
            f"offset {offset} and byte_size {size_bytes} do not lie within the {found.st_size} bytes of {key!r}",
            param="byte_size",
        )
