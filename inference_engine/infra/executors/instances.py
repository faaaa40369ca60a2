"""Several executors of one model as one: each request goes to the one with the least to do. Knows no process.

Each instance heals itself; while one is being replaced, the others take the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Protocol

import msgspec

from inference_engine.domain.errors import EngineError, error_from_code
from inference_engine.domain.ports import BatchResult, Executor, ExecutorState, ExecutorStatus, Loaded
from inference_engine.domain.requests import Generate
from inference_engine.domain.results import Delta
from inference_engine.domain.tensors import Tensors

_STATES: tuple[ExecutorState, ...] = ("ready", "restarting", "starting", "failed", "stopped")
_MEANS = ("_ratio", "_per_second")


class Instance(Executor, Protocol):
    """An executor that tells its state without measuring anything: it is asked before every batch."""

    @property
    def state(self) -> ExecutorState: ...

    @property
    def restarts(self) -> int: ...

    @property
    def winding_down(self) -> bool:
        """True while it still computes something that was cancelled. Cheap."""


class InstancesExecutor:
    """`Executor` that stands before `executors`, all of one model and fresh."""

    def __init__(self, executors: Sequence[Instance], devices: Sequence[str] = ()) -> None:
        """`devices` says where each of them is, for errors; empty where all are on the same."""
        self._executors = tuple(executors)
        self._devices = tuple(devices)
        self._busy = [0] * len(self._executors)
        self._turn = 0

    @property
    def instances(self) -> tuple[Instance, ...]:
        return self._executors

    @property
    def state(self) -> ExecutorState:
        """Ready while one is."""
        return min((executor.state for executor in self._executors), key=_STATES.index)

    @property
    def restarts(self) -> int:
        return sum(executor.restarts for executor in self._executors)

    @property
    def batches_in_flight(self) -> int:
        return sum(executor.batches_in_flight for executor in self._executors)

    async def start(self) -> Loaded:
        results = await asyncio.gather(*(executor.start() for executor in self._executors), return_exceptions=True)
        failures = [self._named(index, one) for index, one in enumerate(results) if isinstance(one, BaseException)]
        if failures:
            await asyncio.gather(
                *(
                    executor.stop(0.0)
                    for executor, result in zip(self._executors, results, strict=True)
                    if not isinstance(result, BaseException)
                )
            )
            raise failures[0]
        loaded = [result for result in results if isinstance(result, Loaded)]
        return msgspec.structs.replace(loaded[0], concurrency=sum(one.concurrency for one in loaded))

    def _named(self, index: int, error: BaseException) -> BaseException:
        if not self._devices or not isinstance(error, EngineError):
            return error
        message = f"the instance on {self._devices[index]}: {error.message}"
        return error_from_code(error.code, message, param=error.param or "execution.instances")

    def _least_busy(self) -> int:
        """The instance with the least in flight, one that is ready before one that is not; equal ones take turns."""
        count = len(self._executors)
        self._turn = (self._turn + 1) % count
        order = [(self._turn + step) % count for step in range(count)]
        ready = [index for index in order if self._executors[index].state == "ready"]
        return min(ready or order, key=self._busy.__getitem__)

    def run(self, parts: Sequence[Tensors], rows: Sequence[int]) -> Awaitable[BatchResult]:
        index = self._least_busy()
        work = asyncio.ensure_future(self._executors[index].run(parts, rows))
        self._busy[index] += 1
        work.add_done_callback(partial(self._ended, index))
        return work

    def _ended(self, index: int, _: object = None) -> None:
        self._busy[index] -= 1

    async def run_stream(self, inputs: Tensors) -> AsyncGenerator[dict[str, Any]]:
        index = self._least_busy()
        self._busy[index] += 1
        try:
            async with aclosing(self._executors[index].run_stream(inputs)) as responses:
                async for outputs in responses:
                    yield outputs
        finally:
            self._ended(index)

    async def generate(self, request: Generate) -> AsyncGenerator[Delta]:
        index = self._least_busy()
        self._busy[index] += 1
        try:
            async with aclosing(self._executors[index].generate(request)) as deltas:
                async for delta in deltas:
                    yield delta
        finally:
            self._ended(index)

    async def tokenize(self, request: Generate) -> tuple[int, ...]:
        return await self._executors[self._least_busy()].tokenize(request)

    async def stop(self, grace_s: float) -> None:
        await asyncio.gather(*(executor.stop(grace_s) for executor in self._executors))

    def status(self) -> ExecutorStatus:
        """Ready while one is; memory, restarts and counts are summed, shares and speeds are means."""
        statuses = [executor.status() for executor in self._executors]
        best = min(statuses, key=lambda status: _STATES.index(status.state))
        return ExecutorStatus(
            kind=best.kind,
            state=best.state,
            pid=best.pid,
            memory_bytes=sum(status.memory_bytes for status in statuses),
            restarts=sum(status.restarts for status in statuses),
            error=next((status.error for status in statuses if status.error), None),
            gauges=_merged([status.gauges for status in statuses]),
        )


def _merged(gauges: Sequence[Mapping[str, float]]) -> dict[str, float]:
    merged: dict[str, float] = {}
    for name in {name for measured in gauges for name in measured}:
        values = [measured[name] for measured in gauges if name in measured]
        merged[name] = sum(values) / (len(values) if name.endswith(_MEANS) else 1)
    return merged
