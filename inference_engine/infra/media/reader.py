"""`VideoReader` for the event loop: decoder processes, a bounded number at once, read by threads of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from inference_engine.domain.errors import InvalidRequest, QueueFull
from inference_engine.domain.video import FrameSize, VideoFrame, VideoInfo, VideoLimits, VideoSampling, check_sampling
from inference_engine.infra.media.containers import VideoRefused

if TYPE_CHECKING:
    from inference_engine.infra.media.decoder import Decoder

Result = TypeVar("Result")
InThread = Callable[[Callable[[], Any]], Awaitable[Any]]
_WAITING_EACH = 8


class ProcessVideoReader:
    """At most `concurrency` videos are decoded at once, and eight times as many wait; then `QueueFull`."""

    def __init__(self, limits: VideoLimits, concurrency: int) -> None:
        self.limits = limits
        self._concurrency = concurrency
        self._waiting = 0
        self._slots = asyncio.Semaphore(concurrency)
        self._threads: ThreadPoolExecutor | None = None

    @asynccontextmanager
    async def open(
        self, data: bytes, sampling: VideoSampling, size: FrameSize, field: str
    ) -> AsyncGenerator[_OpenVideo]:
        check_sampling(sampling, self.limits, "sample")
        async with self._slot():
            decoder = await self._started(data, sampling, size, field)
            try:
                with _naming(field):
                    info, expected = await self._in_thread(decoder.begin)
                yield _OpenVideo(decoder, info, expected, self._in_thread, field)
            finally:
                decoder.kill()  # a thread that still reads gets the end of the stream
                self._pool.submit(decoder.close)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    @property
    def _pool(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(2 * self._concurrency, "video")
        return self._threads

    @asynccontextmanager
    async def _slot(self) -> AsyncGenerator[None]:
        if self._slots.locked() and self._waiting >= self._concurrency * _WAITING_EACH:
            raise QueueFull(f"{self._waiting} videos wait to be decoded already: try again later")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()

    async def _started(self, data: bytes, sampling: VideoSampling, size: FrameSize, field: str) -> Decoder:
        from inference_engine.infra.media.decoder import Decoder, require_av

        require_av()
        starting = self._pool.submit(Decoder, data, sampling, size, self.limits)
        try:
            with _naming(field):
                return await asyncio.shield(asyncio.wrap_future(starting))
        except asyncio.CancelledError:
            starting.add_done_callback(_end)
            raise


def _end(starting: Future[Decoder]) -> None:
    if starting.exception() is None:
        starting.result().close()


@contextmanager
def _naming(field: str) -> Iterator[None]:
    try:
        yield
    except VideoRefused as error:
        raise InvalidRequest(f"{field} holds {error}", param=field) from None


class _OpenVideo:
    """`OpenVideo` of a decoder process."""

    def __init__(self, decoder: Decoder, info: VideoInfo, expected: int, in_thread: InThread, field: str) -> None:
        self.info = info
        self.expected = expected
        self._decoder = decoder
        self._in_thread = in_thread
        self._field = field

    @property
    def damaged(self) -> int:
        return self._decoder.damaged

    async def frames(self) -> AsyncGenerator[VideoFrame]:
        frames = self._decoder.frames()
        while True:
            with _naming(self._field):
                frame = await self._in_thread(partial(next, frames, None))
            if frame is None:
                return
            yield frame
