"""Jobs: what survives a restart at every step, what a full disk does, how much runs at once."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from inference_engine.domain.errors import InvalidRequest, NotFound, QueueFull, Unavailable
from inference_engine.domain.files import new_id
from inference_engine.domain.jobs import PRIORITY, Ending, Job, LineProblem, Outcome, Task
from inference_engine.domain.requests import Call, Principal
from inference_engine.infra.file_store import FolderDraft, FolderFileStore
from inference_engine.infra.job_store import FileJournal, FolderJobStore
from inference_engine.services.files import FileLimits, FileService
from inference_engine.services.job_lines import LineLimits
from inference_engine.services.jobs import FLAKY_ATTEMPTS, MAX_LIVE_JOBS, JobLimits, JobService
from inference_engine.testing import FakeClock

ME = Principal("default", "key")
DAY_S = 86400


class Echo:
    """Work whose lines are names. It answers with the name, once `gate` is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.done: list[str] = []
        self.calls: list[Call] = []
        self.running = self.most = 0
        self.outcomes: dict[str, list[Outcome]] = {}

    def read(self, line: bytes) -> Task | LineProblem:
        return LineProblem("bad", "it is bad") if line == b"bad" else Task(line.decode(), line)

    async def run(self, task: Task, call: Call) -> Outcome:
        self.calls.append(call)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self.running -= 1
        self.done.append(task.key)
        prepared = self.outcomes.get(task.key)
        return prepared.pop(0) if prepared else Outcome(call.id, 200, task.body)

    def written(self, task: Task, outcome: Outcome) -> bytes:
        return json.dumps([task.key, outcome.status]).encode()

    def unfinished(self, task: Task, ending: Ending) -> bytes:
        return json.dumps([task.key, ending]).encode()


class FullDisk(OSError):
    def __init__(self) -> None:
        super().__init__(errno.ENOSPC, "No space left on device")


class FullDraft(FolderDraft):
    def write(self, data: bytes) -> None:
        raise FullDisk


class Disk:
    """How many of the next writes the disk refuses."""

    def __init__(self) -> None:
        self.refuse = 0

    def check(self) -> None:
        if self.refuse > 0:
            self.refuse -= 1
            raise FullDisk


class CheckedFiles(FolderFileStore):
    def __init__(self, folder: Path, disk: Disk) -> None:
        super().__init__(folder)
        self._disk = disk

    def draft(self, tenant: str) -> FolderDraft:
        self._disk.check()
        return super().draft(tenant)


class CheckedJobs(FolderJobStore):
    def __init__(self, folder: Path, disk: Disk) -> None:
        super().__init__(folder)
        self._disk = disk

    def save(self, job: Job) -> None:
        self._disk.check()
        super().save(job)

    def journal(self, job: Job) -> FileJournal:
        journal = CheckedJournal(self._folder(job) / "journal")
        journal.disk = self._disk
        return journal


class CheckedJournal(FileJournal):
    disk: Disk

    def append(self, line: int, ok: bool, result: bytes) -> None:
        self.disk.check()
        super().append(line, ok, result)


class Server:
    """Jobs over a folder. A second one over the same folder is a restart."""

    def __init__(self, folder: Path, clock: FakeClock, lines: int = 100) -> None:
        self.work = Echo()
        self.disk = Disk()
        self.store = CheckedJobs(folder, self.disk)
        self.files = FileService(CheckedFiles(folder, self.disk), FileLimits(1000, 5000), clock)
        limits = JobLimits(LineLimits(lines, 100), concurrency=3)
        self.jobs = JobService(self.store, self.files, limits, clock, storage_wait_s=0.01)
        self.jobs.offer({"/echo": self.work})

    async def upload(self, *lines: str) -> str:
        file = await self.files.receive("default")
        await file.write("".join(line + "\n" for line in lines).encode())
        kept = await file.keep("lines", "batch")
        await file.aclose()
        return kept.id

    async def create(self, *lines: str, window_s: int = DAY_S) -> Job:
        return await self.jobs.create(ME, "/echo", await self.upload(*lines), "x", window_s, {})

    async def until(self, id: str, reached: Callable[[Job], bool]) -> Job:
        async with asyncio.timeout(10):
            while not reached(job := self.jobs.get("default", id)):
                await asyncio.sleep(0.001)
        return job

    async def end_of(self, id: str) -> Job:
        return await self.until(id, lambda job: job.ended)

    def lines(self, file_id: str) -> list[Any]:
        with self.files.store.open("default", file_id) as stream:
            return [json.loads(line) for line in stream]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1_000_000.0)


@pytest.fixture
async def server(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Server]:
    made = Server(tmp_path, clock)
    await made.jobs.open()
    yield made
    await made.jobs.close()


def names(count: int) -> list[str]:
    return [f"line {number:02}" for number in range(count)]


async def test_a_job(server: Server) -> None:
    server.work.gate.clear()
    job = await server.create(*names(10))
    assert (job.status, job.total) == ("validating", 0)
    while server.work.running < 3:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    server.work.gate.set()
    job = await server.end_of(job.id)
    assert (job.status, job.total, job.completed, job.failed) == ("completed", 10, 10, 0)
    assert server.lines(job.output_file_id) == [[name, 200] for name in names(10)]
    assert not job.has_errors
    assert server.work.most == 3
    assert {call.priority for call in server.work.calls} == {PRIORITY}
    assert {call.principal for call in server.work.calls} == {ME}
    assert len({call.id for call in server.work.calls}) == 10
    while server.jobs._running:
        await asyncio.sleep(0)
    assert not list(server.store._root.glob("*/*/journal"))


@pytest.mark.parametrize("stop_after", [0, 1, 4, 9])
async def test_a_restart_does_no_line_twice_and_loses_none(tmp_path: Path, clock: FakeClock, stop_after: int) -> None:
    first = Server(tmp_path, clock)
    await first.jobs.open()
    job = await first.create(*names(10))
    while len(first.work.done) < stop_after:
        await asyncio.sleep(0)
    first.work.gate.clear()
    await first.jobs.close()
    second = Server(tmp_path, clock)
    await second.jobs.open()
    job = await second.end_of(job.id)
    assert (job.status, job.completed) == ("completed", 10)
    assert second.lines(job.output_file_id) == [[name, 200] for name in names(10)]
    assert set(first.work.done) | set(second.work.done) == set(names(10))
    assert len(second.work.done) == len(set(second.work.done))
    await second.jobs.close()


async def test_what_is_in_the_journal_is_not_done_again(tmp_path: Path, clock: FakeClock) -> None:
    first = Server(tmp_path, clock)
    await first.jobs.open()
    first.work.gate.clear()
    job = await first.create(*names(5))
    await first.until(job.id, lambda job: job.status == "in_progress")
    await first.jobs.close()
    journal = first.store.journal(job)
    journal.append(2, True, b'["from before", 200]')
    journal.append(4, False, b'["failed before", 400]')
    journal.close()
    second = Server(tmp_path, clock)
    await second.jobs.open()
    job = await second.end_of(job.id)
    assert sorted(second.work.done) == ["line 00", "line 02", "line 04"]
    assert [name for name, _ in second.lines(job.output_file_id)] == ["line 00", "from before", "line 02", "line 04"]
    assert second.lines(job.error_file_id) == [["failed before", 400]]
    assert (job.completed, job.failed) == (4, 1)
    await second.jobs.close()


@pytest.mark.parametrize("written", [False, True])
async def test_a_kill_while_results_are_written(tmp_path: Path, clock: FakeClock, written: bool) -> None:
    """The state that a kill leaves between the output file and the end of the job."""
    first = Server(tmp_path, clock)
    await first.jobs.open()
    job = await first.end_of((await first.create(*names(3))).id)
    await first.jobs.close()
    journal = first.store.journal(job)
    for line in (1, 2, 3):
        journal.append(line, True, json.dumps([f"line {line - 1:02}", 200]).encode())
    journal.close()
    if not written:
        first.files.store.delete("default", job.output_file_id)
    first.store.save(msgspec.structs.replace(job, status="finalizing", has_output=False, ended_at=None))
    second = Server(tmp_path, clock)
    await second.jobs.open()
    job = await second.end_of(job.id)
    assert (job.status, job.has_output) == ("completed", True)
    assert len(second.lines(job.output_file_id)) == 3
    assert second.work.done == []
    assert len([file for file in await second.files.listed("default") if file.purpose == "batch_output"]) == 1
    await second.jobs.close()


async def test_a_cancellation_survives_a_restart(tmp_path: Path, clock: FakeClock) -> None:
    first = Server(tmp_path, clock)
    await first.jobs.open()
    first.work.gate.clear()
    job = await first.create(*names(3))
    await first.until(job.id, lambda job: job.status == "in_progress")
    first.disk.refuse = 1  # the end of the job cannot be stored before the server goes
    await first.jobs.cancel("default", job.id)
    await first.jobs.close()
    second = Server(tmp_path, clock)
    await second.jobs.open()
    job = await second.end_of(job.id)
    assert (job.status, second.work.done) == ("cancelled", [])
    assert second.lines(job.error_file_id) == [[name, "cancelled"] for name in names(3)]
    await second.jobs.close()


async def test_a_window_that_closes_while_the_server_is_down(tmp_path: Path, clock: FakeClock) -> None:
    first = Server(tmp_path, clock)
    await first.jobs.open()
    first.work.gate.clear()
    job = await first.create(*names(3), window_s=60)
    await first.until(job.id, lambda job: job.status == "in_progress")
    await first.jobs.close()
    clock.advance(61)
    second = Server(tmp_path, clock)
    second.work.gate.clear()
    await second.jobs.open()
    job = await second.end_of(job.id)
    assert job.status == "expired"
    assert second.lines(job.error_file_id) == [[name, "expired"] for name in names(3)]
    await second.jobs.close()


async def test_a_full_disk_only_makes_a_job_wait(server: Server) -> None:
    job = await server.create(*names(5))
    server.disk.refuse = 12
    job = await server.end_of(job.id)
    assert (job.status, job.completed, server.disk.refuse) == ("completed", 5, 0)
    assert server.lines(job.output_file_id) == [[name, 200] for name in names(5)]
    assert sorted(server.work.done) == names(5)


async def test_a_full_disk_refuses_what_is_new(server: Server) -> None:
    file = await server.upload("x")
    server.disk.refuse = 1
    with pytest.raises(Unavailable, match="disk of this server is full"):
        await server.jobs.create(ME, "/echo", file, "24h", DAY_S, {})
    assert server.jobs.listed("default") == []
    server.disk.refuse = 1
    with pytest.raises(Unavailable, match="disk of this server is full"):
        await server.files.receive("default")


async def test_a_disk_that_fills_up_during_an_upload(tmp_path: Path, clock: FakeClock) -> None:
    class Filling(FolderFileStore):
        def draft(self, tenant: str) -> FolderDraft:
            folder = tmp_path / "files" / tenant / ".draft-1"
            folder.mkdir(parents=True)
            return FullDraft(self, tenant, folder)

    files = FileService(Filling(tmp_path), FileLimits(1000, 1000), clock)
    coming = await files.receive("default")
    await coming.write(b"abc")
    with pytest.raises(Unavailable, match="nothing was kept"):
        await coming.keep("name", "batch")
    await coming.aclose()
    assert list((tmp_path / "files" / "default").iterdir()) == []


async def test_problems_end_a_job_before_it_begins(server: Server) -> None:
    job = await server.end_of((await server.create("good", "bad", "", "good")).id)
    assert job.status == "failed"
    assert [(problem.code, problem.line) for problem in job.problems] == [("bad", 2), ("duplicate_custom_id", 4)]
    assert server.work.done == []


async def test_a_file_that_vanishes(tmp_path: Path, server: Server) -> None:
    server.work.gate.clear()
    job = await server.create(*names(10))
    await server.until(job.id, lambda job: job.status == "in_progress")
    with pytest.raises(InvalidRequest, match="in use"):
        await server.files.delete("default", job.input_file_id)
    await server.jobs.close()
    server.files.store.delete("default", job.input_file_id)
    second = Server(tmp_path, FakeClock(1_000_001.0))
    await second.jobs.open()
    job = await second.end_of(job.id)
    assert job.status == "failed"
    assert job.problems[0].param == "file_id"
    await second.jobs.close()


async def test_answers_that_may_get_better(server: Server) -> None:
    busy = Outcome("id", 429, b"", "busy")
    flaky = Outcome("id", 503, b"", "flaky")
    server.work.outcomes = {"a": [busy, busy], "b": [flaky] * FLAKY_ATTEMPTS}
    job = await server.end_of((await server.create("a", "b")).id)
    assert (job.completed, job.failed) == (1, 1)
    assert server.work.done.count("a") == 3
    assert server.work.done.count("b") == FLAKY_ATTEMPTS
    assert server.lines(job.error_file_id) == [["b", 503]]


async def test_jobs_of_one_tenant_do_not_stop_those_of_another(server: Server) -> None:
    server.work.gate.clear()
    long = await server.create(*names(60))
    short = await server.create("a", "b")
    while len(server.jobs._slots._waiters or ()) < 2:  # both jobs want the next free slot
        await asyncio.sleep(0)
    server.work.gate.set()
    await server.end_of(short.id)
    await server.end_of(long.id)
    assert {"a", "b"} < set(server.work.done[:12])


async def test_how_many_jobs_may_run(server: Server) -> None:
    server.work.gate.clear()
    file = await server.upload("x")
    for _ in range(MAX_LIVE_JOBS):
        await server.jobs.create(ME, "/echo", file, "24h", DAY_S, {})
    with pytest.raises(QueueFull):
        await server.jobs.create(ME, "/echo", file, "24h", DAY_S, {})
    other = Principal("other", "key")
    with pytest.raises(NotFound):
        await server.jobs.create(other, "/echo", file, "24h", DAY_S, {})
    with pytest.raises(InvalidRequest, match="endpoint"):
        await server.jobs.create(ME, "/nothing", file, "24h", DAY_S, {})


async def test_two_servers_over_one_folder(tmp_path: Path, clock: FakeClock, server: Server) -> None:
    second = Server(tmp_path, clock)
    await second.jobs.open()
    with pytest.raises(Unavailable, match="another server"):
        await second.create("a")
    await second.jobs.close()


async def test_room_for_files(server: Server) -> None:
    coming = await server.files.receive("default")
    with pytest.raises(InvalidRequest, match="larger than 1000 bytes"):
        await coming.write(bytes(1001))
    await coming.aclose()
    for _ in range(5):
        await server.upload("x" * 999)
    with pytest.raises(InvalidRequest, match="5000 bytes together"):
        await server.upload("x")
    theirs = await server.files.receive("other")
    await theirs.aclose()


async def test_files_whose_time_is_over(server: Server, clock: FakeClock) -> None:
    coming = await server.files.receive("default")
    await coming.write(b"abc")
    file = await coming.keep("name", "batch", lifetime_s=3600)
    assert await server.files.get("default", file.id) == file
    clock.advance(3601)
    with pytest.raises(NotFound, match="expired"):
        await server.files.get("default", file.id)
    assert await server.files.listed("default") == []
    with pytest.raises(NotFound):
        server.files.store.get("default", file.id)
    with pytest.raises(NotFound):
        await server.jobs.create(ME, "/echo", new_id("file-"), "24h", DAY_S, {})
