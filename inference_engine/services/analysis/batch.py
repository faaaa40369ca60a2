"""Several pieces of work, a few at a time, each with its own outcome. Knows nothing of what they do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from typing import Any

Work = Callable[[], Awaitable[Any]]
Outcome = tuple[int, Any]
"""The place of a piece of work, and what it gave or the `Exception` it raised."""


async def finished(
    works: Sequence[Work], concurrency: int, left_s: Callable[[], float | None]
) -> AsyncGenerator[Outcome]:
    """Outcomes as they come; one that fails fails only itself. Closing it cancels what has not finished.

    `left_s` gives the seconds that are left for all; what has not finished when none are raises `TimeoutError`.
    """
    waiting = iter(enumerate(works))
    arrived: asyncio.Queue[Outcome] = asyncio.Queue(concurrency)
    workers = [asyncio.create_task(_worker(waiting, arrived, left_s)) for _ in range(min(concurrency, len(works)))]
    try:
        for _ in works:
            yield await arrived.get()
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _worker(
    waiting: Iterator[tuple[int, Work]], arrived: asyncio.Queue[Outcome], left_s: Callable[[], float | None]
) -> None:
    for place, work in waiting:
        try:
            async with asyncio.timeout(left_s()):
                outcome = await work()
        except Exception as error:  # it is this piece's outcome, and told as that
            outcome = error
        await arrived.put((place, outcome))
