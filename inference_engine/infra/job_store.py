"""Jobs in `<state_dir>/jobs/TENANT/ID/`: `job.json`, and while it runs a `journal` of finished lines.

A journal record is one line, `LINE O|E CRC RESULT`: line number, whether it went well, the CRC-32 of the result in hex,
and the result, which holds no line feed. A record that is cut short or does not fit its CRC ends the
journal: it and what follows are cut off, and those lines are done again.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from inference_engine.core.logging import get_logger
from inference_engine.domain.jobs import Job
from inference_engine.infra.tenant_folders import checked_id, tenant_folder, write_whole

_SYNC_EVERY = 64
_log = get_logger(__name__)


class _Place(NamedTuple):
    """Where a result lies in the journal."""

    ok: bool
    offset: int
    length: int


class FileJournal:
    """A `Journal` in one file that only grows."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._stream: BinaryIO = os.fdopen(handle, "a+b", buffering=0)
        self._places: dict[int, _Place] = {}
        self._good = 0
        self._sealed = False
        self._lock = threading.Lock()
        self._unsynced = 0
        self._end = self._recover(file)

    def _recover(self, file: Path) -> int:
        end = 0
        with file.open("rb") as written:
            for record in written:
                read = _read(record)
                if read is None:
                    _log.warning("journal is cut back", file=str(file), offset=end)
                    break
                line, ok, start = read
                self._remember(line, _Place(ok, end + start, len(record) - start - 1))
                end += len(record)
        self._stream.truncate(end)
        return end

    def _remember(self, line: int, place: _Place) -> None:
        self._places[line] = place
        self._good += place.ok

    def has(self, line: int) -> bool:
        return line in self._places

    @property
    def counts(self) -> tuple[int, int]:
        with self._lock:
            return self._good, len(self._places) - self._good

    def append(self, line: int, ok: bool, result: bytes) -> None:
        head = b"%d %b %08x " % (line, b"O" if ok else b"E", zlib.crc32(result))
        with self._lock:
            if self._sealed or line in self._places:
                return
            try:
                _write_all(self._stream, head + result + b"\n")
            except OSError:
                self._stream.truncate(self._end)
                raise
            self._remember(line, _Place(ok, self._end + len(head), len(result)))
            self._end += len(head) + len(result) + 1
            self._unsynced += 1
            if self._unsynced >= _SYNC_EVERY:
                os.fsync(self._stream.fileno())
                self._unsynced = 0

    def results(self, ok: bool) -> Iterator[bytes]:
        with self._lock:
            places = [self._places[line] for line in sorted(self._places) if self._places[line].ok == ok]
        for place in places:
            yield os.pread(self._stream.fileno(), place.length, place.offset)

    def seal(self) -> None:
        with self._lock:
            self._sealed = True

    def close(self) -> None:
        with self._lock:
            self._sealed = True
            self._stream.close()


def _read(record: bytes) -> tuple[int, bool, int] | None:
    """Line number, whether it went well, and where the result starts; None for what is no whole record."""
    parts = record[:64].split(b" ", 3)
    if len(parts) != 4 or not record.endswith(b"\n") or not parts[0].isdigit() or parts[1] not in (b"O", b"E"):
        return None
    start = sum(len(part) + 1 for part in parts[:3])
    if parts[2] != b"%08x" % zlib.crc32(memoryview(record)[start:-1]):
        return None
    return int(parts[0]), parts[1] == b"O", start


def _write_all(stream: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[stream.write(view) or 0 :]


class FolderJobStore:
    """A `JobStore` over one folder."""

    def __init__(self, state_dir: Path) -> None:
        self._root = state_dir / "jobs"
        self._claim: int | None = None  # a file descriptor: the kernel gives the lock back however the process ends

    def claim(self) -> bool:
        self._root.mkdir(parents=True, exist_ok=True)
        claim = os.open(self._root / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(claim)
                return False
        self._claim = claim
        return True

    def release(self) -> None:
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    def load(self) -> list[Job]:
        jobs = []
        for file in self._root.glob("*/batch_*/job.json"):
            try:
                jobs.append(msgspec.json.decode(file.read_bytes(), type=Job))
            except (OSError, msgspec.MsgspecError) as error:
                _log.warning("job cannot be read", file=str(file), problem=str(error))
        return sorted(jobs, key=lambda job: (job.created_at, job.id))

    def save(self, job: Job) -> None:
        write_whole(self._folder(job) / "job.json", msgspec.json.encode(job))

    def delete(self, job: Job) -> None:
        shutil.rmtree(self._folder(job), ignore_errors=True)

    def journal(self, job: Job) -> FileJournal:
        return FileJournal(self._folder(job) / "journal")

    def drop_journal(self, job: Job) -> None:
        (self._folder(job) / "journal").unlink(missing_ok=True)

    def _folder(self, job: Job) -> Path:
        return tenant_folder(self._root, job.tenant) / checked_id(job.id, "job")
