"""A moment until which something is waited for, again and again, with one timer; and a task to wait in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

Result = TypeVar("Result")


async def have_task() -> asyncio.Task[object]:
    """The current task. The server begins some requests without one, which they then get here."""
    task = asyncio.current_task()
    if task is None:
        await asyncio.sleep(0)
        task = asyncio.current_task()
    if task is None:
        raise RuntimeError("this can only be waited for inside a task")
    return task


class Deadline:
    """Ends a wait when `seconds` from now have passed; None waits for ever.

    Does what `asyncio.timeout` around each wait would do. That makes and drops a timer each time, which is much of the
    work for one token. One task at a time may wait; who made it closes it.
    """

    __slots__ = ("_cancelled", "_passed", "_timer", "_waiting")

    def __init__(self, seconds: float | None) -> None:
        self._passed = False
        self._cancelled = False
        self._waiting: asyncio.Task[object] | None = None
        self._timer = None if seconds is None else asyncio.get_running_loop().call_later(max(0.0, seconds), self._pass)

    def close(self) -> None:
        """Drop the timer; from now on nothing is ended."""
        if self._timer is not None:
            self._timer.cancel()

    def _pass(self) -> None:
        self._passed = True
        if self._waiting is not None and not self._cancelled:
            self._cancelled = True
            self._waiting.cancel()

    async def wait(self, wanted: Awaitable[Result]) -> Result:
        """What `wanted` gives; it is cancelled when the moment comes, or has come.

        Raises:
            TimeoutError: the moment has come. What `wanted` raises.
        """
        if self._timer is None:
            return await wanted
        task = asyncio.current_task() or await have_task()
        self._waiting = task
        cancelled_before = task.cancelling()
        if self._passed:
            asyncio.get_running_loop().call_soon(self._pass)  # what is there already is still given
        try:
            return await wanted
        except asyncio.CancelledError:
            if self._cancelled and task.cancelling() <= cancelled_before + 1:
                raise TimeoutError from None
            raise
        finally:
            self._waiting = None
            if self._cancelled:
                self._cancelled = False
                task.uncancel()
