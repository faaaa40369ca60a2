"""Small documents that tenants come back to, such as stored answers, and the port that keeps them for a time."""

from __future__ import annotations

from typing import Protocol


class DocumentStore(Protocol):
    """Keeps documents by id, the tenants apart from each other, bounded in age and in bytes per tenant.

    Blocking and thread-safe. What was used least recently goes first; `get` and `touch` are uses.
    """

    def put(self, tenant: str, id: str, document: bytes) -> None:
        """Keep it, durably, in place of one that has the same id. Raises `OSError` (disk full)."""

    def get(self, tenant: str, id: str) -> bytes:
        """Raises `NotFound`: there never was one, it was deleted, it is too old, or it had to make room."""

    def delete(self, tenant: str, id: str) -> None:
        """Raises `NotFound`."""
