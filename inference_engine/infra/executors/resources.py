"""Named resources that instances of different models share: who may compute now, and who waits. Knows no model.

A grant goes to whoever is furthest behind its share: a model of priority 1 gets twice as many turns as one of priority
2. One that waited for more than is free is not overtaken by others that want the same resource, so that none starves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import aclosing
from itertools import count
from typing import Any

import msgspec

from inference_engine.domain.errors import InvalidManifest
from inference_engine.domain.model import Manifest, ModelRef
from inference_engine.domain.ports import BatchResult, ExecutorState, ExecutorStatus, Loaded
from inference_engine.domain.requests import Generate
from inference_engine.domain.results import Delta
from inference_engine.domain.tensors import Tensors
from inference_engine.infra.executors.instances import Instance

_LOOK_S = 0.01


class Claim(msgspec.Struct, frozen=True):
    """What an instance of `owner` needs for as long as it computes, by the resource's name in the pool."""

    owner: ModelRef
    needs: Mapping[str, int]
    priority: int


class _Waiting(msgspec.Struct, eq=False):
    claim: Claim
    turn: asyncio.Future[None]
    arrived: int


class ResourcePool:
    """What there is of each resource on this server, and what is free now. Used by one event loop.

    A name may end in `@DEVICE` (`memory@cuda:0`): that amount is for the instances on the device, the plain one for all
    others.
    """

    def __init__(self, amounts: Sequence[str] = ()) -> None:
        """`amounts` are texts such as `memory=4`, as in the setting `resources`."""
        self._total = {name: int(amount) for name, _, amount in (text.rpartition("=") for text in amounts)}
        self._free = dict(self._total)
        self._line: list[_Waiting] = []
        self._passes: dict[ModelRef, int] = {}
        self._pass = 0
        self._arrivals = count()

    @property
    def free(self) -> Mapping[str, int]:
        return self._free

    @property
    def waiting(self) -> int:
        return len(self._line)

    def claim(self, manifest: Manifest, device: str) -> Claim:
        """What an instance of that model needs on `device`.

        Raises:
            InvalidManifest: there is not so much on this server.
        """
        needs: dict[str, int] = {}
        for name, amount in manifest.execution.resources.items():
            own = f"{name}@{device}"
            pool = own if own in self._total else name
            there = self._total.get(pool, 0)
            if amount > there:
                raise InvalidManifest(
                    f"{manifest.ref}: execution.resources.{name} is {amount}, and this server has {there}: raise the "
                    f"setting resources ({pool}={amount}), or need less",
                    param=f"execution.resources.{name}",
                )
            needs[pool] = amount
        return Claim(manifest.ref, needs, manifest.execution.resource_priority)

    async def take(self, claim: Claim) -> None:
        """Wait until all that `claim` needs is free, and take it: whoever returns from here calls `give_back`."""
        waiting = _Waiting(claim, asyncio.get_running_loop().create_future(), next(self._arrivals))
        # nothing is saved up while away
        self._passes[claim.owner] = max(self._passes.get(claim.owner, 0), self._pass)
        self._line.append(waiting)
        self._grant()
        try:
            await waiting.turn
        except asyncio.CancelledError:
            if waiting in self._line:
                self._line.remove(waiting)
                self._grant()  # others may have stood behind it
            else:
                self.give_back(claim)
            raise

    def give_back(self, claim: Claim) -> None:
        for name, amount in claim.needs.items():
            self._free[name] += amount
        self._grant()

    def _grant(self) -> None:
        """Serve the line in its order; whoever has to wait keeps what it needs from those behind it."""
        granted = True
        while granted and self._line:
            granted = False
            kept: set[str] = set()
            for waiting in sorted(self._line, key=self._order):
                needs = waiting.claim.needs
                if kept.isdisjoint(needs) and all(self._free[name] >= amount for name, amount in needs.items()):
                    self._serve(waiting)
                    granted = True
                    break
                kept.update(needs)

    def _order(self, waiting: _Waiting) -> tuple[int, int, int]:
        claim = waiting.claim
        return self._passes[claim.owner] + claim.priority, claim.priority, waiting.arrived

    def _serve(self, waiting: _Waiting) -> None:
        claim = waiting.claim
        self._line.remove(waiting)
        for name, amount in claim.needs.items():
            self._free[name] -= amount
        self._pass = max(self._pass, self._passes[claim.owner])
        self._passes[claim.owner] += claim.priority
        waiting.turn.set_result(None)

    def forget(self, owner: ModelRef) -> None:
        """The model has been unloaded."""
        if not any(waiting.claim.owner == owner for waiting in self._line):
            self._passes.pop(owner, None)


class LimitedInstance:
    """An instance that takes its claim before it computes, and gives it back afterwards, however that ends."""

    batches_in_flight = 1

    def __init__(self, instance: Instance, pool: ResourcePool, claim: Claim) -> None:
        self._instance = instance
        self._pool = pool
        self._claim = claim
        self._ending: set[asyncio.Task[None]] = set()

    async def start(self) -> Loaded:
        return await self._instance.start()

    def run(self, parts: Sequence[Tensors], rows: Sequence[int]) -> Awaitable[BatchResult]:
        return self._run(parts, rows)

    async def _run(self, parts: Sequence[Tensors], rows: Sequence[int]) -> BatchResult:
        await self._pool.take(self._claim)
        try:
            return await self._instance.run(parts, rows)
        finally:
            self._give_back()

    async def run_stream(self, inputs: Tensors) -> AsyncGenerator[dict[str, Any]]:
        await self._pool.take(self._claim)
        try:
            async with aclosing(self._instance.run_stream(inputs)) as responses:
                async for outputs in responses:
                    yield outputs
        finally:
            self._give_back()

    async def generate(self, request: Generate) -> AsyncGenerator[Delta]:
        await self._pool.take(self._claim)
        try:
            async with aclosing(self._instance.generate(request)) as deltas:
                async for delta in deltas:
                    yield delta
        finally:
            self._give_back()

    def _give_back(self) -> None:
        """What was cancelled may still be computed for a while, and counts until it has ended."""
        if not self._instance.winding_down:
            self._pool.give_back(self._claim)
            return
        ending = asyncio.get_running_loop().create_task(self._give_back_later())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _give_back_later(self) -> None:
        """Ends at the latest when the instance is stopped or its process killed."""
        try:
            while self._instance.winding_down:  # noqa: ASYNC110 - a flag that is kept for free on the hot path
                await asyncio.sleep(_LOOK_S)
        finally:
            self._pool.give_back(self._claim)

    async def tokenize(self, request: Generate) -> tuple[int, ...]:
        return await self._instance.tokenize(request)

    async def stop(self, grace_s: float) -> None:
        await self._instance.stop(grace_s)
        await asyncio.gather(*self._ending)
        self._pool.forget(self._claim.owner)

    @property
    def state(self) -> ExecutorState:
        return self._instance.state

    @property
    def restarts(self) -> int:
        return self._instance.restarts

    @property
    def winding_down(self) -> bool:
        return self._instance.winding_down

    def status(self) -> ExecutorStatus:
        return self._instance.status()
