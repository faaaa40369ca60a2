"""Several streams of deltas as one. Knows deltas and their choice index, nothing of where they come from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from inference_engine.domain.results import Delta

_WAITING_DELTAS = 256


async def interleaved(parts: Sequence[AsyncGenerator[Delta]], stride: int = 1) -> AsyncGenerator[Delta]:
    """Deltas of several generations as they come; the choices of part i are moved to `i * stride` and on.

    Closing it closes all of them. The first error ends them all.
    """
    arrived: asyncio.Queue[Delta | Exception | None] = asyncio.Queue(_WAITING_DELTAS)
    tasks = [asyncio.create_task(_forward(part, arrived, i * stride)) for i, part in enumerate(parts)]
    try:
        running = len(tasks)
        while running:
            item = await arrived.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for part in parts:  # one whose task never began is still open
            await part.aclose()


async def _forward(part: AsyncGenerator[Delta], arrived: asyncio.Queue[Delta | Exception | None], first: int) -> None:
    try:
        async with aclosing(part):
            async for delta in part:
                await arrived.put(msgspec.structs.replace(delta, index=delta.index + first) if first else delta)
        await arrived.put(None)
    except Exception as error:  # handed to the one reader, which raises it
        await arrived.put(error)
