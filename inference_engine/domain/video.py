"""What a video is to the engine: what its file says, which of its pictures are wanted, and the port that reads them.

Times are seconds from the first picture. Sizes are those of the upright picture, after the file's own rotation.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

import msgspec

from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.tensors import Array

Fit = Literal["stretch", "cover", "contain"]
MAX_SIDE = 8192
DEFAULT_FRAMES = 300
DEFAULT_SIDE = 640
"""The longer side of sampled pictures where nothing else is said: models look at less than that."""


class VideoInfo(msgspec.Struct, frozen=True):
    """What a file holds, counted by reading it through and not taken from its header.

    `duration_s` ends with the last picture's own duration. `rotation` is what was done to the stored pictures, in
    degrees counter-clockwise.
    """

    container: str
    codec: str
    width: int
    height: int
    fps: float
    duration_s: float
    frames: int
    rotation: int = 0


class VideoSampling(msgspec.Struct, frozen=True):
    """Which pictures: one every `every_s`, or `count` spread evenly, or only key frames; at most `max_frames` (300).

    Where `max_frames` would be passed, the pictures lie further apart, so that the whole video is still seen.
    """

    every_s: float | None = None
    count: int | None = None
    keyframes: bool = False
    max_frames: int | None = None


class FrameSize(msgspec.Struct, frozen=True):
    """How pictures are scaled: down to a longer side of `max_side`, or to exactly `width` x `height`.

    `cover` fills it and cuts what stands over, `contain` shows all of it with black around, `stretch` distorts it.
    """

    max_side: int = DEFAULT_SIDE
    width: int | None = None
    height: int | None = None
    fit: Fit = "cover"


class VideoLimits(msgspec.Struct, frozen=True):
    """What one video may cost. `max_pixels` is for one picture, `decode_s` is processor time of the decoder."""

    max_bytes: int = 256 << 20
    max_s: float = 3600.0
    max_pixels: int = 10_000_000
    max_frames: int = 1000
    decode_s: float = 300.0


class VideoFrame(msgspec.Struct, frozen=True):
    """One picture: `pixels` is uint8 RGB [height, width, 3], upright and scaled; `index` counts the sampled ones."""

    index: int
    time_s: float
    pixels: Array


class OpenVideo(Protocol):
    """A video whose pictures can be read once. `expected` is how many there will be, unless the file is damaged."""

    info: VideoInfo
    expected: int

    def frames(self) -> AsyncGenerator[VideoFrame]:
        """The sampled pictures in order of time.

        Raises:
            InvalidRequest: the file is damaged, or took more than the limits allow.
        """

    @property
    def damaged(self) -> int:
        """How many packets could not be decoded; complete once all pictures are read."""


class VideoReader(Protocol):
    """Reads videos away from the server's process, a bounded number at once."""

    limits: VideoLimits

    def open(
        self, data: bytes, sampling: VideoSampling, size: FrameSize, field: str
    ) -> AbstractAsyncContextManager[OpenVideo]:
        """Leaving the context ends the decoder at once, whatever it is doing.

        Raises:
            InvalidRequest: no video, damaged, or beyond the limits; the error names `field`.
            QueueFull: too many videos wait already. RuntimeMissing: the library is not installed.
        """


def check_sampling(sampling: VideoSampling, limits: VideoLimits, field: str) -> None:
    """Raises `InvalidRequest` with the place under `field` where a value cannot be honoured."""
    given = [sampling.every_s is not None, sampling.count is not None, sampling.keyframes]
    if sum(given) > 1:
        raise InvalidRequest(f"{field} takes one of every_s, count and keyframes", param=field)
    if sampling.every_s is not None and not 0.001 <= sampling.every_s <= limits.max_s:
        place = f"{field}.every_s"
        raise InvalidRequest(
            f"{place} is {sampling.every_s}, it must lie between 0.001 and {limits.max_s:g} seconds", param=place
        )
    for name, value in (("count", sampling.count), ("max_frames", sampling.max_frames)):
        if value is not None and not 1 <= value <= limits.max_frames:
            place = f"{field}.{name}"
            raise InvalidRequest(f"{place} is {value}, it must lie between 1 and {limits.max_frames}", param=place)
