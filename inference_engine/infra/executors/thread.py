"""Small trusted models inside the server process: no hop, no isolation. Same contract as the runner executor."""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from inference_engine.domain.errors import (
    EngineError,
    InferenceFailed,
    ModelLoadFailed,
    ModelNotReady,
    RequestCancelled,
)
from inference_engine.domain.ports import BatchResult, ExecutorState, ExecutorStatus, Loaded, Runtime, StoredModel
from inference_engine.domain.requests import Generate
from inference_engine.domain.results import Delivered, Delta, Done
from inference_engine.domain.tensors import Tensors, concatenate, split

_Job = tuple[Sequence[Tensors], Sequence[int], "asyncio.Future[BatchResult]"]


class ThreadExecutor:
    """Computes batches in one thread, and each generation in a thread of its own.

    A model that is much quicker than the hop to a thread and back is computed on the event loop (`Pace`), and one that
    is quicker than waiting for other requests without any wait.

    A runtime that hangs or crashes takes the server with it: that is what `executor: thread` accepts.
    """

    batches_in_flight = 1

    def __init__(self, model: StoredModel, runtime: Runtime) -> None:
        self._model = model
        self._runtime = runtime
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._worker: threading.Thread | None = None
        self._generating: set[_ThreadSink | _ResponseSink] = set()
        self._ending: set[_ThreadSink | _ResponseSink] = set()
        self._pace = Pace()
        self._computing = 0
        self._state: ExecutorState = "starting"
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> Loaded:
        self._loop = asyncio.get_running_loop()
        try:
            loaded = await asyncio.to_thread(self._runtime.load, self._model.manifest, self._model.folder)
        except EngineError:
            raise
        except Exception as error:
            raise ModelLoadFailed(f"{self._model.manifest.artifact}: {type(error).__name__}: {error}") from error
        self._worker = threading.Thread(target=self._work, name=str(self._model.manifest.ref), daemon=True)
        self._worker.start()
        self._state = "ready"
        return loaded

    def run(self, parts: Sequence[Tensors], rows: Sequence[int]) -> asyncio.Future[BatchResult]:
        answer: asyncio.Future[BatchResult] = self._running_loop().create_future()
        if self._pace.quick and self._computing == 0:
            _settle(answer, self._compute(parts, rows))
        else:
            self._computing += 1
            self._jobs.put((parts, rows, answer))
        return answer

    def run_now(self, inputs: Tensors, rows: int) -> BatchResult | None:
        if not self._pace.instant or self._computing or self._state != "ready":
            return None
        started = time.perf_counter()
        try:
            outputs = split(self._runtime.run(inputs), (rows,))
        except EngineError:
            raise
        except Exception as error:
            raise InferenceFailed(f"{type(error).__name__}: {error}") from error
        compute_s = time.perf_counter() - started
        self._pace.note(compute_s)
        return BatchResult(outputs, compute_s)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._state != "ready" or self._loop is None:
            raise ModelNotReady(f"{self._model.manifest.ref} has been unloaded")
        return self._loop

    def _work(self) -> None:
        assert self._loop is not None
        while (job := self._jobs.get()) is not None:
            parts, rows, answer = job
            outcome = RequestCancelled("cancelled") if answer.cancelled() else self._compute(parts, rows)
            self._loop.call_soon_threadsafe(self._resolve, answer, outcome)

    def _compute(self, parts: Sequence[Tensors], rows: Sequence[int]) -> BatchResult | EngineError:
        """One batch, in whichever thread it is called; never in two at once."""
        try:
            batch = concatenate(parts)
            started = time.perf_counter()
            outputs = self._runtime.run(batch)
            computed = time.perf_counter()
            compute_s = computed - started
            self._pace.note(compute_s)
            split_outputs = split(outputs, rows)
            return BatchResult(split_outputs, compute_s, time.perf_counter() - computed)
        except EngineError as error:
            return error
        except Exception as error:
            return InferenceFailed(f"{type(error).__name__}: {error}")

    def _resolve(self, answer: asyncio.Future[BatchResult], outcome: BatchResult | EngineError) -> None:
        self._computing -= 1
        if not answer.done():
            _settle(answer, outcome)

    async def run_stream(self, inputs: Tensors) -> AsyncGenerator[dict[str, Any]]:
        sink = _ResponseSink(self._running_loop())
        self._generating.add(sink)
        threading.Thread(target=self._run_stream, args=(inputs, sink), daemon=True).start()
        try:
            while (item := await sink.items.get()) is not None:
                if isinstance(item, EngineError):
                    raise item
                sink.taken()
                yield item
        finally:
            sink.cancel()
            self._leave(sink)

    def _leave(self, sink: _ThreadSink | _ResponseSink) -> None:
        self._generating.discard(sink)
        if not sink.ended.is_set():
            self._ending.add(sink)

    def _run_stream(self, inputs: Tensors, sink: _ResponseSink) -> None:
        try:
            self._runtime.run_stream(inputs, sink)
            sink.finish()
        except EngineError as error:
            sink.fail(error)
        except Exception as error:
            sink.fail(InferenceFailed(f"{type(error).__name__}: {error}"))
        finally:
            sink.ended.set()

    async def generate(self, request: Generate) -> AsyncGenerator[Delta]:
        sink = _ThreadSink(self._running_loop())
        self._generating.add(sink)
        thread = threading.Thread(target=self._generate, args=(request, sink), daemon=True)
        thread.start()
        try:
            while True:
                item = await sink.items.get()
                if isinstance(item, EngineError):
                    raise item
                yield item
                if isinstance(item, Done):
                    return
        finally:
            sink.cancel()
            self._leave(sink)

    def _generate(self, request: Generate, sink: _ThreadSink) -> None:
        try:
            self._runtime.generate(request, Delivered(), sink)
            sink.fail(InferenceFailed("the runtime ended without finishing the answer"))
        except EngineError as error:
            sink.fail(error)
        except Exception as error:
            sink.fail(InferenceFailed(f"{type(error).__name__}: {error}"))
        finally:
            sink.ended.set()

    async def tokenize(self, request: Generate) -> tuple[int, ...]:
        self._running_loop()
        try:
            return await asyncio.to_thread(self._runtime.tokenize, request)
        except EngineError:
            raise
        except Exception as error:
            raise InferenceFailed(f"{type(error).__name__}: {error}") from error

    async def stop(self, grace_s: float) -> None:
        if self._state == "stopped":
            return
        self._state = "stopped"
        sinks = list(self._generating)
        for sink in sinks:
            sink.fail(ModelNotReady(f"{self._model.manifest.ref} has been unloaded"))
            sink.cancel()
        self._jobs.put(None)
        await asyncio.to_thread(self._end, sinks, grace_s)

    def _end(self, sinks: list[_ThreadSink | _ResponseSink], grace_s: float) -> None:
        for sink in sinks:
            sink.ended.wait(grace_s)
        if self._worker is not None:
            self._worker.join(grace_s)
            if self._worker.is_alive() or not all(sink.ended.is_set() for sink in sinks):
                return  # still computing: the runtime stays open until the process ends
        self._runtime.close()

    @property
    def state(self) -> ExecutorState:
        return self._state

    @property
    def restarts(self) -> int:
        """Never: it shares the fate of the server."""
        return 0

    @property
    def winding_down(self) -> bool:
        self._ending = {sink for sink in self._ending if not sink.ended.is_set()}
        return self._state == "ready" and bool(self._ending or self._computing)

    def status(self) -> ExecutorStatus:
        gauges = self._runtime.gauges() if self._state == "ready" else {}
        return ExecutorStatus(kind="thread", state=self._state, gauges=gauges)


def _settle(answer: asyncio.Future[BatchResult], outcome: BatchResult | EngineError) -> None:
    if isinstance(outcome, EngineError):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


class Pace:
    """Whether a model is so `quick` that the hop to a thread would cost more than its computation.

    It is `instant` where even merging requests would cost more than computing each for itself.

    The shortest of the last calls tells: waiting for the interpreter or a core makes calls longer, never shorter. A
    model that is slow on the event loop more than now and then goes back to its thread for a while.
    """

    INSTANT_S = 0.000015
    QUICK_S = 0.0001
    SLOW_S = 0.001
    OBSERVED = 16
    BANISHED = 1000
    PARDON = 0.1
    PATIENCE = 3

    def __init__(self) -> None:
        self.quick = self.instant = False
        self._left = self.OBSERVED
        self._shortest_s = math.inf
        self._slow = 0.0

    def note(self, seconds: float) -> None:
        """Take in the duration of one computation."""
        if self.quick:
            self._slow = self._slow + 1 if seconds > self.SLOW_S else max(0.0, self._slow - self.PARDON)
            if self._slow >= self.PATIENCE:
                self.quick = self.instant = False
                self._left, self._shortest_s, self._slow = self.BANISHED, math.inf, 0.0
            return
        self._left -= 1
        self._shortest_s = min(self._shortest_s, seconds)
        if self._left <= 0:
            self.quick = self._shortest_s < self.QUICK_S
            self.instant = self._shortest_s < self.INSTANT_S
            self._left, self._shortest_s = self.OBSERVED, math.inf


class _ThreadSink:
    """Hands deltas from a runtime's thread to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._cancelled = False
        self.items: asyncio.Queue[Delta | EngineError] = asyncio.Queue()
        self.ended = threading.Event()

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        self._cancelled = True

    def emit(self, *deltas: Delta) -> None:
        for delta in deltas:
            if not self._cancelled:
                self._loop.call_soon_threadsafe(self.items.put_nowait, delta)

    def fail(self, error: EngineError) -> None:
        if not self._cancelled:
            self._loop.call_soon_threadsafe(self.items.put_nowait, error)


class _ResponseSink:
    """Hands responses from a runtime's thread to the event loop, a few ahead of their reader. None is the end."""

    AHEAD = 8

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._cancelled = False
        self._room = threading.Semaphore(self.AHEAD)
        self.items: asyncio.Queue[dict[str, Any] | EngineError | None] = asyncio.Queue()
        self.ended = threading.Event()

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        self._cancelled = True
        self._room.release()

    def taken(self) -> None:
        self._room.release()

    def send(self, outputs: Tensors) -> None:
        self._room.acquire()
        if self._cancelled:
            self._room.release()
            return
        self._put(dict(outputs))

    def finish(self) -> None:
        self._put(None)

    def fail(self, error: EngineError) -> None:
        self._put(error)

    def _put(self, item: dict[str, Any] | EngineError | None) -> None:
        if not self._cancelled:
            self._loop.call_soon_threadsafe(self.items.put_nowait, item)
