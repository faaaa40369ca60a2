"""Sequences stay with their instance, in order, apart from each other: over fakes, without waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from inference_engine.domain.errors import DeadlineExceeded, InferenceFailed, InvalidManifest, InvalidRequest, QueueFull
from inference_engine.domain.model import Execution, SequenceControls, Sequences, SequenceState, Signature, TensorSpec
from inference_engine.domain.ports import BatchResult, ExecutorState
from inference_engine.domain.requests import Principal, SequenceStep
from inference_engine.domain.tensors import Tensors
from inference_engine.services.sequences import SequenceQueue
from inference_engine.testing import FakeClock, NullTelemetry, manifest

CONTROLS = SequenceControls(start="START", end="END", ready="READY", id="CORRID")
SIGNATURE = Signature(
    (
        TensorSpec("x", "float32", (-1, 1)),
        TensorSpec("START", "int32", (-1, 1)),
        TensorSpec("END", "bool", (-1, 1)),
        TensorSpec("READY", "float32", (-1, 1)),
        TensorSpec("CORRID", "uint64", (-1, 1)),
    ),
    (TensorSpec("y", "float32", (-1, 1)),),
)
WITH_STATE = Signature(
    (TensorSpec("x", "float32", (-1, 1)), TensorSpec("in", "float32", (-1, 1))),
    (TensorSpec("y", "float32", (-1, 1)), TensorSpec("out", "float32", (-1, 1))),
)


class FakeInstance:
    """Sums each row's sequence, by CORRID, in a memory that a `die` empties. Batches wait for `go` when `held`."""

    batches_in_flight = 1

    def __init__(self) -> None:
        self.restarts = 0
        self.state: ExecutorState = "ready"
        self.memory: dict[int, float] = {}
        self.batches: list[list[dict[str, list[Any]]]] = []
        self.held = False
        self.go = asyncio.Event()
        self.fail: Exception | None = None
        self.fails_from = 1
        self.cancelled = 0

    def die(self) -> None:
        self.restarts += 1
        self.memory.clear()

    async def run(self, parts: Sequence[Tensors], rows: Sequence[int]) -> BatchResult:
        self.batches.append([{name: array.ravel().tolist() for name, array in part.items()} for part in parts])
        if self.held:
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if self.fail is not None and len(parts) >= self.fails_from:
            raise self.fail
        return BatchResult([self._one(part) for part in parts], 0.0)

    def _one(self, part: Tensors) -> dict[str, Any]:
        value = float(part["x"][0, 0])
        if "in" in part:
            total = np.full((1, 1), float(part["in"][0, 0]) + value, np.float32)
            return {"y": total, "out": total}
        key = int(part["CORRID"][0, 0])
        self.memory[key] = value if part["START"][0, 0] else self.memory.get(key, -1000) + value
        return {"y": np.full((1, 1), self.memory[key], np.float32)}


class FakeInstances:
    def __init__(self, count: int) -> None:
        self.instances = [FakeInstance() for _ in range(count)]


class Bench:
    def __init__(
        self, count: int = 1, *, states: bool = False, batch: int = 4, limit: int = 100, **fields: Any
    ) -> None:
        self.clock = FakeClock()
        self.executor = FakeInstances(count)
        self.instances = self.executor.instances
        if states:
            fields["states"] = (SequenceState("in", "out"),)
        else:
            fields["controls"] = CONTROLS
        sequences = Sequences(**fields)
        execution = Execution(max_batch_size=batch, queue_limit=limit, sequences=sequences)
        signature = WITH_STATE if states else SIGNATURE
        self.queue = SequenceQueue(
            manifest("sum", signature=signature, execution=execution),
            sequences,
            self.executor,  # type: ignore[arg-type]  # only `instances` is asked for
            signature,
            NullTelemetry(),
            self.clock,
        )

    async def add(
        self,
        id: int | str,
        value: float,
        *,
        start: bool = False,
        end: bool = False,
        tenant: str = "t",
        key: str = "k",
        **more: Any,
    ) -> float:
        inputs = {"x": np.full((1, 1), value, np.float32)}
        deadline_s = more.pop("deadline_s", self.clock() + 100)
        answer = await self.queue.submit(
            inputs, SequenceStep(id, start, end), Principal(tenant, key), deadline_s, **more
        )
        return float(answer[0]["y"][0, 0])


def later(work: Any) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(work)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_sequence_adds_up_with_its_controls() -> None:
    bench = Bench()
    assert [
        await bench.add(7, 1, start=True),
        await bench.add(7, 2),
        await bench.add(7, 3, end=True),
    ] == [1, 3, 6]
    rows = [batch[0] for batch in bench.instances[0].batches]
    assert [(row["START"], row["END"], row["READY"], row["CORRID"]) for row in rows] == [
        ([1], [False], [1.0], [7]),
        ([0], [False], [1.0], [7]),
        ([0], [True], [1.0], [7]),
    ]
    assert bench.queue.active == 0


async def test_each_sequence_stays_with_one_instance_and_they_share_the_work() -> None:
    bench = Bench(count=2)
    for value in range(5):
        for id in range(1, 7):
            assert await bench.add(id, 1, start=value == 0) == value + 1
    homes = [set(instance.memory) for instance in bench.instances]
    assert sorted(map(len, homes)) == [3, 3]
    assert homes[0].isdisjoint(homes[1])


async def test_requests_of_one_sequence_go_in_order_and_one_at_a_time() -> None:
    bench = Bench()
    answers = await asyncio.gather(*(bench.add(1, 1, start=index == 0, end=index == 9) for index in range(10)))
    assert answers == list(range(1, 11))
    assert [len(batch) for batch in bench.instances[0].batches] == [1] * 10


async def test_requests_of_different_sequences_are_merged() -> None:
    bench = Bench(batch=4)
    instance = bench.instances[0]
    instance.held = True
    first = later(bench.add(1, 1, start=True))
    await settle()
    others = [later(bench.add(id, id, start=True)) for id in range(2, 8)]
    await settle()
    instance.held = False
    instance.go.set()
    assert await asyncio.gather(first, *others) == [1, 2, 3, 4, 5, 6, 7]
    assert [len(batch) for batch in instance.batches] == [1, 4, 2]


async def test_direct_gives_each_sequence_a_row_of_its_own() -> None:
    bench = Bench(batch=3, strategy="direct")
    for id in (1, 2, 3):
        await bench.add(id, id, start=True)
    assert await bench.add(3, 10) == 13
    (first, second, third) = bench.instances[0].batches[-1]
    assert [row["READY"] for row in (first, second, third)] == [[0.0], [0.0], [1.0]]
    assert third["CORRID"] == [3]
    await bench.add(2, 1, end=True)
    await bench.add(9, 9, start=True)
    assert [row["CORRID"] for row in bench.instances[0].batches[-1]] == [[0], [9]]


async def test_tenants_never_meet() -> None:
    bench = Bench()
    await bench.add(5, 1, start=True, tenant="one")
    with pytest.raises(InvalidRequest, match="has no sequence 5"):
        await bench.add(5, 1, tenant="two")
    with pytest.raises(InvalidRequest, match="has no sequence 5"):
        await bench.add(5, 1, tenant="one", key="another")
    await bench.add(5, 100, start=True, tenant="two", end=True)
    assert bench.queue.active == 1


async def test_equal_ids_of_tenants_are_told_apart_to_the_model() -> None:
    bench = Bench(count=1)
    tenants = ("one", "two", "three")
    for index in range(3):
        found = [await bench.add(5, 10**place, start=index == 0, tenant=name) for place, name in enumerate(tenants)]
        assert found == [1 + index, 10 + 10 * index, 100 + 100 * index]
    assert set(bench.instances[0].memory) == {5, 2**31 - 1, 2**31 - 2}
    await bench.add(5, 1, end=True, tenant="one")
    assert await bench.add(2**31 - 1, 7, start=True, tenant="one") == 7
    assert await bench.add(5, 10, tenant="two") == 40


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([], "has not begun"),
        ([{"start": True, "end": True}], "it has ended"),
        ([{"start": True}, {"end": True}], "it has ended"),
    ],
)
async def test_a_sequence_that_is_not_there_is_refused(steps: list[dict[str, bool]], reason: str) -> None:
    bench = Bench()
    for step in steps:
        await bench.add(1, 1, **step)
    with pytest.raises(InvalidRequest, match=f"{reason}.*sequence_start"):
        await bench.add(1, 1)


async def test_a_second_start_begins_anew() -> None:
    bench = Bench()
    await bench.add(1, 5, start=True)
    assert await bench.add(1, 1, start=True) == 1
    assert await bench.add(1, 1) == 2
    queued = [later(bench.add(1, 1, end=True)), later(bench.add(1, 50, start=True)), later(bench.add(1, 1))]
    assert await asyncio.gather(*queued) == [3, 50, 51]


async def test_idle_sequences_are_forgotten_and_make_room() -> None:
    bench = Bench(max_sequences=1, max_idle_s=10)
    await bench.add(1, 1, start=True)
    waiting = later(bench.add(2, 2, start=True))
    await settle()
    assert not waiting.done()
    bench.clock.advance(11)
    bench.queue.sweep()
    assert await waiting == 2
    with pytest.raises(InvalidRequest, match="idle for more than 10 s"):
        await bench.add(1, 1)


async def test_more_sequences_than_places_wait_by_priority_until_one_ends() -> None:
    bench = Bench(max_sequences=1)
    await bench.add(1, 1, start=True)
    late = later(bench.add(2, 2, start=True, end=True, priority=5))
    urgent = later(bench.add(3, 3, start=True, priority=1))
    await settle()
    assert not late.done()
    assert not urgent.done()
    await bench.add(1, 1, end=True)
    assert await urgent == 3
    await bench.add(3, 1, end=True)
    assert await late == 2


async def test_who_holds_fewer_places_begins_first() -> None:
    bench = Bench(max_sequences=2)
    for id in (1, 2):
        await bench.add(id, 1, start=True, key="greedy")
    more = [later(bench.add(id, 1, start=True, key="greedy")) for id in (3, 4)]
    await settle()
    modest = later(bench.add(5, 1, start=True, key="modest"))
    await settle()
    await bench.add(1, 1, end=True, key="greedy")
    assert await modest == 1
    assert not any(task.done() for task in more)
    await bench.add(2, 1, end=True, key="greedy")
    assert await more[0] == 1
    more[1].cancel()


async def test_the_line_is_bounded_and_waits_end_at_their_deadline() -> None:
    bench = Bench(max_sequences=1, limit=2)
    await bench.add(1, 1, start=True)
    waiting = [later(bench.add(id, 1, start=True, deadline_s=bench.clock() + 5)) for id in (2, 3)]
    await settle()
    with pytest.raises(QueueFull):
        await bench.add(4, 1, start=True)
    bench.clock.advance(6)
    bench.queue.sweep()
    for task in waiting:
        with pytest.raises(DeadlineExceeded):
            await task
    bench.queue.sweep()
    assert bench.queue.active == 1
    assert bench.queue.waiting == 0


async def test_what_an_instance_knew_dies_with_it() -> None:
    bench = Bench(count=2)
    await bench.add(1, 1, start=True)
    await bench.add(2, 2, start=True)
    home = next(instance for instance in bench.instances if 1 in instance.memory)
    home.die()
    with pytest.raises(InvalidRequest, match=r"instance that knew it died.*sequence_start"):
        await bench.add(1, 1)
    assert await bench.add(2, 1) == 3
    assert await bench.add(1, 5, start=True) == 5


async def test_a_batch_that_another_process_computed_is_no_answer() -> None:
    bench = Bench()
    instance = bench.instances[0]
    await bench.add(1, 1, start=True)
    instance.held = True
    lost = later(bench.add(1, 1))
    await settle()
    beginning = later(bench.add(2, 7, start=True))
    instance.die()
    instance.held = False
    instance.go.set()
    with pytest.raises(InvalidRequest, match="died"):
        await lost
    assert await beginning == 7
    instance.held = True
    instance.go.clear()
    again = later(bench.add(3, 4, start=True))
    await settle()
    instance.die()
    instance.go.set()
    assert await again == 4
    assert [batch[0]["CORRID"] for batch in instance.batches[-2:]] == [[3], [3]]


async def test_a_failure_of_the_next_process_is_no_failure_of_the_request() -> None:
    bench = Bench()
    instance = bench.instances[0]
    await bench.add(1, 1, start=True)
    instance.held = True
    lost = later(bench.add(1, 1))
    await settle()
    instance.die()
    instance.fail = InferenceFailed("the new process does not know it")
    instance.go.set()
    with pytest.raises(InvalidRequest, match="died"):
        await lost


async def test_new_sequences_avoid_an_instance_that_is_down() -> None:
    bench = Bench(count=2)
    bench.instances[0].state = "restarting"
    for id in range(1, 4):
        await bench.add(id, 1, start=True)
    assert set(bench.instances[1].memory) == {1, 2, 3}


async def test_states_are_kept_here_and_outlive_the_instance() -> None:
    bench = Bench(states=True)
    assert await bench.add("a", 1, start=True) == 1
    bench.instances[0].die()
    assert await bench.add("a", 2) == 3
    assert await bench.add("a", 5, start=True) == 5


async def test_with_states_a_bad_row_does_not_fail_its_neighbours() -> None:
    bench = Bench(states=True)
    instance = bench.instances[0]
    instance.held = True
    first = later(bench.add(1, 1, start=True))
    await settle()
    rest = [later(bench.add(id, id, start=True)) for id in (2, 3)]
    await settle()
    instance.fail, instance.fails_from = InferenceFailed("bad row"), 2
    instance.go.set()
    assert await first == 1
    assert await asyncio.gather(*rest) == [2, 3]
    assert [len(batch) for batch in instance.batches] == [1, 2, 1, 1]


async def test_a_failed_batch_ends_its_sequences_where_the_model_keeps_the_state() -> None:
    bench = Bench()
    instance = bench.instances[0]
    await bench.add(1, 1, start=True)
    await bench.add(2, 1, start=True)
    instance.fail = InferenceFailed("broken")
    answers = await asyncio.gather(bench.add(1, 1), bench.add(2, 1), return_exceptions=True)
    assert [type(answer) for answer in answers] == [InferenceFailed] * 2
    instance.fail = None
    with pytest.raises(InvalidRequest, match=r"batch that it was in failed \(broken\)"):
        await bench.add(1, 1)


async def test_one_failed_request_does_not_end_its_sequence() -> None:
    bench = Bench()
    await bench.add(1, 1, start=True)
    bench.instances[0].fail = InferenceFailed("broken")
    with pytest.raises(InferenceFailed):
        await bench.add(1, 1)
    bench.instances[0].fail = None
    assert await bench.add(1, 1) == 2


async def test_a_client_that_leaves_in_line_is_passed_over() -> None:
    bench = Bench()
    instance = bench.instances[0]
    instance.held = True
    first = later(bench.add(1, 1, start=True))
    await settle()
    gone, stays = later(bench.add(1, 100)), later(bench.add(1, 2))
    await settle()
    gone.cancel()
    instance.go.set()
    assert await asyncio.gather(first, stays) == [1, 3]
    assert bench.queue.waiting == 0


async def test_a_client_that_leaves_while_it_is_computed_ends_the_sequence_with_a_reason() -> None:
    bench = Bench()
    await bench.add(1, 1, start=True)
    bench.instances[0].held = True
    gone = later(bench.add(1, 1))
    await settle()
    gone.cancel()
    await settle()
    assert bench.instances[0].cancelled == 1
    with pytest.raises(InvalidRequest, match="cancelled while it was computed"):
        await bench.add(1, 1)


async def test_ids_that_the_model_cannot_take_are_refused() -> None:
    bench = Bench()
    with pytest.raises(InvalidRequest, match="takes numbers"):
        await bench.add("seven", 1, start=True)
    assert bench.queue.active == 0
    assert await bench.add(1, 1, start=True) == 1


async def test_closing_ends_every_wait() -> None:
    bench = Bench(max_sequences=1)
    bench.instances[0].held = True
    tasks = [later(bench.add(id, 1, start=True)) for id in (1, 2)]
    await settle()
    await bench.queue.close()
    for task in tasks:
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (bench.queue.active, bench.queue.waiting) == (0, 0)


async def test_hundreds_of_interleaved_sequences_never_mix() -> None:
    bench = Bench(count=3, max_sequences=20, limit=300)

    async def one(id: int) -> None:
        total = 0
        for index in range(6):
            total = id if index == 0 else total + id
            assert await bench.add(id, id, start=index == 0, end=index == 5) == total

    await asyncio.gather(*(one(id) for id in range(1, 301)))
    assert bench.queue.active == 0
    assert all(place is None for home in bench.queue._places for place in home.slots)


@pytest.mark.parametrize(
    ("sequences", "words"),
    [
        (Sequences(controls=SequenceControls(start="BEGIN")), "controls.start names 'BEGIN'"),
        (Sequences(states=(SequenceState("nowhere", "y"),)), "states names 'nowhere'"),
        (Sequences(states=(SequenceState("x", "y", shape=(2, 2)),)), "give `shape`"),
        (Sequences(states=(SequenceState("x", "y", initial=["a"]),)), "no float32 tensor"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_at_load(sequences: Sequences, words: str) -> None:
    with pytest.raises(InvalidManifest, match=words.replace(".", r"\.")):
        SequenceQueue(
            manifest("sum", signature=SIGNATURE),
            sequences,
            FakeInstances(1),  # type: ignore[arg-type]  # only `instances` is asked for
            SIGNATURE,
            NullTelemetry(),
            FakeClock(),
        )
