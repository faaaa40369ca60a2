"""Measures one level of load after the other, each until its windows agree. Knows no protocol and no model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from inference_engine.adapters.cli.bench.figures import AGREEING, Level, Snapshot, Window, level_of, settled, together
from inference_engine.adapters.cli.bench.recorder import Recorder
from inference_engine.domain.errors import DeadlineExceeded

_LONGEST = 4  # a window with few answers may last so many times its length
_LEAST_ANSWERS = 10
_WARM_UP_LIMIT_S = 30.0


class Load(Protocol):
    """Keeps a model busy. `streams` says that it records streams."""

    streams: bool

    def running(self, concurrency: int, recorder: Recorder) -> AbstractAsyncContextManager[None]: ...


class Plan(msgspec.Struct, frozen=True):
    """How long is measured. Times are seconds; `tolerance` is how far windows may lie from their mean."""

    window_s: float = 1.0
    most_windows: int = 10
    tolerance: float = 0.1
    warm_up_s: float = 0.5

    def longest_s(self) -> float:
        """A level without slow answers lasts at most this long."""
        return self.warm_up_s + self.window_s * self.most_windows


class Step(msgspec.Struct, frozen=True):
    """One level that is to be measured."""

    concurrency: int
    rows: int


class Watcher(Protocol):
    """Is told how a sweep goes on."""

    def window(self, step: Step, windows: Sequence[Window]) -> None: ...

    def level(self, level: Level) -> None: ...


async def sweep(
    steps: Sequence[Step],
    load_of: Callable[[Step], Load],
    snapshot: Callable[[], Awaitable[Snapshot]],
    plan: Plan,
    max_time_s: float,
    watcher: Watcher,
    found: list[Level],
    messages: dict[str, str],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Measure `steps` in their order; what is done when this is cancelled stands in `found`.

    The time is shared out: every level may use an equal part of what is left. `messages` gets the first message of each
    kind of error.

    Raises:
        EngineError: the same would fail again: a request that is refused, a server that is gone.
    """
    end = clock() + max_time_s
    for index, step in enumerate(steps):
        left = end - clock()
        if left < plan.warm_up_s + plan.window_s and index:
            return
        until = clock() + left / (len(steps) - index)
        level = await measure(step, load_of(step), snapshot, plan, until, watcher, messages, clock)
        found.append(level)
        watcher.level(level)


async def measure(
    step: Step,
    load: Load,
    snapshot: Callable[[], Awaitable[Snapshot]],
    plan: Plan,
    until: float,
    watcher: Watcher,
    messages: dict[str, str],
    clock: Callable[[], float] = time.monotonic,
) -> Level:
    """Warm up, then measure windows until three agree, or the plan or the time is used up."""
    recorder = Recorder()
    windows: list[Window] = []
    try:
        async with load.running(step.concurrency, recorder):
            await _warm_up(step, recorder, plan, until, clock)
            snapshots = [await snapshot()]
            recorder.take()
            while not windows or not _done(windows, plan, clock() >= until):
                await _window(step, recorder, plan, until, clock)
                windows.append(recorder.take())
                snapshots.append(await snapshot())
                watcher.window(step, windows)
    finally:
        for code, message in recorder.messages.items():
            messages.setdefault(code, message)
    stable = settled(windows, plan.tolerance)
    kept = windows[-AGREEING:] if stable else windows
    return level_of(
        step.concurrency,
        step.rows,
        together(kept),
        snapshots[-1 - len(kept)],
        snapshots[-1],
        stable=stable,
        streams=load.streams,
    )


def _done(windows: Sequence[Window], plan: Plan, late: bool) -> bool:
    return late or len(windows) >= plan.most_windows or settled(windows, plan.tolerance)


async def _warm_up(step: Step, recorder: Recorder, plan: Plan, until: float, clock: Callable[[], float]) -> None:
    """Until every worker has had its first answer."""
    await _pause(recorder, plan.warm_up_s)
    give_up = min(until, clock() + _WARM_UP_LIMIT_S)
    while recorder.ended < step.concurrency and clock() < give_up:
        await _pause(recorder, min(0.05, plan.window_s))


async def _window(step: Step, recorder: Recorder, plan: Plan, until: float, clock: Callable[[], float]) -> None:
    """One window; a longer one while there are few answers."""
    longest = min(until, clock() + plan.window_s * _LONGEST)
    await _pause(recorder, plan.window_s)
    while recorder.events < max(_LEAST_ANSWERS, step.concurrency) and clock() < longest:
        await _pause(recorder, plan.window_s / 4)


async def _pause(recorder: Recorder, seconds: float) -> None:
    """Raises the error that makes going on useless, as soon as it comes."""
    try:
        await asyncio.wait_for(recorder.broken.wait(), seconds)
    except TimeoutError:
        return
    raise recorder.fatal or DeadlineExceeded("the load was given up")
