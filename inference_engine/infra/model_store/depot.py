"""The writable model folder: takes files in by digest, installs models from them at once or not at all, removes them.

    <root>/.store/blobs/sha256-...      whole files, also hard-linked into the models that use them
    <root>/.store/partial/sha256-...    files that are being fetched; kept, so that fetching can go on
    <root>/.store/drafts/               uploads, models being put together, models being deleted
    <root>/<name>/<version>/            the models

Everything of one root lies on one file system, so that linking and renaming work. A file of a model is never changed
in place: a model is replaced as a whole, so that models which share a file do not notice.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from inference_engine.domain.errors import Forbidden, InvalidRequest, ModelLoadFailed, ModelNotFound, Unavailable
from inference_engine.domain.model_store import Recipe
from inference_engine.domain.ports import StoredModel
from inference_engine.infra.manifest_files import MANIFEST_NAME, manifest_yaml
from inference_engine.infra.model_facts import PROJECTOR
from inference_engine.infra.repository import FolderRepository, artifact_files, file_digest

STORE = ".store"
_UNUSED_BLOB_S = 24 * 3600.0
_UNUSED_PARTIAL_S = 14 * 24 * 3600.0
_SPARE_BYTES = 64 << 20  # left free on the disk
_FULL = (errno.ENOSPC, errno.EDQUOT)


class FolderDepot:
    """A `ModelDepot` in the folder `root`, which is made when the first model comes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._store = root / STORE
        self._changing = threading.Lock()

    def check_writable(self) -> None:
        try:
            for folder in ("blobs", "partial", "drafts"):
                (self._store / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._read_only(error) from None
        if not os.access(self._store / "drafts", os.W_OK):
            raise self._read_only(PermissionError(errno.EACCES, "permission denied"))

    def _read_only(self, error: OSError) -> Forbidden:
        return Forbidden(
            f"models cannot be written to {self._root} ({error.strerror}): mend its permissions, or name a folder that "
            "can be written first in the setting models"
        )

    # -- files by digest -----------------------------------------------------------------------------------------

    def blob(self, digest: str) -> Path:
        """Where the whole file of that digest is, if it is here."""
        return self._store / "blobs" / digest.replace(":", "-")

    def has_blob(self, digest: str) -> bool:
        return self.blob(digest).is_file()

    @contextmanager
    def partial(self, digest: str, size_bytes: int) -> Iterator[Partial]:
        """The file being fetched, locked against every other process.

        Raises:
            Unavailable: somebody else is fetching it, or the disk has no room for the rest.
        """
        self.check_writable()
        path = self._store / "partial" / digest.replace(":", "-")
        with path.open("ab") as file:
            if not _lock(file, wait=False) or not _is_still(file, path):
                raise Unavailable(f"another process is fetching {digest}: try again when it has ended")
            partial = Partial(path, file, self.blob(digest), digest)
            self._check_room(size_bytes - partial.size)
            yield partial

    def open_upload(self, digest: str, size_bytes: int | None) -> BlobUpload:
        self.check_writable()
        self._check_room(size_bytes or 0)
        return BlobUpload(self._work(), self.blob(digest), digest, lambda: self._check_room(1))

    def _check_room(self, wanted: int) -> None:
        free = shutil.disk_usage(self._store).free
        if wanted > max(0, free - _SPARE_BYTES):
            raise disk_full(f"{wanted >> 20} MB are needed and {free >> 20} MB are free in {self._root}")

    def _work(self) -> Path:
        return self._store / "drafts" / uuid.uuid4().hex

    # -- models --------------------------------------------------------------------------------------------------

    def prepare(self, recipe: Recipe) -> PreparedModel:
        from inference_engine.infra.model_store.recipes import Cook

        self.check_writable()
        work = self._work()
        folder = work / recipe.ref.name / recipe.ref.version
        try:
            folder.mkdir(parents=True)
            self._gather(recipe, folder)
            manifest, notes = Cook(recipe, folder).manifest()
            (folder / MANIFEST_NAME).write_text(manifest_yaml(manifest), encoding="utf-8")
            _check(work)
        except BaseException as error:
            shutil.rmtree(work, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in _FULL:
                raise disk_full(str(self._root)) from None
            raise
        return PreparedModel(self, work, folder, notes)

    def _gather(self, recipe: Recipe, folder: Path) -> None:
        """Link every file of the model to be into `folder`."""
        if recipe.base is not None:
            for name, file in _files_of(recipe.base):
                _link(file, folder / name)
        for name, digest in (recipe.files | recipe.adapters).items():
            if not self.has_blob(digest):
                raise InvalidRequest(f"the file {name!r} with {digest} is not here: upload it first", param="files")
            _link(self.blob(digest), folder / name)

    def put_in_place(self, folder: Path) -> None:
        """Rename a prepared `name/version` folder to where it is served from."""
        target = self._root / folder.parent.name / folder.name
        with self._locked():
            target.parent.mkdir(parents=True, exist_ok=True)
            old = self._work()
            if target.exists():
                target.rename(old)
            try:
                folder.rename(target)
            except OSError:
                if old.exists():
                    old.rename(target)
                raise
            _sync(target.parent)
            if old.exists():
                self._discard(old)

    def check_owned(self, model: StoredModel) -> None:
        if not model.folder.resolve().is_relative_to(self._root.resolve()):
            raise Forbidden(
                f"{model.manifest.ref} lies in {model.folder}, where models are not changed: delete it there by hand"
            )
        self.check_writable()

    def remove(self, model: StoredModel) -> None:
        self.check_owned(model)
        folder = model.folder
        with self._locked():
            if not folder.is_dir():
                raise ModelNotFound(f"model {model.manifest.ref} has been deleted by somebody else", param="model")
            old = self._work()
            if folder == self._root / model.manifest.name / model.manifest.version:
                folder.rename(old)
            else:  # adopted where it lies, perhaps among others
                files = list(_files_of(model))
                old.mkdir()
                for name, file in files:
                    file.rename(old / name)
            self._discard(old)
            name_folder = self._root / model.manifest.name
            if name_folder.is_dir() and not any(name_folder.iterdir()):
                name_folder.rmdir()

    def _discard(self, folder: Path) -> None:
        """Delete a model that has been taken out, and the blobs that were only for it."""
        inodes = {file.stat().st_ino for file in folder.rglob("*") if file.is_file()}
        shutil.rmtree(folder)
        for blob in (self._store / "blobs").iterdir():
            stat = blob.stat()
            if stat.st_ino in inodes and stat.st_nlink == 1:
                blob.unlink()

    def prune(self) -> None:
        limits = {"blobs": _UNUSED_BLOB_S, "drafts": _UNUSED_BLOB_S, "partial": _UNUSED_PARTIAL_S}
        for name, limit_s in limits.items():
            folder = self._store / name
            for path in folder.iterdir() if folder.is_dir() else ():
                stat = path.stat()
                if time.time() - stat.st_mtime < limit_s or (name == "blobs" and stat.st_nlink > 1):
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One change at a time, over all processes that use this folder."""
        with self._changing, (self._store / "lock").open("ab") as file:
            _lock(file, wait=True)
            yield


class PreparedModel:
    """A `Prepared` in the depot's working folder."""

    def __init__(self, depot: FolderDepot, work: Path, folder: Path, notes: list[str]) -> None:
        self.notes = notes
        self._depot = depot
        self._work = work
        self._folder = folder

    def put_in_place(self) -> None:
        self._depot.put_in_place(self._folder)

    def close(self) -> None:
        shutil.rmtree(self._work, ignore_errors=True)


class Partial:
    """A file being fetched, opened and locked by `FolderDepot.partial`."""

    def __init__(self, path: Path, file: IO[bytes], blob: Path, digest: str) -> None:
        self._path = path
        self._file = file
        self._blob = blob
        self._digest = digest
        self.size = path.stat().st_size

    def append(self, data: bytes | bytearray) -> None:
        """Raises `Unavailable` when the disk is full; what was written before stays."""
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise disk_full(str(self._path.parent)) if error.errno in _FULL else error from None
        self.size += len(data)

    def restart(self) -> None:
        """Forget what is there."""
        self._file.truncate(0)
        self.size = 0

    def commit(self) -> None:
        """Check the digest and make it a whole file; a wrong one is forgotten. Reads the file once.

        Raises:
            ModelLoadFailed: the digest is another.
        """
        actual = file_digest(self._path)
        if actual != self._digest:
            self.restart()
            raise ModelLoadFailed(f"what was fetched has the digest {actual}, not {self._digest}: it was thrown away")
        os.fsync(self._file.fileno())
        self._path.rename(self._blob)


class BlobUpload:
    """An `Upload` into the depot."""

    def __init__(self, work: Path, blob: Path, digest: str, check_room: Callable[[], None]) -> None:
        self._check_room = check_room
        self._unchecked = 0
        self._work = work
        self._blob = blob
        self._wanted = digest
        self._digest = hashlib.sha256()
        self._file = work.open("xb")

    def write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise disk_full(str(self._work.parent)) if error.errno in _FULL else error from None
        self._digest.update(data)
        self._unchecked += len(data)
        if self._unchecked >= _SPARE_BYTES // 2:
            self._unchecked = 0
            self._check_room()

    def commit(self) -> None:
        actual = f"sha256:{self._digest.hexdigest()}"
        if actual != self._wanted:
            raise InvalidRequest(f"the file has the digest {actual}, not {self._wanted}", param="digest")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._work.rename(self._blob)

    def close(self) -> None:
        self._file.close()
        self._work.unlink(missing_ok=True)


def disk_full(what: str) -> Unavailable:
    """The disk has no room. Nothing is retried by itself: an operator has to act."""
    return Unavailable(f"the disk is full: {what}: make room and try again", retry_after_s=None)


def _lock(file: IO[bytes], *, wait: bool) -> bool:
    """Lock an open file against other processes until it is closed; False when somebody else holds it."""
    import fcntl  # not there on every system, and needed only here

    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _is_still(file: IO[bytes], path: Path) -> bool:
    """Whether `path` is the open file; another process may have finished it before it was locked."""
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


def _files_of(model: StoredModel) -> Iterator[tuple[str, Path]]:
    """The files of a model, by name inside its folder; without the manifest."""
    if model.assumed and not (model.folder / model.manifest.artifact).is_dir():
        files = artifact_files(model.folder / model.manifest.artifact)
        projector = model.manifest.options.get(PROJECTOR)
        for file in [*files, *([model.folder / projector] if projector else [])]:
            yield file.name, file
        return
    for file in sorted(model.folder.rglob("*")):
        if file.is_file() and file.name != MANIFEST_NAME and "__pycache__" not in file.parts:
            yield str(file.relative_to(model.folder)), file


def _link(source: Path, target: Path) -> None:
    """Give a file a second name; from another file system it is copied."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(source.resolve())
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        shutil.copy2(source, target)


def _check(root: Path) -> None:
    """Hold the one model below `root` to what the server will hold it to; its blobs had their digests checked before.

    Raises:
        ModelError: it would not be adopted.
    """
    models, broken = FolderRepository((root,)).scan()
    if broken or len(models) != 1:
        reason = broken[0].message if broken else "it would not be taken for a model"
        raise ModelLoadFailed(reason.replace(f"{root}/", ""))


def _sync(folder: Path) -> None:
    """Make new names survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
