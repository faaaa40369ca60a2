"""Jobs: created, run in the background behind live requests, cancelled, and taken up again after a restart.

A job goes through `validating`, `in_progress` and `finalizing` to `completed`, or to `failed`, `expired` or
`cancelled`. Every step is stored before the next begins, and every finished line is in the job's journal, so that a
server that is killed goes on with the lines that are not. Knows no dialect: what a line is and how it is answered is
its endpoint's `Work`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from itertools import chain
from typing import Any, Literal, TypeVar

import msgspec

from inference_engine.core.logging import get_logger
from inference_engine.domain.errors import EngineError, InvalidRequest, NotFound, QueueFull, Unavailable
from inference_engine.domain.files import StoredFile, new_id
from inference_engine.domain.jobs import (
    PRIORITY,
    Ending,
    Job,
    JobStore,
    Journal,
    LineProblem,
    Outcome,
    Task,
    WallClock,
    Work,
)
from inference_engine.domain.requests import Call, Principal
from inference_engine.services.files import PIECE_BYTES, FileService
from inference_engine.services.job_lines import Checked, LineLimits, check_lines, lines_of, next_task
from inference_engine.services.storage import refusal

MAX_LIVE_JOBS = 100
MAX_KEPT_JOBS = 10_000
FLAKY_ATTEMPTS = 4
_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 15.0
T = TypeVar("T")
_log = get_logger(__name__)


class JobLimits(msgspec.Struct, frozen=True):
    """`concurrency` lines of all jobs together are done at once."""

    lines: LineLimits
    concurrency: int


class _Running:
    """A job that has not ended: its task, its journal while it works, and whether it is to stop."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.journal: Journal | None = None
        self.cancelled = asyncio.Event()
        self.saving = asyncio.Lock()

    def opened(self, journal: Journal) -> Journal:
        """Own the journal from the moment it is open, so that it is closed whatever comes between."""
        self.journal = journal
        return journal


class JobService:
    """All jobs of this server. Made without an event loop; `open` and `close` are called inside of one."""

    def __init__(
        self, store: JobStore, files: FileService, limits: JobLimits, now: WallClock, storage_wait_s: float = 5.0
    ) -> None:
        self._store = store
        self._files = files
        self._limits = limits
        self._now = now
        self._storage_wait_s = storage_wait_s
        self._works: dict[str, Work] = {}
        self._jobs: dict[str, Job] = {}
        self._running: dict[str, _Running] = {}
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._open = False
        self._closed_because = "jobs are not open yet: the server is starting"
        files.users.append(self._user_of)

    def offer(self, works: Mapping[str, Work]) -> None:
        """Take jobs for these endpoints, by name."""
        self._works.update(works)

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(self._works)

    async def open(self) -> None:
        """Take up every job that had not ended when the server did. Never raises: without a store there are no jobs."""
        try:
            claimed = await asyncio.to_thread(self._store.claim)
            if claimed:
                await asyncio.to_thread(self._files.store.tidy)
                self._jobs = {job.id: job for job in await asyncio.to_thread(self._store.load)}
        except OSError as error:
            self._closed_because = "jobs need a state_dir that can be written: its operator must look at it"
            _log.error("no jobs: state_dir cannot be used", problem=str(error))
            return
        if not claimed:
            self._closed_because = "another server does the jobs of this state_dir: give each a state_dir of its own"
            _log.warning("no jobs: another server uses this state_dir")
            return
        self._open = True
        for job in self._jobs.values():
            if not job.ended:
                _log.info("job resumed", job=job.id, status=job.status)
                self._begin(job)

    async def close(self) -> None:
        """Stop at once; what is being done is done again after the next start."""
        self._open, self._closed_because = False, "the server is shutting down"
        tasks = [running.task for running in self._running.values() if running.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._store.release()

    # -- use cases -----------------------------------------------------------------------------------------------

    async def create(
        self,
        principal: Principal,
        endpoint: str,
        input_file_id: str,
        window: str,
        window_s: int,
        metadata: dict[str, str],
        output_lifetime_s: int | None = None,
    ) -> Job:
        """Begin a job over the lines of a file; it goes on when this returns.

        Raises:
            InvalidRequest: no such endpoint. NotFound: no such file. QueueFull: too many jobs run. Unavailable.
        """
        self._check_open()
        if endpoint not in self._works:
            raise InvalidRequest(f"endpoint must be one of {', '.join(self._works)}", param="endpoint")
        await self._files.get(principal.tenant, input_file_id)
        mine = self._of(principal.tenant)
        if sum(not job.ended for job in mine) >= MAX_LIVE_JOBS:
            raise QueueFull(f"{MAX_LIVE_JOBS} of your jobs have not ended: wait for one, or cancel one")
        now = int(self._now())
        job = Job(
            id=new_id("batch_"),
            tenant=principal.tenant,
            key_id=principal.key_id,
            endpoint=endpoint,
            input_file_id=input_file_id,
            output_file_id=new_id("file-"),
            error_file_id=new_id("file-"),
            window=window,
            created_at=now,
            expires_at=now + window_s,
            metadata=metadata,
            output_lifetime_s=output_lifetime_s,
        )
        try:
            await asyncio.to_thread(self._store.save, job)
        except OSError as error:
            raise refusal(error, "the batch") from error
        self._jobs[job.id] = job
        self._begin(job)
        await self._forget_old(mine)
        return job

    def get(self, tenant: str, id: str) -> Job:
        """The job as it is now. Raises `NotFound`: also for a job of another tenant."""
        job = self._jobs.get(id)
        if job is None or job.tenant != tenant:
            raise NotFound(f"there is no batch {id[:80]!r}", param="batch_id")
        running = self._running.get(id)
        if running is not None and running.journal is not None:
            completed, failed = running.journal.counts
            job = msgspec.structs.replace(job, completed=completed, failed=failed)
        return job

    def listed(self, tenant: str) -> list[Job]:
        """The tenant's jobs, oldest first."""
        return [self.get(tenant, job.id) for job in self._of(tenant)]

    async def cancel(self, tenant: str, id: str) -> Job:
        """Stop a job; what is done already becomes its output.

        Raises:
            NotFound; InvalidRequest: it has ended. Unavailable: jobs do not run here.
        """
        job = self.get(tenant, id)
        if not job.ended:
            self._check_open()
        running = self._running.get(id)
        if job.ended or running is None:
            raise InvalidRequest(f"batch {id!r} is {job.status}: only one that has not ended can be cancelled")
        if job.status in ("validating", "in_progress"):
            running.cancelled.set()
            await self._save(id, running, status="cancelling", ending="cancelled", cancelling_at=self._files.now_s())
        return self.get(tenant, id)

    # -- the life of a job ---------------------------------------------------------------------------------------

    def _begin(self, job: Job) -> None:
        running = self._running[job.id] = _Running()
        running.task = asyncio.create_task(self._run(job.id, running))

    async def _run(self, id: str, running: _Running) -> None:
        try:
            await self._live(id, running)
        except Exception:
            _log.exception("job broke off", job=id)  # it stays as it is stored, and is taken up at the next start
        finally:
            del self._running[id]
            if running.journal is not None:
                running.journal.close()

    async def _live(self, id: str, running: _Running) -> None:
        if self._jobs[id].status == "validating":
            await self._validate(id, running)
        if self._jobs[id].ended:
            return
        journal = await self._stored(lambda: running.opened(self._store.journal(self._jobs[id])))
        if self._jobs[id].status == "in_progress":
            await self._work_until_the_end(id, running, journal)
        await self._finalize(self._jobs[id], running, journal)

    async def _validate(self, id: str, running: _Running) -> None:
        """Read all lines once. A wrong one ends the job before anything was computed."""
        checked = await asyncio.to_thread(self._checked, self._jobs[id])
        if self._jobs[id].status == "cancelling":
            return
        if checked.problems:
            await self._save(
                id, running, status="failed", problems=tuple(checked.problems), ended_at=self._files.now_s()
            )
        else:
            await self._save(id, running, status="in_progress", total=checked.total, in_progress_at=self._files.now_s())

    def _checked(self, job: Job) -> Checked:
        work = self._works.get(job.endpoint)
        if work is None:
            message = f"this server has no endpoint {job.endpoint} any more"
            return Checked(problems=[LineProblem("invalid_endpoint", message, "endpoint")])
        try:
            with self._files.store.open(job.tenant, job.input_file_id) as stream:
                return check_lines(stream, work, self._limits.lines)
        except (NotFound, OSError) as error:
            return Checked(problems=[_unreadable(error)])

    async def _work_until_the_end(self, id: str, running: _Running, journal: Journal) -> None:
        """Do the lines until all are done, the job is cancelled, or its window closes."""
        job = self._jobs[id]
        worker = asyncio.create_task(self._work(job, journal))
        cancelled = asyncio.create_task(running.cancelled.wait())
        try:
            limit_s = max(0.0, job.expires_at - self._now())
            await asyncio.wait({worker, cancelled}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            finished = worker.done()
        finally:
            worker.cancel()
            cancelled.cancel()
            await asyncio.gather(worker, cancelled, return_exceptions=True)
        if self._jobs[id].status == "cancelling":
            return
        problem = worker.result() if finished else None
        ending: Ending = "failed" if problem else "completed" if finished else "expired"
        problems = (problem,) if problem else ()
        await self._save(
            id, running, status="finalizing", ending=ending, problems=problems, finalizing_at=self._files.now_s()
        )

    async def _work(self, job: Job, journal: Journal) -> LineProblem | None:
        """Begin every line that is not done as soon as there is room; the problem that made it give up, or None."""
        work = self._works[job.endpoint]
        lines = self._lines(job)
        problem = None
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._slots.acquire()
                    try:
                        found = await in_thread(lambda: next_task(lines, work, journal))
                    except BaseException:
                        self._slots.release()
                        raise
                    if found is None:
                        self._slots.release()
                        break
                    number, task = found
                    if isinstance(task, LineProblem):
                        self._slots.release()
                        problem = msgspec.structs.replace(task, line=number)
                        break
                    one = group.create_task(self._line(job, journal, work, number, task))
                    one.add_done_callback(lambda _: self._slots.release())
        except* (NotFound, OSError) as errors:
            problem = _unreadable(errors.exceptions[0])
        finally:
            lines.close()
        return problem

    def _lines(self, job: Job) -> Generator[tuple[int, bytes | None]]:
        """The lines of the input file, which is open while they are read. Blocking. Raises `NotFound`, `OSError`."""
        with self._files.store.open(job.tenant, job.input_file_id) as stream:
            yield from lines_of(stream, self._limits.lines.line_bytes)

    async def _line(self, job: Job, journal: Journal, work: Work, number: int, task: Task) -> None:
        call = Call(f"{job.id}-{number}", Principal(job.tenant, job.key_id), None, PRIORITY)
        outcome = await self._outcome(work, task, call)
        result = work.written(task, outcome)
        await self._stored(lambda: journal.append(number, outcome.ok, result))

    async def _outcome(self, work: Work, task: Task, call: Call) -> Outcome:
        """The answer to one line; asked again, ever later, while that may help."""
        wait_s, flaky = _FIRST_WAIT_S, 0
        while True:
            outcome = await work.run(task, call)
            flaky += outcome.again == "flaky"
            if outcome.again is None or flaky >= FLAKY_ATTEMPTS:
                return outcome
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)

    async def _finalize(self, job: Job, running: _Running, journal: Journal) -> None:
        """Write the results as files and end the job. Done again from the start when the server is killed here."""
        ending = job.ending or "cancelled"
        await asyncio.to_thread(journal.seal)
        completed, failed = journal.counts
        has_output = await self._stored(lambda: self._write(job, "output", journal.results(True)))
        rest = self._unfinished(job, ending, journal)
        has_errors = await self._stored(lambda: self._write(job, "error", chain(journal.results(False), rest())))
        await self._save(
            job.id,
            running,
            status=ending,
            completed=completed,
            failed=failed,
            has_output=has_output,
            has_errors=has_errors,
            ended_at=self._files.now_s(),
        )
        await in_thread(journal.close)
        await self._stored(lambda: self._store.drop_journal(job))
        _log.info("job ended", job=job.id, status=ending, completed=completed, failed=failed, total=job.total)

    def _write(self, job: Job, kind: Literal["output", "error"], results: Iterator[bytes]) -> bool:
        """The file of results; False when there are none. Blocking."""
        draft = self._files.store.draft(job.tenant)
        try:
            pieces = bytearray()
            for result in results:
                pieces += result + b"\n"
                if len(pieces) >= PIECE_BYTES:
                    draft.write(bytes(pieces))
                    pieces.clear()
            draft.write(bytes(pieces))
            if draft.size_bytes:
                id = job.output_file_id if kind == "output" else job.error_file_id
                name = f"{job.id}_{kind}.jsonl"
                now = self._files.now_s()
                expires = None if job.output_lifetime_s is None else now + job.output_lifetime_s
                draft.commit(StoredFile(id, name, "batch_output", draft.size_bytes, now, expires))
            return bool(draft.size_bytes)
        finally:
            draft.discard()

    def _unfinished(self, job: Job, ending: Ending, journal: Journal) -> Callable[[], Iterator[bytes]]:
        """What the error file says of lines that were never answered."""

        def lines() -> Iterator[bytes]:
            if ending == "completed" or job.in_progress_at is None:
                return
            work = self._works[job.endpoint]
            with suppress(NotFound), closing(self._lines(job)) as numbered:
                for number, line in numbered:
                    if line and not journal.has(number):
                        task = work.read(line)
                        if isinstance(task, Task):
                            yield work.unfinished(task, ending)

        return lines

    # -- keeping -------------------------------------------------------------------------------------------------

    async def _save(self, id: str, running: _Running, **changes: Any) -> None:
        """Change a job, at once in memory, and on disk when this returns. Saves are in order: the latest wins."""
        self._jobs[id] = msgspec.structs.replace(self._jobs[id], **changes)
        async with running.saving:
            await self._stored(lambda: self._store.save(self._jobs[id]))

    async def _stored(self, action: Callable[[], T]) -> T:
        """Do something on disk, for as long as it takes until the disk takes it."""
        while True:
            try:
                return await in_thread(action)
            except OSError as error:
                _log.error("job waits for the disk of state_dir", problem=str(error))
                await asyncio.sleep(self._storage_wait_s)

    async def _forget_old(self, jobs: Sequence[Job]) -> None:
        """Keep the tenant's latest jobs only."""
        for job in jobs[: max(0, len(jobs) + 1 - MAX_KEPT_JOBS)]:
            if job.ended:
                del self._jobs[job.id]
                await asyncio.to_thread(self._store.delete, job)

    def _of(self, tenant: str) -> list[Job]:
        return [job for job in self._jobs.values() if job.tenant == tenant]

    def _user_of(self, tenant: str, file_id: str) -> str | None:
        mine = (job for job in self._of(tenant) if job.input_file_id == file_id and not job.ended)
        return next((f"batch {job.id}" for job in mine), None)

    def _check_open(self) -> None:
        if not self._open:
            raise Unavailable(self._closed_because)


async def in_thread(action: Callable[[], T]) -> T:
    """Run blocking code in a thread. When the caller is cancelled, the thread has finished before this raises."""
    work = asyncio.ensure_future(asyncio.to_thread(action))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise


def _unreadable(error: Exception) -> LineProblem:
    if isinstance(error, EngineError):
        return LineProblem(error.code, error.message, error.param or "input_file_id")
    _log.error("input file cannot be read", problem=str(error))
    return LineProblem("unreadable_file", "the input file cannot be read: upload it again", "input_file_id")
