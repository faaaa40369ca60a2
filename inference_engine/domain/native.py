"""A library built for this machine's own processor instead of the portable one: its state, as people see it."""

from __future__ import annotations

from typing import Literal

import msgspec


class NativeStatus(msgspec.Struct, frozen=True):
    """`active` is used by runners; `stale` was built for another version or machine and is left alone.

    `features` are the processor's instruction sets that the portable library leaves unused.
    """

    state: Literal["absent", "stale", "active"]
    folder: str
    version: str = ""
    reason: str = ""
    features: tuple[str, ...] = ()
