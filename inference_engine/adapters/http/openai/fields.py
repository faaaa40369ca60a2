"""Fields that several stateful endpoints share: metadata, lifetimes, deletions. Knows no service."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from inference_engine.domain.errors import InvalidRequest

MAX_METADATA, MAX_METADATA_KEY, MAX_METADATA_VALUE = 16, 64, 512


class ExpiresAfter(msgspec.Struct, forbid_unknown_fields=True):
    """How long a file is kept, in seconds: from an hour to 30 days."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=3600, le=2_592_000)]


class Deleted(msgspec.Struct):
    id: str
    object: str
    deleted: bool = True


def checked_metadata(metadata: dict[str, str] | None) -> dict[str, str]:
    """Raises `InvalidRequest`: too many pairs, or one too long."""
    given = metadata or {}
    if len(given) > MAX_METADATA:
        raise InvalidRequest(f"metadata has {len(given)} pairs, at most {MAX_METADATA} are kept", param="metadata")
    for key, value in given.items():
        if len(key) > MAX_METADATA_KEY or len(value) > MAX_METADATA_VALUE:
            raise InvalidRequest(
                f"metadata keys have at most {MAX_METADATA_KEY} characters, values {MAX_METADATA_VALUE}; "
                f"{key[:MAX_METADATA_KEY]!r} does not fit",
                param="metadata",
            )
    return given
