"""The waiting line of generations in front of a model: who gets the next slot. Knows tenants, not what is generated.

The lowest priority number goes first. Among equals the tenant goes first that has the fewest generations running, then
the one that has used the slots for less time; its own requests go in order of arrival. So whoever has hundreds of
requests waiting shares the slots with one who has a single one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import count

from inference_engine.core.deadline import have_task
from inference_engine.domain.errors import DeadlineExceeded, QueueFull
from inference_engine.domain.model import Manifest

_Turn = asyncio.Future[None]


class _Tenant:
    """One tenant's requests, waiting and running; forgotten when it has none. `used_s` is in seconds of one slot."""

    __slots__ = ("lines", "running", "served", "used_s", "waiting")

    def __init__(self, used_s: float) -> None:
        self.lines: dict[int, deque[_Turn]] = {}
        self.running = 0
        self.served = 0
        self.used_s = used_s
        self.waiting = 0

    def add(self, priority: int, turn: _Turn) -> None:
        self.lines.setdefault(priority, deque()).append(turn)
        self.waiting += 1

    def remove(self, priority: int, turn: _Turn) -> bool:
        """Take a turn out of its line; False when it is in none."""
        line = self.lines.get(priority)
        if line is None or turn not in line:
            return False
        line.remove(turn)
        self._taken(priority, line)
        return True

    def first(self) -> _Turn:
        """Take the most urgent turn."""
        priority = min(self.lines)
        line = self.lines[priority]
        turn = line.popleft()
        self._taken(priority, line)
        return turn

    def last(self) -> _Turn:
        """Take the newest of the least urgent turns."""
        priority = max(self.lines)
        line = self.lines[priority]
        turn = line.pop()
        self._taken(priority, line)
        return turn

    def _taken(self, priority: int, line: deque[_Turn]) -> None:
        self.waiting -= 1
        if not line:
            del self.lines[priority]


class SlotQueue:
    """Lets at most `slots` generations run together; the rest wait, at most `queue_limit` of them."""

    def __init__(self, manifest: Manifest, slots: int, clock: Callable[[], float]) -> None:
        self._ref = manifest.ref
        self._free = slots
        self._limit = manifest.execution.queue_limit
        self._clock = clock
        self._tenants: dict[str, _Tenant] = {}
        self._order = count(1)
        self._counted_s = clock()
        self.waiting = 0

    async def acquire(self, deadline_s: float, priority: int = 0, tenant: str = "") -> None:
        """Take a slot; give it back with `release`. `deadline_s` is a reading of the clock.

        Raises:
            QueueFull: too many wait already. DeadlineExceeded: no slot became free in time.
        """
        asking = self._tenant(tenant)
        if self._free > 0 and not self.waiting:
            self._free -= 1
            self._begin(asking)
            return
        if self.waiting >= self._limit:
            self._make_room(tenant, asking)
        turn: _Turn = asyncio.get_running_loop().create_future()
        asking.add(priority, turn)
        self.waiting += 1
        try:
            await have_task()
            async with asyncio.timeout(max(0.0, deadline_s - self._clock())):
                await turn
        except TimeoutError:
            self._leave(tenant, priority, turn)
            raise DeadlineExceeded(f"no free slot of {self._ref} within the deadline of this request") from None
        except asyncio.CancelledError:
            self._leave(tenant, priority, turn)
            raise

    def release(self, tenant: str = "") -> None:
        """Hand the slot to the next in line, or free it."""
        self._count_use()
        self._tenants[tenant].running -= 1
        self._free += 1
        self._hand_on()
        self._forget(tenant)

    def _hand_on(self) -> None:
        while self._free > 0 and self.waiting:
            urgent = min(min(tenant.lines) for tenant in self._tenants.values() if tenant.lines)
            candidates = [tenant for tenant in self._tenants.values() if urgent in tenant.lines]
            chosen = min(candidates, key=lambda tenant: (tenant.running, tenant.used_s, tenant.served))
            turn = chosen.first()
            self.waiting -= 1
            if not turn.done():
                self._free -= 1
                self._begin(chosen)
                turn.set_result(None)

    def _begin(self, tenant: _Tenant) -> None:
        self._count_use()
        tenant.running += 1
        tenant.served = next(self._order)

    def _leave(self, name: str, priority: int, turn: _Turn) -> None:
        """Give up the place in line, or the slot that was just handed over."""
        tenant = self._tenants.get(name)
        if tenant is not None and tenant.remove(priority, turn):
            self.waiting -= 1
        elif turn.done() and not turn.cancelled() and turn.exception() is None:
            self.release(name)
        self._forget(name)

    def _make_room(self, name: str, asking: _Tenant) -> None:
        """The line is full: whoever has most of it gives a place to one who has clearly less."""
        longest_name, longest = max(self._tenants.items(), key=lambda item: item[1].waiting)
        full = QueueFull(
            f"{self._limit} requests are waiting for {self._ref}: try again later, or raise execution.queue_limit"
        )
        if longest.waiting <= asking.waiting + 1:
            self._forget(name)
            raise full
        turn = longest.last()
        self.waiting -= 1
        if not turn.done():
            turn.set_exception(full)
        self._forget(longest_name)

    # -- what each tenant has used --------------------------------------------------------------------------------

    def _tenant(self, name: str) -> _Tenant:
        """A newcomer starts level with the one who has used least, so that nobody saves up by staying away."""
        tenant = self._tenants.get(name)
        if tenant is None:
            self._count_use()
            used_s = min((other.used_s for other in self._tenants.values()), default=0.0)
            tenant = self._tenants[name] = _Tenant(used_s)
        return tenant

    def _count_use(self) -> None:
        now = self._clock()
        passed_s, self._counted_s = now - self._counted_s, now
        for tenant in self._tenants.values():
            tenant.used_s += passed_s * tenant.running

    def _forget(self, name: str) -> None:
        tenant = self._tenants.get(name)
        if tenant is not None and not tenant.running and not tenant.waiting:
            del self._tenants[name]
