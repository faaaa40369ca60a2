"""Keeps the slots' KV caches over unloading and loading: files that only the very same model and options read again.

They lie in `<cache folder>/llama_cpp/NAME/VERSION/KEY`. The list of them is written last and taken away before the
first is read, so that neither half a save nor a file that kills the runner is ever tried twice.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from inference_engine.core.logging import get_logger
from inference_engine.domain.errors import InvalidManifest
from inference_engine.domain.model import Manifest
from inference_engine.infra.runtimes.llama_cpp.http_side import HttpSideError
from inference_engine.infra.runtimes.llama_cpp.options import LlamaCppOptions

CACHE_DIR = "INFERENCE_ENGINE_CACHE_DIR"
SAVE_S = 60.0
"""How long saving may take when the model is unloaded."""

_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16
_LIST = "slots.json"
_log = get_logger(__name__)


class SlotServer(Protocol):
    def slots(self) -> bytes: ...

    def slot_action(self, slot: int, action: str, filename: str) -> dict[str, Any]: ...


class _Slot(msgspec.Struct):
    id: int
    n_prompt_tokens: int = 0


class _Saved(msgspec.Struct):
    """One slot's file with its checksum."""

    slot: int
    file: str
    digest: str


class KeptCache:
    """The folder for one model with these options."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def restore(self, server: SlotServer) -> int:
        """Give the slots what was kept for them; how many of them got something. What cannot be read is left out."""
        restored = 0
        for saved in self._listed():
            try:
                if _digest(self.folder / saved.file) == saved.digest:
                    server.slot_action(saved.slot, "restore", saved.file)
                    restored += 1
            except (OSError, HttpSideError) as error:
                _log.warning("a kept prompt cache cannot be read", file=saved.file, error=str(error))
            (self.folder / saved.file).unlink(missing_ok=True)
        return restored

    def _listed(self) -> list[_Saved]:
        path = self.folder / _LIST
        try:
            found = msgspec.json.decode(path.read_bytes(), type=list[_Saved])
            path.unlink()
        except (OSError, msgspec.MsgspecError):
            return []
        return [saved for saved in found if Path(saved.file).name == saved.file]

    def save(self, server: SlotServer) -> None:
        """Write what each slot holds. Nothing may run any more; never raises."""
        kept = []
        try:
            for slot in msgspec.json.decode(server.slots(), type=list[_Slot]):
                if slot.n_prompt_tokens > 0:
                    name = f"slot-{slot.id}.bin"
                    server.slot_action(slot.id, "save", name)
                    kept.append(_Saved(slot.id, name, _digest(self.folder / name)))
            (self.folder / _LIST).write_bytes(msgspec.json.encode(kept))
        except (OSError, HttpSideError, msgspec.MsgspecError) as error:
            _log.warning("the prompt cache could not be kept", folder=str(self.folder), error=str(error))


def open_kept_cache(
    params: Any, manifest: Manifest, options: LlamaCppOptions, files: Iterable[Path], version: str
) -> KeptCache | None:
    """The cache of this model, if its options ask for one; caches of its former files and options are deleted.

    `files` are all that the answers depend on; `version` is the library's.

    Raises:
        InvalidManifest: there is no folder for caches, or other options make a kept cache impossible.
    """
    if not options.keep_cache:
        return None
    root = os.environ.get(CACHE_DIR)
    if not root:
        raise InvalidManifest(
            "options.keep_cache needs a runner process of its own: set execution.executor to runner",
            param="options.keep_cache",
        )
    for name in ("adapters", "draft"):
        if getattr(options, name):
            raise InvalidManifest(f"options.keep_cache cannot go with options.{name}", param="options.keep_cache")
    parent = Path(root) / "llama_cpp" / manifest.name / manifest.version
    folder = parent / _key(manifest, files, version)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for other in parent.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    params.slot_save_path = f"{folder}{os.sep}"
    return KeptCache(folder)


def _key(manifest: Manifest, files: Iterable[Path], version: str) -> str:
    digest = hashlib.blake2b(version.encode(), digest_size=16)
    digest.update(msgspec.json.encode([manifest.options, manifest.digests, manifest.execution.device], order="sorted"))
    for file in files:
        _sample(file, digest)
    return digest.hexdigest()


def _sample(file: Path, digest: Any) -> None:
    """Size, time and pieces from all over a file: reading all of a large model would take longer than prefill saves."""
    status = file.stat()
    digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}".encode())
    with file.open("rb") as opened:
        for index in range(_SAMPLES):
            opened.seek(status.st_size * index // _SAMPLES)
            digest.update(opened.read(_SAMPLE_BYTES))


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
