"""The waiting lines: what is merged, who goes first, who is refused, who is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from inference_engine.domain.errors import DeadlineExceeded, InferenceFailed, QueueFull
from inference_engine.domain.model import Execution, Manifest
from inference_engine.domain.ports import BatchResult
from inference_engine.domain.tensors import Tensors, concatenate, split
from inference_engine.services.queues import BatchQueue
from inference_engine.testing import FakeClock, FakeExecutor, NullTelemetry, PromptFakeExecutor

NOW = 1000.0
LATER = NOW + 60


class GatedExecutor(FakeExecutor):
    """Computes a batch when the gate is opened, and remembers the batches."""

    def __init__(self, in_flight: int = 1) -> None:
        super().__init__()
        self.batches_in_flight = in_flight
        self.batches: list[list[int]] = []
        self.gate = asyncio.Semaphore(0)
        self.cancelled = 0

    async def run(self, parts: Sequence[Tensors], rows: Sequence[int]) -> BatchResult:
        self.batches.append(list(rows))
        try:
            await self.gate.acquire()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        batch = concatenate(parts)
        if (batch["x"] < 0).any():
            raise InferenceFailed("negative")
        return BatchResult(split({"y": batch["x"] * 2}, rows), 0.001)


def line(executor: FakeExecutor, clock: FakeClock | None = None, **execution: object) -> BatchQueue:
    manifest = Manifest("m", "1", "fake", "f", execution=Execution(**execution))  # type: ignore[arg-type]
    return BatchQueue(manifest, executor, True, NullTelemetry(), clock or FakeClock(NOW))


def request(*values: float, columns: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.array(values, np.float32).reshape(-1, columns)}


async def put(queue: BatchQueue, *values: float, priority: int = 0, columns: int = 1) -> list[float]:
    inputs = request(*values, columns=columns)
    outputs, _, _ = await queue.submit(inputs, len(inputs["x"]), LATER, priority)
    return list(outputs["y"].ravel())


async def turns(count: int = 5) -> None:
    """Let everything that can run do so."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_request_alone_goes_at_once() -> None:
    executor = GatedExecutor()
    executor.gate.release()
    assert await put(line(executor), 3) == [6]
    assert executor.batches == [[1]]


async def test_what_waits_goes_out_together_and_each_gets_its_own() -> None:
    executor = GatedExecutor()
    queue = line(executor)
    tasks = [asyncio.create_task(put(queue, value)) for value in range(3)]
    await turns()
    tasks += [asyncio.create_task(put(queue, 10, 11)), asyncio.create_task(put(queue, 12))]
    await turns()
    executor.gate.release()
    executor.gate.release()
    assert await asyncio.gather(*tasks) == [[0], [2], [4], [20, 22], [24]]
    assert executor.batches == [[1, 1, 1], [2, 1]]


async def test_a_batch_keeps_to_its_largest_size() -> None:
    executor = GatedExecutor()
    queue = line(executor, max_batch_size=4)
    tasks = [asyncio.create_task(put(queue, 1, 2, 3)) for _ in range(3)]
    await turns()
    for _ in range(3):
        executor.gate.release()
    await asyncio.gather(*tasks)
    assert executor.batches == [[3], [3], [3]]


async def test_rows_of_other_shapes_are_not_merged() -> None:
    executor = GatedExecutor()
    queue = line(executor)
    tasks = [asyncio.create_task(put(queue, 1, 2, columns=columns)) for columns in (1, 2, 2)]
    await turns()
    for _ in range(2):
        executor.gate.release()
    await asyncio.gather(*tasks)
    assert executor.batches == [[2], [1, 1]]


async def test_two_batches_are_in_flight_where_the_executor_can_use_them() -> None:
    executor = GatedExecutor(in_flight=2)
    queue = line(executor, max_batch_size=1)
    tasks = [asyncio.create_task(put(queue, value)) for value in range(3)]
    await turns()
    assert len(executor.batches) == 2
    for _ in range(3):
        executor.gate.release()
    assert await asyncio.gather(*tasks) == [[0], [2], [4]]


async def test_the_urgent_go_first() -> None:
    executor = GatedExecutor()
    queue = line(executor, max_batch_size=1)
    order: list[float] = []

    async def note(value: float, priority: int) -> None:
        await put(queue, value, priority=priority)
        order.append(value)

    tasks = [asyncio.create_task(note(*each)) for each in [(0, 0), (1, 5), (2, 5), (3, -1), (4, 0)]]
    await turns()
    for _ in range(5):
        executor.gate.release()
        await turns()
    await asyncio.gather(*tasks)
    assert order == [3, 0, 4, 1, 2]


async def test_a_full_line_refuses_and_says_what_to_do() -> None:
    executor = GatedExecutor()
    queue = line(executor, queue_limit=2, max_batch_size=1)
    first = asyncio.create_task(put(queue, 1))
    await turns()
    waiting = [asyncio.create_task(put(queue, value)) for value in (2, 3)]
    await turns()
    with pytest.raises(QueueFull, match="queue_limit") as refused:
        await put(queue, 4)
    assert refused.value.retry_after_s
    for _ in range(3):
        executor.gate.release()
    assert await asyncio.gather(first, *waiting) == [[2], [4], [6]]


async def test_a_bad_request_does_not_fail_its_neighbours() -> None:
    executor = GatedExecutor()
    queue = line(executor)
    tasks = [asyncio.create_task(put(queue, value)) for value in (1, -1, 2)]
    await turns()
    for _ in range(4):
        executor.gate.release()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[0] == [2]
    assert isinstance(results[1], InferenceFailed)
    assert results[2] == [4]


async def test_those_tried_again_keep_their_place_and_their_deadline() -> None:
    executor, clock = GatedExecutor(), FakeClock(NOW)
    queue = line(executor, clock)
    tasks = [asyncio.create_task(put(queue, value)) for value in (1, -1)]
    hurried = asyncio.create_task(queue.submit(request(2), 1, NOW + 10))
    await turns()
    later = asyncio.create_task(put(queue, 3))
    executor.gate.release()
    await turns()
    assert executor.batches == [[1, 1, 1], [1]]
    assert queue.waiting == 3
    clock.advance(10)
    with pytest.raises(DeadlineExceeded):
        await hurried
    for _ in range(3):
        executor.gate.release()
    results = await asyncio.gather(*tasks, later, return_exceptions=True)
    assert (results[0], results[2]) == ([2], [6])
    assert executor.batches == [[1, 1, 1], [1], [1], [1]]


class FutureExecutor(FakeExecutor):
    """Answers with futures instead of coroutines."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[asyncio.Future[BatchResult]] = []

    def run(self, parts: Sequence[Tensors], rows: Sequence[int]) -> asyncio.Future[BatchResult]:  # type: ignore[override]
        self.answers.append(asyncio.get_running_loop().create_future())
        return self.answers[-1]


async def test_an_executor_may_answer_with_futures() -> None:
    executor = FutureExecutor()
    queue = BatchQueue(Manifest("m", "1", "fake", "f"), executor, True, NullTelemetry(), FakeClock(NOW))
    kept = asyncio.create_task(put(queue, 1))
    await turns()
    left = asyncio.create_task(put(queue, 2))
    await turns()
    executor.answers[0].set_result(BatchResult([{"y": np.array([5])}], 0.001))
    assert await kept == [5]
    left.cancel()
    await turns()
    assert executor.answers[1].cancelled()
    assert queue.waiting == 0


async def test_the_deadline_ends_the_wait_and_the_unwanted_computation() -> None:
    executor, clock = GatedExecutor(), FakeClock(NOW)
    queue = line(executor, clock)
    waiting = asyncio.create_task(queue.submit(request(1), 1, NOW + 10))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    clock.advance(10)
    with pytest.raises(DeadlineExceeded):
        await waiting
    await turns()
    assert executor.cancelled == 1


async def test_a_defect_of_an_executor_is_an_error_not_a_silence() -> None:
    class Defective(GatedExecutor):
        async def run(self, parts: Sequence[Tensors], rows: Sequence[int]) -> BatchResult:
            raise ZeroDivisionError("by accident")

    with pytest.raises(InferenceFailed, match="ZeroDivisionError: by accident"):
        await put(line(Defective()), 1)


async def test_a_batch_goes_on_while_anybody_wants_it() -> None:
    executor = GatedExecutor()
    queue = line(executor)
    leaves, stays = (asyncio.create_task(put(queue, value)) for value in (1, 2))
    await turns()
    leaves.cancel()
    await turns()
    assert executor.cancelled == 0
    executor.gate.release()
    assert await stays == [4]


async def test_those_who_left_the_line_are_not_computed() -> None:
    executor = GatedExecutor()
    queue = line(executor, max_batch_size=1)
    first = asyncio.create_task(put(queue, 1))
    await turns()
    left = asyncio.create_task(put(queue, 2))
    await turns()
    left.cancel()
    await turns()
    executor.gate.release()
    await first
    await turns()
    assert executor.batches == [[1]]


async def test_waiting_for_company_only_where_the_manifest_asks_for_it() -> None:
    executor = GatedExecutor()
    queue = line(executor, max_delay_ms=5)
    tasks = [asyncio.create_task(put(queue, 1))]
    await turns()
    assert executor.batches == []
    tasks.append(asyncio.create_task(put(queue, 2)))
    executor.gate.release()
    await asyncio.gather(*tasks)
    assert executor.batches == [[1, 1]]


async def test_closing_ends_everybody() -> None:
    executor = GatedExecutor()
    queue = line(executor, max_batch_size=1)
    tasks = [asyncio.create_task(put(queue, value)) for value in range(3)]
    await turns()
    await queue.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)


async def test_an_instant_model_is_asked_without_a_line_and_only_when_nothing_waits() -> None:
    executor = PromptFakeExecutor(compute=lambda batch: {"y": batch["x"]})
    queue = line(executor)
    assert await put(queue, 1) == [1]
    assert executor.now == 1
    executor.hold = 0
    waiting = asyncio.ensure_future(put(queue, 2))
    await turns()
    executor.hold = None
    later = asyncio.ensure_future(put(queue, 3))
    await turns()
    assert executor.now == 1, "the one that waits comes first"
    executor.go.set()
    assert await waiting == [2]
    assert await later == [3]
    delayed = PromptFakeExecutor(compute=lambda batch: {"y": batch["x"]})
    assert await put(line(delayed, max_delay_ms=0.1), 1) == [1]
    assert delayed.now == 0, "whoever asks for a delay wants requests to be merged"
