"""Shared memory between a server and one runner: an anonymous file both map, and who may write where.

Each direction has its own arena. The writing side allocates; the reading side says when a block is free again.
Pages are taken from the system only when touched and are given back when the arena becomes empty.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading

_ALIGN = 64
_KEEP_BYTES = 4 * 2**20


def create_file(size_bytes: int) -> int:
    """An anonymous file of that size without any pages yet; returns its descriptor, owned by the caller."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("inference-engine-arena", os.MFD_CLOEXEC)
    else:  # no memfd on this system: an unlinked temporary file does the same
        fd, path = tempfile.mkstemp(prefix="inference-engine-arena-")
        os.unlink(path)  # noqa: PTH108 - a descriptor is all that is wanted
    os.ftruncate(fd, size_bytes)
    return fd


class Arena:
    """First-fit blocks in a shared mapping. Blocks may be taken and given back by any thread."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        self._map = mmap.mmap(fd, size_bytes)
        self.view = memoryview(self._map)
        self._free: list[tuple[int, int]] = [(0, size_bytes)]
        self._used: dict[int, int] = {}
        self._high = 0
        self._changing = threading.Lock()

    def allocate(self, size_bytes: int) -> int | None:
        """Offset of a fresh block, or None when there is no room."""
        with self._changing:
            return self._allocate(-(-size_bytes // _ALIGN) * _ALIGN)

    def _allocate(self, size: int) -> int | None:
        for index, (start, length) in enumerate(self._free):
            if length >= size:
                if length == size:
                    del self._free[index]
                else:
                    self._free[index] = (start + size, length - size)
                self._used[start] = size
                self._high = max(self._high, start + size)
                return start
        return None

    def free(self, offset: int) -> None:
        """Give a block back. An unknown offset is ignored: the other process is not trusted with our bookkeeping."""
        with self._changing:
            self._release(offset)

    def _release(self, offset: int) -> None:
        size = self._used.pop(offset, None)
        if size is None:
            return
        self._free.append((offset, size))
        self._free.sort()
        merged: list[tuple[int, int]] = []
        for start, length in self._free:
            if merged and merged[-1][0] + merged[-1][1] == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + length)
            else:
                merged.append((start, length))
        self._free = merged
        if not self._used and self._high > _KEEP_BYTES:
            self._give_pages_back()

    def _give_pages_back(self) -> None:
        advice = getattr(mmap, "MADV_REMOVE", None)
        if advice is not None:
            self._map.madvise(advice, 0, -(-self._high // mmap.PAGESIZE) * mmap.PAGESIZE)
        self._high = 0

    def close(self) -> None:
        """Unmap. Views into the arena must not be used any more."""
        try:
            self.view.release()
            self._map.close()
        except BufferError:
            # A tensor still looks into the mapping: it is unmapped when that tensor is collected.
            return
