"""Equal requests are computed once: answers that are remembered, and computations in flight that others follow.

Knows keys and lists of results, not what is asked or computed. Used by one event loop.

A computation in flight has a log from which any number of readers read, each from its start. It goes on while one
reader is left, whoever came first, and is cancelled when the last one leaves.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, NamedTuple

import msgspec

from inference_engine.core.deadline import Deadline
from inference_engine.domain.errors import DeadlineExceeded, RequestCancelled
from inference_engine.domain.model import ModelRef
from inference_engine.domain.ports import Telemetry
from inference_engine.domain.requests import Reuse
from inference_engine.domain.results import CacheOutcome

Clock = Callable[[], float]
AHEAD = 256
"""How many results a computation may be ahead of its fastest reader."""
_OVERHEAD_BYTES = 512
_LARGEST_PART = 4  # of the whole memory: one answer must not push out all others
_REPLAYED_AT_ONCE = 64


class Key(NamedTuple):
    """What makes two requests equal: who asks, the exact model, and a digest of everything that is asked."""

    tenant: str
    ref: ModelRef
    digest: bytes


class Codec(NamedTuple):
    """How the results of one kind of request are kept. `pack` gives the form that is kept and its size in bytes."""

    pack: Callable[[list[Any]], tuple[Any, int]]
    unpack: Callable[[Any], list[Any]]


class CacheStats(msgspec.Struct, frozen=True):
    """What is kept and what it was good for. Counts are of requests since the start; `shared` followed another one."""

    enabled: bool
    entries: int
    bytes: int
    max_bytes: int
    ttl_s: float
    in_flight: int
    hits: int
    misses: int
    shared: int
    evictions: int


class _Kept(NamedTuple):
    packed: Any
    codec: Codec
    size: int
    until_s: float


class Memory:
    """Answers by key, at most `max_bytes` of them, each for `ttl_s`; the least recently used goes first."""

    def __init__(self, max_bytes: int, ttl_s: float, clock: Clock) -> None:
        self.max_bytes = max_bytes
        self.ttl_s = ttl_s
        self.bytes = 0
        self.evictions = 0
        self._clock = clock
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Key) -> list[Any] | None:
        """The results that were kept, in order; None when there are none or they are too old."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.until_s <= self._clock():
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return kept.codec.unpack(kept.packed)

    def put(self, key: Key, items: list[Any], codec: Codec) -> None:
        """Keep an answer, unless it alone would take too much of the memory."""
        if self.max_bytes <= 0:
            return
        packed, size = codec.pack(items)
        size += _OVERHEAD_BYTES
        if size > self.max_bytes // _LARGEST_PART:
            return
        self._drop(key)
        self._kept[key] = _Kept(packed, codec, size, self._clock() + self.ttl_s)
        self.bytes += size
        while self.bytes > self.max_bytes:
            self._drop(next(iter(self._kept)))
            self.evictions += 1

    def expire(self) -> None:
        """Forget what is too old."""
        now = self._clock()
        for key in [key for key, kept in self._kept.items() if kept.until_s <= now]:
            self._drop(key)

    def clear(self, ref: ModelRef | None = None) -> int:
        """Forget the answers of one model, or all; returns how many."""
        keys = [key for key in self._kept if ref is None or key.ref == ref]
        for key in keys:
            self._drop(key)
        return len(keys)

    def _drop(self, key: Key) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.bytes -= kept.size


class Flight:
    """One computation with a log that its readers follow. `ended` is called once, when nothing more is computed."""

    def __init__(self, source: AsyncGenerator[Any], ended: Callable[[Flight], None]) -> None:
        self.items: list[Any] = []
        self.over = False
        self.error: Exception | None = None
        self._source = source
        self._ended = ended
        self._readers = 0
        self._front = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._room: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def whole(self) -> bool:
        """True when it has ended as it should."""
        return self.over and self.error is None

    async def read(self, deadline_s: float | None, clock: Clock) -> AsyncGenerator[Any]:
        """All results from the first on. Raises what the computation raises, and `DeadlineExceeded`."""
        self._readers += 1
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._compute())
        position = 0
        deadline = Deadline(None if deadline_s is None else deadline_s - clock())
        try:
            while True:
                while position < len(self.items):
                    position += 1
                    self._advance(position)
                    yield self.items[position - 1]
                if self.over:
                    break
                await self._more(deadline)
            if self.error is not None:
                raise self.error
        finally:
            deadline.close()
            await self._leave()

    def _advance(self, position: int) -> None:
        if position > self._front:
            self._front = position
            if self._room is not None and not self._room.done():
                self._room.set_result(None)

    async def _more(self, deadline: Deadline) -> None:
        """Wait until there is another result, or the end."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await deadline.wait(turn)
        except TimeoutError:
            raise DeadlineExceeded("the answer was not finished within the deadline of this request") from None

    async def _leave(self) -> None:
        self._readers -= 1
        if self._readers or self._task is None or self.over:
            return
        self._end(RequestCancelled("nobody waits for this answer any more"))  # from now on nobody may join
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _compute(self) -> None:
        try:
            async with aclosing(self._source):
                async for item in self._source:
                    self.items.append(item)
                    self._wake()
                    while len(self.items) - self._front >= AHEAD:
                        self._room = asyncio.get_running_loop().create_future()
                        await self._room
            self._end(None)
        except Exception as error:  # handed to the readers, which raise it
            self._end(error)
        finally:  # only for a computation that was cancelled from below
            self._end(RequestCancelled("the model was stopped while it computed this answer: ask again"))

    def _end(self, error: Exception | None) -> None:
        if not self.over:
            self.over, self.error = True, error
            self._ended(self)
            self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for turn in waiting:
            if not turn.done():
                turn.set_result(None)


class Plan(NamedTuple):
    """How one request will be answered. `items` is what was kept, for a hit."""

    key: Key
    outcome: CacheOutcome
    fresh: bool
    items: list[Any] | None = None


class ReuseService:
    """Decides which answers are computed, which are shared and which are remembered."""

    def __init__(
        self, telemetry: Telemetry, clock: Clock, *, enabled: bool = True, max_bytes: int = 0, ttl_s: float = 300.0
    ) -> None:
        self.enabled = enabled
        self._telemetry = telemetry
        self._clock = clock
        self._memory = Memory(max_bytes, ttl_s, clock)
        self._flights: dict[Key, Flight] = {}
        self._counts: dict[CacheOutcome, int] = {"hit": 0, "miss": 0, "shared": 0}

    def plan(self, key: Key, reuse: Reuse) -> Plan:
        """What is known of an equal request now. Between this and `follow` another may come first; then they share."""
        if reuse == "refresh":
            return Plan(key, "miss", fresh=True)
        items = self._memory.get(key)
        if items is not None:
            return Plan(key, "hit", fresh=False, items=items)
        return Plan(key, "shared" if key in self._flights else "miss", fresh=False)

    async def follow(
        self, plan: Plan, compute: Callable[[], AsyncGenerator[Any]], codec: Codec, deadline_s: float | None
    ) -> AsyncGenerator[Any]:
        """The results of a plan: those that were kept, those of a computation in flight, or of one that begins now.

        `compute` gives the computation, which must not have a deadline of its own caller's: others may follow it.
        """
        if plan.items is not None:
            self._count(plan.key, "hit")
            for index, item in enumerate(plan.items, start=1):
                yield item
                if index % _REPLAYED_AT_ONCE == 0:
                    await asyncio.sleep(0)
            return
        async with aclosing(self._flight(plan, compute, codec).read(deadline_s, self._clock)) as items:
            async for item in items:
                yield item

    def _flight(self, plan: Plan, compute: Callable[[], AsyncGenerator[Any]], codec: Codec) -> Flight:
        known = self._flights.get(plan.key)
        if known is not None and not plan.fresh:
            self._count(plan.key, "shared")
            return known
        self._count(plan.key, "miss")

        def ended(flight: Flight) -> None:
            if self._flights.get(plan.key) is flight:
                del self._flights[plan.key]
            if flight.whole:
                self._memory.put(plan.key, flight.items, codec)

        flight = Flight(compute(), ended)
        self._flights.setdefault(plan.key, flight)
        return flight

    def _count(self, key: Key, outcome: CacheOutcome) -> None:
        self._counts[outcome] += 1
        self._telemetry.reused(key.ref, outcome)

    def clear(self, ref: ModelRef | None = None) -> int:
        """Forget what was kept of one model, or everything; returns how many answers. What is in flight goes on."""
        return self._memory.clear(ref)

    def stats(self) -> CacheStats:
        self._memory.expire()
        memory, counts = self._memory, self._counts
        return CacheStats(
            enabled=self.enabled,
            entries=len(memory),
            bytes=memory.bytes,
            max_bytes=memory.max_bytes,
            ttl_s=memory.ttl_s,
            in_flight=len(self._flights),
            hits=counts["hit"],
            misses=counts["miss"],
            shared=counts["shared"],
            evictions=memory.evictions,
        )
