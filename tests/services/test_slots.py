"""The line for slots: order, fairness between tenants, bounds, and that no slot is ever lost."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_engine.domain.errors import DeadlineExceeded, QueueFull
from inference_engine.domain.model import Execution, Manifest
from inference_engine.services.slots import SlotQueue
from inference_engine.testing import FakeClock

NOW = 1000.0
LATER, FAR = NOW + 60, NOW + 100_000


async def turns(count: int = 5) -> None:
    """Let everything that can run do so."""
    for _ in range(count):
        await asyncio.sleep(0)


def slots(count: int, limit: int = 8, clock: FakeClock | None = None) -> SlotQueue:
    manifest = Manifest("m", "1", "fake", "f", execution=Execution(queue_limit=limit))
    return SlotQueue(manifest, count, clock or FakeClock(NOW))


async def test_slots_are_handed_on_in_order() -> None:
    queue = slots(1)
    order: list[int] = []

    async def use(number: int, priority: int) -> None:
        await queue.acquire(LATER, priority)
        order.append(number)

    await queue.acquire(LATER)
    tasks = [asyncio.create_task(use(*each)) for each in [(1, 0), (2, 0), (3, -1)]]
    await turns()
    assert queue.waiting == 3
    for _ in range(3):
        queue.release()
        await turns()
    await asyncio.gather(*tasks)
    assert order == [3, 1, 2]


async def test_a_slot_handed_to_one_who_has_just_left_is_not_lost() -> None:
    queue = slots(1)
    await queue.acquire(LATER)
    leaver = asyncio.create_task(queue.acquire(LATER))
    await turns()
    queue.release()
    leaver.cancel()
    await turns()
    async with asyncio.timeout(1):
        await queue.acquire(LATER)


async def test_waiting_for_a_slot_has_an_end() -> None:
    queue = slots(1)
    await queue.acquire(LATER)
    with pytest.raises(DeadlineExceeded):
        await queue.acquire(NOW + 0.01)
    assert queue.waiting == 0
    queue.release()
    await queue.acquire(LATER)


async def test_the_line_for_slots_is_bounded() -> None:
    queue = slots(1, limit=1)
    await queue.acquire(LATER)
    waiting = asyncio.create_task(queue.acquire(LATER))
    await turns()
    with pytest.raises(QueueFull):
        await queue.acquire(LATER)
    queue.release()
    await waiting


# -- between tenants -----------------------------------------------------------------------------------------------


class Line:
    """Requests of several tenants; `order` tells who got a slot, in order, and how long each used it."""

    def __init__(self, queue: SlotQueue, clock: FakeClock) -> None:
        self.queue = queue
        self.clock = clock
        self.order: list[str] = []
        self.running: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    def ask(self, tenant: str, count: int = 1, priority: int = 0) -> None:
        self.tasks += [asyncio.create_task(self._ask(tenant, priority)) for _ in range(count)]

    async def _ask(self, tenant: str, priority: int) -> None:
        await self.queue.acquire(FAR, priority, tenant)
        self.order.append(tenant)
        self.running.append(tenant)

    async def finish(self, count: int = 1, seconds: dict[str, float] | None = None) -> None:
        """Let so many generations end, the oldest first, each after its tenant's `seconds`."""
        await turns()
        for _ in range(count):
            tenant = self.running.pop(0)
            self.clock.advance((seconds or {}).get(tenant, 0.0))
            self.queue.release(tenant)
            await turns()

    async def leave(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def line(count: int, limit: int = 2000) -> Line:
    clock = FakeClock(NOW)
    return Line(slots(count, limit, clock), clock)


async def test_five_hundred_of_one_do_not_hold_up_another() -> None:
    made = line(4)
    made.ask("busy", 500)
    await turns()
    made.ask("rare")
    await made.finish()
    assert made.order == ["busy"] * 4 + ["rare"]
    await made.leave()


async def test_slots_are_shared_evenly() -> None:
    made = line(4)
    made.ask("a", 100)
    await turns()
    made.ask("b", 100)
    made.ask("c", 3)
    await made.finish(30)
    counts = {tenant: made.order[4:].count(tenant) for tenant in "abc"}
    assert counts["c"] == 3
    assert abs(counts["a"] - counts["b"]) <= 4
    await made.leave()


async def test_what_counts_is_the_time_that_slots_are_used() -> None:
    made = line(1)
    made.ask("long", 100)
    made.ask("short", 100)
    await made.finish(55, {"long": 10.0, "short": 1.0})
    served = {tenant: made.order.count(tenant) for tenant in ("long", "short")}
    assert 8 <= served["short"] / served["long"] <= 12
    await made.leave()


async def test_one_who_was_away_has_saved_nothing_up() -> None:
    made = line(1)
    made.ask("steady", 50)
    await made.finish(10, {"steady": 10.0})
    made.ask("back", 20)
    await made.finish(20, {"steady": 1.0, "back": 1.0})
    assert 8 <= made.order[-20:].count("back") <= 12
    await made.leave()


async def test_priority_comes_before_fairness() -> None:
    made = line(1)
    made.ask("a", 1)
    await turns()
    made.ask("b", 2, priority=5)
    made.ask("a", 2, priority=1)
    await made.finish(4)
    assert made.order == ["a", "a", "a", "b", "b"]
    await made.leave()


async def test_a_full_line_still_has_room_for_another_tenant() -> None:
    made = line(1, limit=4)
    made.ask("busy", 3)
    made.ask("busy", 2, priority=7)
    await turns()
    made.ask("rare")
    await turns()
    refused = [task for task in made.tasks if task.done() and task.exception()]
    assert [type(task.exception()) for task in refused] == [QueueFull]
    assert refused == [made.tasks[4]], "the newest of the least urgent"
    made.ask("rare", 2)
    await turns()
    assert [type(task.exception()) for task in made.tasks if task.done() and task.exception()] == [QueueFull] * 3
    assert made.queue.waiting == 4
    await made.finish(2)
    assert made.order[:2] == ["busy", "rare"]
    await made.leave()


STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "ask", "finish", "leave", "pass", "late"]), st.integers(0, 3)), max_size=40
)


@given(STEPS, st.integers(1, 3))
def test_no_slot_is_ever_lost(steps: list[tuple[str, int]], count: int) -> None:
    asyncio.run(_scenario(steps, count))


async def _scenario(steps: list[tuple[str, int]], count: int) -> None:
    made = line(count, limit=5)
    for step, number in steps:
        if step == "ask":
            made.ask("abcd"[number], priority=number % 2)
        elif step == "finish" and made.running:
            await made.finish()
        elif step == "leave" and made.tasks:
            made.tasks[number % len(made.tasks)].cancel()
        elif step == "late" and made.running:
            tenant = made.running.pop(0)
            made.queue.release(tenant)
            waiting = [task for task in made.tasks if not task.done()]
            if waiting:
                waiting[number % len(waiting)].cancel()
        else:
            await turns()
        assert len(made.running) <= count
    await turns()
    while made.running:
        await made.finish()
    assert made.queue.waiting == 0
    assert all(task.done() for task in made.tasks)
    for _ in range(count):
        async with asyncio.timeout(1):
            await made.queue.acquire(LATER)
    extra = asyncio.create_task(made.queue.acquire(LATER))
    await turns()
    assert not extra.done(), "there are more slots than at the start"
    extra.cancel()
    await asyncio.gather(extra, *made.tasks, return_exceptions=True)
