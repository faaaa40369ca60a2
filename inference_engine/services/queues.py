"""The waiting line of predict requests in front of a model, where rows are merged into batches.

Knows limits, deadlines and priorities; not what is computed. Generations wait in `slots.py`.
"""

from __future__ import annotations

import asyncio
from bisect import insort_left, insort_right
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import chain
from operator import attrgetter

import msgspec

from inference_engine.core.logging import get_logger
from inference_engine.domain.errors import DeadlineExceeded, EngineError, InferenceFailed, InvalidRequest, QueueFull
from inference_engine.domain.model import Manifest
from inference_engine.domain.ports import BatchResult, Executor, PromptExecutor, Telemetry
from inference_engine.domain.statistics import ModelStatistics
from inference_engine.domain.tensors import Array, Tensors

Clock = Callable[[], float]
RunNow = Callable[[Tensors, int], BatchResult | None]
Answer = tuple[dict[str, Array], float, float]
"""Outputs, seconds in the queue, seconds computing."""
_PRIORITY = attrgetter("priority")
_SWEEP_S = 0.02
_log = get_logger(__name__)


class _Waiting(msgspec.Struct, eq=False):
    """One predict request in line. `shape_key` is equal for requests that can share a batch.

    A Struct, because that is made four times faster.
    """

    inputs: Tensors
    rows: int
    priority: int
    shape_key: object
    future: asyncio.Future[Answer]
    queued_at: float
    deadline_s: float
    batch: _Batch | None = None


class _Batch(msgspec.Struct, eq=False):
    """Requests that are computed together. When nobody waits for any of them, the `work` is cancelled."""

    items: list[_Waiting]
    rows: int
    started: float
    work: asyncio.Future[BatchResult]

    def abandon_if_unwanted(self) -> None:
        if all(item.future.done() for item in self.items):
            self.work.cancel()


class BatchQueue:
    """Merges waiting predict requests and keeps the executor busy.

    It never idles to wait unless the manifest's `max_delay_ms` asks for it: whatever is waiting when the executor
    has room goes out as one batch. `shapes_differ` says that good requests may differ in more than their rows.
    """

    def __init__(
        self,
        manifest: Manifest,
        executor: Executor,
        batched: bool,
        telemetry: Telemetry,
        clock: Clock,
        *,
        shapes_differ: bool = True,
        statistics: ModelStatistics | None = None,
    ) -> None:
        self._ref = manifest.ref
        self._executor = executor
        self._run_now = executor.run_now if isinstance(executor, PromptExecutor) else None
        self._in_flight = executor.batches_in_flight
        self._max_rows = manifest.execution.max_batch_size if batched else 1
        self._shapes_differ = batched and shapes_differ
        self._limit = manifest.execution.queue_limit
        self._delay_s = manifest.execution.max_delay_ms / 1000
        self._telemetry = telemetry
        self._statistics = statistics or ModelStatistics()
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._line: deque[_Waiting] = deque()
        self._running: set[_Batch] = set()
        self._pump_due: asyncio.Handle | None = None
        self._sweep_due: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        return len(self._line)

    async def submit(self, inputs: Tensors, rows: int, deadline_s: float, priority: int = 0) -> Answer:
        """Wait in line and be computed. `deadline_s` is a reading of the clock.

        Raises:
            QueueFull: `queue_limit` requests wait already. DeadlineExceeded: not computed in time.
            EngineError: what the runtime raised.
        """
        line = self._line
        if not line and self._run_now is not None and not self._running and not self._delay_s:
            answer = self._computed_now(self._run_now, inputs, rows)
            if answer is not None:
                return answer
        if len(line) >= self._limit:
            raise QueueFull(
                f"{self._limit} requests are waiting for {self._ref}: try again later, or raise execution.queue_limit"
            )
        loop = self._loop = self._loop or asyncio.get_running_loop()  # asking costs more than a microsecond
        key = tuple([array.shape[1:] for array in inputs.values()]) if self._shapes_differ else None
        item = _Waiting(inputs, rows, priority, key, loop.create_future(), self._clock(), deadline_s)
        if line and line[-1].priority > priority:
            insort_right(line, item, key=_PRIORITY)
        else:
            line.append(item)
        if self._sweep_due is None:
            self._sweep_due = loop.call_later(_SWEEP_S, self._sweep)
        if self._pump_due is None and len(self._running) < self._in_flight:
            self._schedule_pump(loop)
        try:
            return await item.future
        except (asyncio.CancelledError, DeadlineExceeded):
            if item.batch is not None:
                item.batch.abandon_if_unwanted()
            raise

    def _computed_now(self, run_now: RunNow, inputs: Tensors, rows: int) -> Answer | None:
        """The answer of a model that is quicker than the line would be, None where the request has to wait."""
        started = self._clock()
        result = run_now(inputs, rows)
        if result is None:
            return None
        now, compute_s = self._clock(), result.compute_s
        self._telemetry.batch(self._ref, rows, 0.0, compute_s)
        self._statistics.batch(1, rows, 0.0, now - started, compute_s, result.output_s, now)
        return result.outputs[0], 0.0, compute_s

    def _sweep(self) -> None:
        """End the wait of those whose deadline has passed. One sweep for all: a timer for each would cost more."""
        self._sweep_due = None
        if not self._line and not self._running:
            return
        self._sweep_due = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)
        now = self._clock()
        for item in chain(self._line, *[batch.items for batch in self._running]):
            if item.deadline_s <= now and not item.future.done():
                item.future.set_exception(
                    DeadlineExceeded(f"{self._ref} did not answer within the deadline of this request")
                )

    def _schedule_pump(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._delay_s and not self._running and len(self._line) < self._max_rows:
            self._pump_due = loop.call_later(self._delay_s, self._pump)
        elif not self._running and self._in_flight > 1:
            self._pump()  # a request alone goes out at once; the next ones gather behind it
        else:
            self._pump_due = loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_due = None
        while self._line and len(self._running) < self._in_flight:
            items, rows = self._next_batch()
            if not items:
                return
            batch = _Batch(items, rows, self._clock(), self._work(items))
            if batch.work.done():
                self._answer(batch)
                if self._line:
                    self._pump_due = asyncio.get_running_loop().call_soon(self._pump)
                return
            for item in items:
                item.batch = batch
            self._running.add(batch)
            batch.work.add_done_callback(partial(self._finished, batch))

    def _next_batch(self) -> tuple[list[_Waiting], int]:
        """The longest run of compatible requests from the head of the line; those nobody waits for are dropped."""
        items: list[_Waiting] = []
        rows = 0
        line = self._line
        while line:
            item = line[0]
            if not item.future.done():
                if items and (rows + item.rows > self._max_rows or item.shape_key != items[0].shape_key):
                    break
                items.append(item)
                rows += item.rows
            line.popleft()
        return items, rows

    def _work(self, items: list[_Waiting]) -> asyncio.Future[BatchResult]:
        """The executor's answer to come; it costs a task only where the executor's `run` is a coroutine."""
        try:
            return asyncio.ensure_future(self._executor.run([item.inputs for item in items], [i.rows for i in items]))
        except Exception as error:
            failed: asyncio.Future[BatchResult] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            return failed

    def _finished(self, batch: _Batch, _: asyncio.Future[BatchResult]) -> None:
        for item in batch.items:
            item.batch = None  # else request and batch keep each other alive until the garbage collector comes
        self._running.discard(batch)
        self._answer(batch)
        if self._line:
            self._pump()

    def _answer(self, batch: _Batch) -> None:
        """Give the requests of a batch, whose work has ended, what came of it."""
        if batch.work.cancelled():
            for item in batch.items:
                item.future.cancel()
            return
        error = batch.work.exception()
        if error is not None:
            self._failed(batch.items, error)
            return
        result = batch.work.result()
        started, compute_s = batch.started, result.compute_s
        self._telemetry.batch(self._ref, batch.rows, started - batch.items[0].queued_at, compute_s)
        now, count = self._clock(), len(batch.items)
        queued_s = started * count - sum([item.queued_at for item in batch.items])
        self._statistics.batch(count, batch.rows, queued_s, now - started, compute_s, result.output_s, now)
        for item, outputs in zip(batch.items, result.outputs, strict=True):
            if not item.future.done():
                item.future.set_result((outputs, started - item.queued_at, compute_s))

    def _failed(self, items: list[_Waiting], error: BaseException) -> None:
        """One bad request must not fail its neighbours: those of a merged batch go back in line, each to go alone."""
        if not isinstance(error, EngineError):
            _log.error("executor failed unexpectedly", model=str(self._ref), exc_info=error)
            error = InferenceFailed(f"{type(error).__name__}: {error}")
        again = len(items) > 1 and isinstance(error, InferenceFailed | InvalidRequest)
        for item in reversed(items):
            if item.future.done():
                continue
            if again:
                item.shape_key = object()  # equal to no other
                insort_left(self._line, item, key=_PRIORITY)
            else:
                item.future.set_exception(error)

    async def close(self) -> None:
        """Cancel what is running and waiting; called when the executor ends."""
        for item in self._line:
            item.future.cancel()
        self._line.clear()
        if self._sweep_due is not None:
            self._sweep_due.cancel()
            self._sweep_due = None
        works = [batch.work for batch in self._running]
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)
