"""One folder per tenant, files that appear whole or not at all. Knows no kind of content."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

from inference_engine.domain.errors import NotFound

_PLAIN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_ID = re.compile(r"[a-z]{1,16}[-_][0-9a-f]{32}")


def tenant_folder(root: Path, tenant: str) -> Path:
    """The tenant's folder. Names that are not plain are hashed, so that no name leads out of `root` or to another's."""
    if _PLAIN.fullmatch(tenant):
        return root / tenant
    return root / ("=" + hashlib.sha256(tenant.encode()).hexdigest()[:40])


def checked_id(id: str, what: str) -> str:
    """Return `id` when it can be one of ours.

    Raises:
        NotFound: it cannot: what was never given out does not exist.
    """
    if not _ID.fullmatch(id):
        raise NotFound(f"there is no {what} {id[:80]!r}")
    return id


def write_whole(file: Path, data: bytes) -> None:
    """Write `file` durably; a reader sees the old content or the new one. Raises `OSError`; the old one then stays."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".draft-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Make new and changed names in `folder` survive a power cut."""
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
