"""The waiting line of predict requests in front of a model, where rows are merged into batches.

Knows limits, deadlines and priorities; not what is computed. Generations wait in `slots.py`.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count

from inference_engine.core.logging import get_logger
from inference_engine.domain.errors import DeadlineExceeded, EngineError, InferenceFailed, InvalidRequest, QueueFull
from inference_engine.domain.model import Manifest
from inference_engine.domain.ports import Executor, Telemetry
from inference_engine.domain.tensors import Array, Tensors

Clock = Callable[[], float]
_SWEEP_S = 0.02
_log = get_logger(__name__)


class _Waiting:
    """One predict request in line. `shape_key` is equal for requests that can share a batch."""

    __slots__ = ("batch", "deadline_s", "future", "inputs", "queued_at", "rows", "shape_key")

    def __init__(
        self,
        inputs: Tensors,
        rows: int,
        shape_key: object,
        future: asyncio.Future[Answer],
        queued_at: float,
        deadline_s: float,
    ) -> None:
        self.inputs = inputs
        self.rows = rows
        self.shape_key = shape_key
        self.future = future
        self.queued_at = queued_at
        self.deadline_s = deadline_s
        self.batch: _Batch | None = None


class _Batch:
    """Requests that are computed together. When nobody waits for any of them, the computation is cancelled."""

    __slots__ = ("items", "task")

    def __init__(self, items: list[_Waiting]) -> None:
        self.items = items
        self.task: asyncio.Task[None] | None = None

    def abandon_if_unwanted(self) -> None:
        if self.task is not None and all(item.future.done() for item in self.items):
            self.task.cancel()


Answer = tuple[dict[str, Array], float, float]
"""Outputs, seconds in the queue, seconds computing."""


class BatchQueue:
    """Merges waiting predict requests and keeps the executor busy.

    It never idles to wait unless the manifest's `max_delay_ms` asks for it: whatever is waiting when the executor
    has room goes out as one batch.
    """

    def __init__(self, manifest: Manifest, executor: Executor, batched: bool, telemetry: Telemetry, clock: Clock):
        self._ref = manifest.ref
        self._executor = executor
        self._max_rows = manifest.execution.max_batch_size if batched else 1
        self._batched = batched
        self._limit = manifest.execution.queue_limit
        self._delay_s = manifest.execution.max_delay_ms / 1000
        self._telemetry = telemetry
        self._clock = clock
        self._line: list[tuple[int, int, _Waiting]] = []
        self._order = count()
        self._running: set[asyncio.Task[None]] = set()
        self._pump_due: asyncio.Handle | None = None
        self._unanswered: set[_Waiting] = set()
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
        if len(self._line) >= self._limit:
            raise QueueFull(
                f"{self._limit} requests are waiting for {self._ref}: try again later, or raise execution.queue_limit"
            )
        loop = asyncio.get_running_loop()
        now = self._clock()
        item = _Waiting(inputs, rows, self._shape_key(inputs), loop.create_future(), now, deadline_s)
        heapq.heappush(self._line, (priority, next(self._order), item))
        self._unanswered.add(item)
        if self._sweep_due is None:
            self._sweep_due = loop.call_later(_SWEEP_S, self._sweep)
        self._schedule_pump()
        try:
            return await item.future
        except (asyncio.CancelledError, DeadlineExceeded):
            if item.batch is not None:
                item.batch.abandon_if_unwanted()
            raise
        finally:
            self._unanswered.discard(item)
            item.batch = None  # else request and batch keep each other alive until the garbage collector comes

    def _shape_key(self, inputs: Tensors) -> object:
        if not self._batched:
            return None
        return tuple([array.shape[1:] for array in inputs.values()])

    def _sweep(self) -> None:
        """End the wait of those whose deadline has passed. One sweep for all: a timer for each would cost more."""
        self._sweep_due = None
        now = self._clock()
        for item in self._unanswered:
            if item.deadline_s <= now and not item.future.done():
                item.future.set_exception(
                    DeadlineExceeded(f"{self._ref} did not answer within the deadline of this request")
                )
        if self._unanswered:
            self._sweep_due = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)

    def _schedule_pump(self) -> None:
        if self._pump_due is not None or len(self._running) >= self._executor.batches_in_flight:
            return
        loop = asyncio.get_running_loop()
        if self._delay_s and not self._running and len(self._line) < self._max_rows:
            self._pump_due = loop.call_later(self._delay_s, self._pump)
        elif not self._running and self._executor.batches_in_flight > 1:
            self._pump()  # a request alone goes out at once; the next ones gather behind it
        else:
            self._pump_due = loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_due = None
        while self._line and len(self._running) < self._executor.batches_in_flight:
            items = self._next_batch()
            if not items:
                return
            batch = _Batch(items)
            for item in items:
                item.batch = batch
            batch.task = asyncio.get_running_loop().create_task(self._compute(items))
            self._running.add(batch.task)
            batch.task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if self._line:
            self._pump()

    def _next_batch(self) -> list[_Waiting]:
        """The longest run of compatible requests from the head of the line; those nobody waits for are dropped."""
        items: list[_Waiting] = []
        rows = 0
        while self._line:
            item = self._line[0][2]
            if item.future.done():
                heapq.heappop(self._line)
                continue
            if items and (rows + item.rows > self._max_rows or item.shape_key != items[0].shape_key):
                break
            heapq.heappop(self._line)
            items.append(item)
            rows += item.rows
        return items

    async def _compute(self, items: list[_Waiting]) -> None:
        started = self._clock()
        rows = [item.rows for item in items]
        try:
            result = await self._executor.run([item.inputs for item in items], rows)
        except EngineError as error:
            await self._failed(items, error)
            return
        except Exception as error:
            _log.exception("executor failed unexpectedly", model=str(self._ref))
            await self._failed(items, InferenceFailed(f"{type(error).__name__}: {error}"))
            return
        except asyncio.CancelledError:
            for item in items:
                item.future.cancel()
            raise
        self._telemetry.batch(self._ref, sum(rows), started - items[0].queued_at, result.compute_s)
        for item, outputs in zip(items, result.outputs, strict=True):
            if not item.future.done():
                item.future.set_result((outputs, started - item.queued_at, result.compute_s))

    async def _failed(self, items: list[_Waiting], error: EngineError) -> None:
        """One bad request must not fail its neighbours: when a merged batch fails, each is tried alone."""
        if len(items) == 1 or not isinstance(error, InferenceFailed | InvalidRequest):
            for item in items:
                if not item.future.done():
                    item.future.set_exception(error)
            return
        for item in items:
            if not item.future.done():
                await self._compute([item])

    async def close(self) -> None:
        """Cancel what is running and waiting; called when the executor ends."""
        for _, _, item in self._line:
            item.future.cancel()
        self._line.clear()
        if self._sweep_due is not None:
            self._sweep_due.cancel()
        for task in tuple(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
