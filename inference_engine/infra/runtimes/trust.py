"""Which files may run code while they are read. Knows digests and the operator's word, and no file format.

A pickle is a program: whoever reads it runs it. It is read only where the operator has listed the digest of exactly
these bytes in the setting `trusted_digests`; a model's folder cannot say so of itself. The server tells its runners
through their environment. Of a single file, the bytes that were hashed are the bytes that are read; of a folder, the
files are read again by its library, so nobody else may be able to write there.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from inference_engine.domain.errors import InvalidManifest, ModelLoadFailed
from inference_engine.domain.model import Manifest

TRUSTED_DIGESTS = "INFERENCE_ENGINE_TRUSTED_DIGESTS"
"""Variable that tells a runner which digests the operator trusts, separated by commas; also the setting's own name."""


def digest_of(content: bytes) -> str:
    """`sha256:` and the hexadecimal digest of `content`."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def tree_digest(folder: Path) -> str:
    """One digest for a whole folder: of the names and digests of its files, in order of their paths.

    Raises:
        ModelLoadFailed: a file in it is a link that leads out of the folder, so that its content could change.
    """
    home, whole = folder.resolve(), hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if not file.resolve().is_relative_to(home):
            raise ModelLoadFailed(f"{file} is a link out of its folder: put the file itself there", param="artifact")
        whole.update(f"{digest_of(file.read_bytes())} {file.relative_to(folder).as_posix()}\n".encode())
    return f"sha256:{whole.hexdigest()}"


def is_trusted(digest: str) -> bool:
    """Whether the operator trusts what has this digest."""
    return digest in os.environ.get(TRUSTED_DIGESTS, "").split(",")


def require_trust(path: Path, digest: str, manifest: Manifest, what: str) -> None:
    """Let `path` pass only where the operator trusts its `digest`; `what` says why it is asked for.

    Raises:
        ModelLoadFailed: it is not trusted; the message has the digest and the setting.
        InvalidManifest: it is, but would run inside the server process.
    """
    if not is_trusted(digest):
        raise ModelLoadFailed(
            f"{path} {what}, and reading it can run any code: it is refused. Save the model in a safe format, or, if "
            f"you know where it comes from, add {digest} to the setting trusted_digests",
            param="artifact",
        )
    if manifest.execution.executor == "thread":
        raise InvalidManifest(
            f"{path} {what}: it is read in a runner process only; remove execution.executor: thread",
            param="execution.executor",
        )
