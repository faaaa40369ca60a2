"""Gives the memory of models that are gone back to the system. Knows Python's and the C library's allocators only.

A model of the server's own process leaves objects that refer to each other (a Python class, its module and the arrays
in it), which only the garbage collector finds, and that looks seldom here; and pages that the C library would keep.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
from functools import cache
from typing import Any

DELAY_S = 0.5
_M_ARENA_MAX = -8  # of glibc's malloc.h


def one_arena() -> None:
    """Let all threads of a server allocate from one place. To be called before threads are started.

    The C library gives each thread a place of its own, and `malloc_trim` does not return the free end of those: up to
    64 MB in each that once loaded a model.
    """
    set_option = getattr(_c_library(), "mallopt", None)
    if set_option is not None:
        set_option(_M_ARENA_MAX, 1)


class MemoryReturn:
    """To be told of each model that was unloaded. Acts once, in a thread, for all that go within `delay_s`."""

    def __init__(self, delay_s: float = DELAY_S) -> None:
        self._delay_s = delay_s
        self._due: asyncio.TimerHandle | None = None

    def __call__(self, _: object) -> None:
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(self._delay_s, self._begin)

    def _begin(self) -> None:
        self._due = None
        asyncio.get_running_loop().run_in_executor(None, give_back)


def give_back() -> None:
    """Collect what nothing refers to any more, and return free pages. Takes milliseconds; more where much is loaded."""
    gc.collect()
    trim = getattr(_c_library(), "malloc_trim", None)
    if trim is not None:
        trim(0)


@cache
def _c_library() -> Any:
    """What this process is linked with; only glibc has `malloc_trim`."""
    return ctypes.CDLL(None)
