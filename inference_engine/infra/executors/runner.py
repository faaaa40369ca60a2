"""The default executor: a model in a process of its own that is watched, and replaced when it dies or hangs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial

import msgspec

from inference_engine.core.logging import get_logger
from inference_engine.domain.errors import EngineError, ModelNotReady, RunnerLost
from inference_engine.domain.ports import BatchResult, ExecutorState, ExecutorStatus, Loaded, StoredModel
from inference_engine.domain.requests import Generate
from inference_engine.domain.results import Delivered, Delta, Done, ReasoningDelta
from inference_engine.domain.tensors import Array, Tensors
from inference_engine.infra.executors.process import ProcessLost, RunnerProcess

_log = get_logger(__name__)


class Supervision(msgspec.Struct, frozen=True):
    """When a runner counts as hung and how it is replaced. All in seconds.

    A process that has sent nothing, not even a heartbeat, for `hung_after_s` is killed; so is one that still computes
    `cancel_grace_s` after it was told that nobody wants the result. A runner that has done useful work is replaced at
    once; one that died before it answered anything after `backoff_s`, doubled each time up to `max_backoff_s`.
    """

    load_timeout_s: float = 600.0
    hung_after_s: float = 5.0
    cancel_grace_s: float = 30.0
    check_interval_s: float = 0.5
    backoff_s: float = 0.5
    max_backoff_s: float = 30.0
    lives_per_request: int = 3


class _Job(msgspec.Struct, eq=False):
    """A batch, and how many processes died under it."""

    parts: Sequence[Tensors]
    rows: Sequence[int]
    answer: asyncio.Future[BatchResult]
    deaths: int = 0


class RunnerExecutor:
    """`Executor` over runner processes, one alive at a time."""

    batches_in_flight = 2

    def __init__(
        self,
        model: StoredModel,
        clock: Callable[[], float],
        on_restart: Callable[[], None],
        supervision: Supervision,
        environment: Callable[[], Mapping[str, str]] = dict,
        interpreter: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        """`environment` gives variables for each process, beside those of the server.

        `interpreter` gives the Python to run it with, made ready; without it, it is the server's own.
        """
        self._environment = environment
        self._interpreter = interpreter
        self._model = model
        self._clock = clock
        self._on_restart = on_restart
        self._supervision = supervision
        self._process: RunnerProcess | None = None
        self._changed = asyncio.Event()
        self._state: ExecutorState = "starting"
        self._error: EngineError | None = None
        self._restarts = 0
        self._supervisor: asyncio.Task[None] | None = None
        self._postponed: set[asyncio.Task[None]] = set()

    async def start(self) -> Loaded:
        self._process = await self._spawn()
        self._set_state("ready")
        self._supervisor = asyncio.get_running_loop().create_task(self._supervise(self._process))
        return self._process.loaded

    async def _spawn(self) -> RunnerProcess:
        python = await self._interpreter() if self._interpreter is not None else sys.executable
        return await RunnerProcess.spawn(
            self._model, self._clock, self._supervision.load_timeout_s, self._environment(), python
        )

    # -- work -----------------------------------------------------------------------------------------------------

    def run(self, parts: Sequence[Tensors], rows: Sequence[int]) -> asyncio.Future[BatchResult]:
        job = _Job(parts, rows, asyncio.get_running_loop().create_future())
        if self._process is not None and self._process.open:
            self._give(job, self._process)
        else:
            self._postpone(job)
        return job.answer

    def _give(self, job: _Job, process: RunnerProcess) -> None:
        try:
            process.run(job.parts, job.rows, job.answer, partial(self._lost, job))
        except ProcessLost as lost:
            self._lost(job, lost)
        except Exception as error:
            job.answer.set_exception(error)

    def _lost(self, job: _Job, lost: ProcessLost) -> None:
        job.deaths += 1
        if job.deaths < self._supervision.lives_per_request:
            self._postpone(job)
            return
        job.answer.set_exception(
            RunnerLost(f"{self._model.manifest.ref}: every runner that computed this request died; {lost}")
        )

    def _postpone(self, job: _Job) -> None:
        waiting = asyncio.get_running_loop().create_task(self._give_later(job))
        self._postponed.add(waiting)
        waiting.add_done_callback(self._postponed.discard)

    async def _give_later(self, job: _Job) -> None:
        """Wait for a process to take the job; this ends at the latest when the executor is stopped."""
        try:
            process = await self._alive()
        except EngineError as error:
            if not job.answer.done():
                job.answer.set_exception(error)
            return
        if not job.answer.done():
            self._give(job, process)

    async def run_stream(self, inputs: Tensors) -> AsyncGenerator[dict[str, Array]]:
        reason = ""
        for _ in range(self._supervision.lives_per_request):
            process = await self._alive()
            count = 0
            try:
                async with aclosing(process.run_stream(inputs)) as responses:
                    async for outputs in responses:
                        count += 1
                        yield outputs
                return
            except ProcessLost as lost:
                if count:
                    raise RunnerLost(
                        f"{self._model.manifest.ref}: the runner died after {count} responses, and what it knew is "
                        f"lost: send the request again; {lost}"
                    ) from lost
                reason = str(lost)
        raise RunnerLost(f"{self._model.manifest.ref}: every runner that took up this request died; {reason}")

    async def generate(self, request: Generate) -> AsyncGenerator[Delta]:
        progress = _Progress()
        deaths_without_progress = 0
        while True:
            process = await self._alive()
            before = progress.deltas
            try:
                async with aclosing(process.generate(request, progress.delivered())) as deltas:
                    async for delta in deltas:
                        progress.add(delta)
                        yield delta
                        if isinstance(delta, Done):
                            return
            except ProcessLost as lost:
                deaths_without_progress = 1 if progress.deltas > before else deaths_without_progress + 1
                if deaths_without_progress >= self._supervision.lives_per_request:
                    raise RunnerLost(
                        f"{self._model.manifest.ref}: every runner that took up this answer died; {lost}"
                    ) from lost

    async def tokenize(self, request: Generate) -> tuple[int, ...]:
        for _ in range(self._supervision.lives_per_request):
            process = await self._alive()
            try:
                return await process.tokenize(request)
            except ProcessLost as lost:
                reason = str(lost)
        raise RunnerLost(f"{self._model.manifest.ref}: every runner that read this prompt died; {reason}")

    async def _alive(self) -> RunnerProcess:
        """The process that takes requests now; waits while one is being replaced."""
        while True:
            process = self._process
            if process is not None and process.open:
                return process
            if self._state == "failed" and self._error is not None:
                raise ModelNotReady(f"{self._model.manifest.ref} is down and could not be restarted: {self._error}")
            if self._state == "stopped":
                raise ModelNotReady(f"{self._model.manifest.ref} has been unloaded")
            await self._changed.wait()

    # -- supervision ----------------------------------------------------------------------------------------------

    def _set_state(self, state: ExecutorState) -> None:
        self._state = state
        self._changed.set()
        self._changed = asyncio.Event()

    async def _supervise(self, process: RunnerProcess) -> None:
        wait_s = 0.0
        while True:
            await self._watch(process)
            self._process = None
            self._set_state("restarting")
            _log.warning("runner lost", model=str(self._model.manifest.ref), reason=process.epitaph)
            if process.useful:
                wait_s = 0.0
            process, wait_s = await self._replace(wait_s)
            self._process = process
            self._set_state("ready")

    async def _watch(self, process: RunnerProcess) -> None:
        """Returns when the process has ended, by itself or killed because it hung."""
        supervision = self._supervision
        while not process.ended.done():
            await asyncio.wait([process.ended], timeout=supervision.check_interval_s)
            if process.ended.done():
                return
            self._enforce_memory_limit(process)
            if not self._hung(process):
                continue
            # The server itself may have been held up: let it read what has come in before it judges.
            await asyncio.wait([process.ended], timeout=supervision.check_interval_s)
            if self._hung(process):
                _log.warning("runner hung", model=str(self._model.manifest.ref), pid=process.popen.pid)
                process.kill("it hung")
                await process.ended

    def _enforce_memory_limit(self, process: RunnerProcess) -> None:
        limit_mb = self._model.manifest.execution.memory_limit_mb
        if limit_mb is not None and process.resident_bytes() > limit_mb << 20:
            _log.warning("runner over its memory limit", model=str(self._model.manifest.ref), limit_mb=limit_mb)
            process.kill(f"it used more than its memory_limit_mb of {limit_mb}")

    def _hung(self, process: RunnerProcess) -> bool:
        return (
            self._clock() - process.last_beat_s >= self._supervision.hung_after_s
            or process.overdue_s() >= self._supervision.cancel_grace_s
        )

    async def _replace(self, wait_s: float) -> tuple[RunnerProcess, float]:
        """A new process, however many attempts it takes; requests fail with a clear error in between."""
        while True:
            await asyncio.sleep(wait_s)
            wait_s = min(max(self._supervision.backoff_s, wait_s * 2), self._supervision.max_backoff_s)
            self._restarts += 1
            self._on_restart()
            try:
                process = await self._spawn()
            except EngineError as error:
                self._error = error
                self._set_state("failed")
                _log.warning("runner could not be restarted", model=str(self._model.manifest.ref), error=str(error))
                continue
            self._error = None
            return process, wait_s

    async def stop(self, grace_s: float) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
            self._supervisor = None
        process, self._process = self._process, None
        self._set_state("stopped")
        if process is not None:
            await process.stop(grace_s)

    @property
    def state(self) -> ExecutorState:
        return self._state

    @property
    def restarts(self) -> int:
        return self._restarts

    @property
    def winding_down(self) -> bool:
        return self._process is not None and self._process.open and self._process.winding_down

    def status(self) -> ExecutorStatus:
        process = self._process
        return ExecutorStatus(
            kind="runner",
            state=self._state,
            pid=process.popen.pid if process else None,
            memory_bytes=process.memory_bytes() if process else 0,
            restarts=self._restarts,
            error=self._error.message if self._error else None,
            gauges=process.gauges if process else {},
        )


class _Progress:
    """What of one generation has been handed to the caller."""

    def __init__(self) -> None:
        self.deltas = 0
        self._reasoning_tokens = 0
        self._text: list[str] = []
        self._pieces: list[str | tuple[int, ...]] = []

    def add(self, delta: Delta) -> None:
        if not isinstance(delta, Done):
            raw = delta.raw or delta.text
            self.deltas += 1
            self._text.append(raw)
            self._pieces.append(delta.tokens or raw)
            if isinstance(delta, ReasoningDelta):
                self._reasoning_tokens += len(delta.tokens) or 1

    def delivered(self) -> Delivered:
        return Delivered("".join(self._text), tuple(self._pieces), self._reasoning_tokens)
