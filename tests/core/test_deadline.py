"""One timer for many waits: it does what `asyncio.timeout` around each of them would do."""

from __future__ import annotations

import asyncio
from contextlib import closing

import pytest

from inference_engine.core.deadline import Deadline


async def _later(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "here"


async def _at_once() -> str:
    return "here"


def test_waits_until_the_moment_and_not_longer() -> None:
    async def main() -> None:
        with closing(Deadline(0.05)) as deadline:
            assert await deadline.wait(_later(0)) == "here"
            with pytest.raises(TimeoutError):
                await deadline.wait(_later(30))
            with pytest.raises(TimeoutError):
                await deadline.wait(_later(30))
            assert await deadline.wait(_at_once()) == "here"
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    asyncio.run(main())


def test_a_task_that_is_cancelled_from_outside_stays_cancelled() -> None:
    async def main() -> None:
        with closing(Deadline(30)) as deadline:
            task = asyncio.create_task(deadline.wait(_later(30)))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())


def test_what_fails_while_it_is_ended_is_raised_and_leaves_the_task_uncancelled() -> None:
    async def fails() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            raise ValueError("ended") from None

    async def main() -> None:
        with closing(Deadline(0)) as deadline:
            with pytest.raises(ValueError, match="ended"):
                await deadline.wait(fails())
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0

    asyncio.run(main())


def test_without_a_moment_or_after_closing_nothing_is_ended() -> None:
    async def main() -> None:
        assert await Deadline(None).wait(_later(0.01)) == "here"
        deadline = Deadline(0.01)
        deadline.close()
        assert await deadline.wait(_later(0.03)) == "here"

    asyncio.run(main())
