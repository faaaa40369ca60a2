"""Jobs: files of requests that are answered line by line in the background. Knows no dialect, no folder, no clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, Protocol

import msgspec

from inference_engine.domain.requests import Call

JobStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
Ending = Literal["completed", "failed", "expired", "cancelled"]
ENDED: tuple[JobStatus, ...] = ("completed", "failed", "expired", "cancelled")
PRIORITY = 100
"""Of every line of a job: live requests, whose priority is around 0, go first. Nobody waits for what is this late."""


class LineProblem(msgspec.Struct, frozen=True):
    """Why a job was not begun or could not go on. `line` counts from 1; None concerns the whole file."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class Job(msgspec.Struct, frozen=True):
    """One job. Times are whole seconds since 1970, None for what has not happened.

    `endpoint` names the `Work`. `output_file_id` and `error_file_id` are reserved from the start, so that writing the
    results twice gives the same files; `has_output` and `has_errors` say whether they exist. `ending` is what the job
    will be when it has been finalized.
    """

    id: str
    tenant: str
    key_id: str
    endpoint: str
    input_file_id: str
    output_file_id: str
    error_file_id: str
    window: str
    created_at: int
    expires_at: int
    status: JobStatus = "validating"
    metadata: dict[str, str] = {}
    total: int = 0
    completed: int = 0
    failed: int = 0
    problems: tuple[LineProblem, ...] = ()
    output_lifetime_s: int | None = None
    has_output: bool = False
    has_errors: bool = False
    ending: Ending | None = None
    in_progress_at: int | None = None
    cancelling_at: int | None = None
    finalizing_at: int | None = None
    ended_at: int | None = None

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class Task(msgspec.Struct, frozen=True):
    """One line of a job: the client's own name for it, and the request."""

    key: str
    body: bytes


class Outcome(msgspec.Struct, frozen=True):
    """What became of a task: the answer a live request would have got.

    `again` says whether asking later may help: `busy` until there is room, `flaky` a few times, None not at all.
    """

    id: str
    status: int
    body: bytes
    again: Literal["busy", "flaky"] | None = None

    @property
    def ok(self) -> bool:
        return self.status < 400


class Work(Protocol):
    """How the lines of one endpoint are read, done and written. Each dialect that offers jobs brings its own."""

    def read(self, line: bytes) -> Task | LineProblem:
        """The request on a line, or why it is none; its `line` is left to the caller. Called from a thread."""

    async def run(self, task: Task, call: Call) -> Outcome:
        """Answer it as a live request would be answered. Raises nothing but cancellation."""

    def written(self, task: Task, outcome: Outcome) -> bytes:
        """The line of the output or error file, without a line feed."""

    def unfinished(self, task: Task, ending: Ending) -> bytes:
        """The line of the error file for a task that was never answered."""


class Journal(Protocol):
    """What a job has done so far, by line number. Blocking, thread-safe. What was appended survives a killed server."""

    def has(self, line: int) -> bool: ...

    @property
    def counts(self) -> tuple[int, int]:
        """Lines that went well, lines that failed."""

    def append(self, line: int, ok: bool, result: bytes) -> None:
        """Record a finished line, once. Raises `OSError` (disk full): it was not recorded, and may be tried again."""

    def results(self, ok: bool) -> Iterator[bytes]:
        """The recorded results in the order of their lines."""

    def seal(self) -> None:
        """From now on appending does nothing: what `has`, `counts` and `results` say stays true."""

    def close(self) -> None: ...


class JobStore(Protocol):
    """Keeps jobs over restarts. Blocking."""

    def claim(self) -> bool:
        """Take the store for this process until it ends; False when another process has it."""

    def release(self) -> None: ...

    def load(self) -> list[Job]:
        """All jobs of all tenants, oldest first. What cannot be read is left out and logged."""

    def save(self, job: Job) -> None:
        """Raises `OSError` (disk full): the job is stored as it was before."""

    def delete(self, job: Job) -> None: ...

    def journal(self, job: Job) -> Journal:
        """The job's journal; a line that was being written when the server was killed is not in it."""

    def drop_journal(self, job: Job) -> None:
        """The job has ended: its results are files now."""


WallClock = Callable[[], float]
"""Seconds since 1970."""
