"""Reads a video with PyAV: what it holds, and its sampled pictures. Blocking; trusts nothing that the file says.

A first pass reads all packets without decoding any: so the duration, the number of pictures and the places of the key
frames are known, whatever the header claims. The second pass decodes, and leaps to the last key frame before a wanted
picture where that saves work. Runs in a process of its own (see `child.py`): decoders of untrusted files crash now and
then.
"""

from __future__ import annotations

import bisect
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from inference_engine.domain.tensors import Array
from inference_engine.domain.video import DEFAULT_FRAMES, FrameSize, VideoFrame, VideoInfo, VideoLimits, VideoSampling
from inference_engine.infra.media.containers import CODECS, VideoRefused, container_format

_HEAD_BYTES = 600
_PACKETS_PER_S = 240
_SPARE_PACKETS = 1000
_LEAST_SHARE = 0.9
_FALLBACK_FPS = 25.0
_THREADS = 2
_WORTH_A_LEAP_S = 0.5
_INDEXED = ("mov", "matroska", "avi")
"""Where a leap ends at the key frame that was meant."""
_TRUSTED_TOTALS = ("mov", "matroska", "avi", "asf", "flv")


class Reading:
    """One video file, looked through. `info` and `expected` are known at once; `frames` decodes."""

    def __init__(
        self,
        file: BinaryIO,
        sampling: VideoSampling,
        size: FrameSize,
        limits: VideoLimits,
        clock: Callable[[], float] = time.process_time,
    ) -> None:
        """`clock` measures what decoding costs, in seconds.

        Raises:
            VideoRefused: it cannot be read, or is beyond the limits.
        """
        self._file = file
        self._limits = limits
        self._size = size
        self._clock = clock
        self._until_s = clock() + limits.decode_s
        self._keyframes_only = sampling.keyframes
        self.damaged = 0
        with _refusing():
            self._format = container_format(_head(file))
            self._look_through()
            self._times = self._wanted(sampling)
            self._pictures = self._picked()
            self._first = next(self._pictures, None)
        if self._first is None:
            raise VideoRefused("a damaged video, of which no picture can be decoded: send it again")
        self.info = self._described(self._first[1])
        self.expected = len(self._times)

    def frames(self) -> Iterator[VideoFrame]:
        """The wanted pictures, upright and scaled. To be read once.

        Raises:
            VideoRefused: a limit is passed, or most of it cannot be decoded.
        """
        index = 0
        picture = self._first
        self._first = None
        with _refusing():
            while picture is not None:
                time_s, frame = picture
                yield VideoFrame(index, round(max(0.0, time_s), 4), self._pixels(frame))
                index += 1
                picture = next(self._pictures, None)
        if self.damaged > self._decoded:
            raise VideoRefused(
                f"a damaged video: {self.damaged} of its packets cannot be decoded, {self._decoded} can: send it again"
            )

    def _open(self) -> Any:
        self._file.seek(0)
        return _av().open(
            self._file,
            format=self._format,
            metadata_errors="replace",
            container_options={"codec_whitelist": CODECS, "max_pixels": str(self._limits.max_pixels)},
            options={"codec_whitelist": CODECS, "max_pixels": str(self._limits.max_pixels)},
        )

    def _look_through(self) -> None:
        """The first pass: every packet, none decoded."""
        with self._open() as container:
            stream = _video_stream(container)
            self._check_size(stream.codec_context.width, stream.codec_context.height)
            self._codec = str(stream.codec_context.codec.canonical_name)
            self._base = stream.time_base
            self._measure(container.demux(stream), float(stream.average_rate or 0.0))
            self._check_whole(int(stream.frames or 0), _said_duration(container, stream))
        if self._duration > self._limits.max_s:
            raise VideoRefused(f"a video of {self._duration:.0f} seconds, it may have {self._limits.max_s:g}: cut it")

    def _measure(self, packets: Iterator[Any], said_fps: float) -> None:
        times: list[int] = []
        keys: list[int] = []
        count = 0
        end = 0
        most = int(self._limits.max_s * _PACKETS_PER_S) + _SPARE_PACKETS
        try:
            for packet in packets:
                if not packet.size:
                    continue
                count += 1
                at = packet.pts
                if at is None:
                    continue
                times.append(at)
                end = max(end, at + (packet.duration or 0))
                if packet.is_keyframe:
                    keys.append(at)
                if count > most:
                    raise VideoRefused(f"a video of more than {most} pictures: cut it")
                self._check_time()
        except _av().FFmpegError:
            if not times:
                raise
        if not times:
            what = "whose pictures have no times: convert it to MP4" if count else "without any picture: send another"
            raise VideoRefused(f"a video {what}")
        base = float(self._base)
        self._start = min(times)
        self._packets = count
        self._keys = sorted((at - self._start) * base for at in keys)
        span = (max(times) - self._start) * base
        self._fps = (count - 1) / span if span > 0 else said_fps or _FALLBACK_FPS
        self._duration = max((end - self._start) * base, span + 1 / self._fps)

    def _check_whole(self, said_frames: int, said_s: float) -> None:
        """Holds what is there to what the header says, where a header knows it."""
        if self._format not in _TRUSTED_TOTALS:
            return
        if self._packets < said_frames * _LEAST_SHARE:
            raise VideoRefused(
                f"a video that is cut off: {self._packets} of {said_frames} pictures came: send it again"
            )
        if self._duration + 1.0 < said_s * _LEAST_SHARE:
            raise VideoRefused(
                f"a video that is cut off after {self._duration:.1f} of {said_s:.1f} seconds: send it again"
            )

    def _described(self, frame: Any) -> VideoInfo:
        width, height = frame.width, frame.height
        turned = _turn(frame)
        if turned % 180:
            width, height = height, width
        return VideoInfo(
            container=self._format,
            codec=self._codec,
            width=width,
            height=height,
            fps=round(self._fps, 3),
            duration_s=round(self._duration, 4),
            frames=self._packets,
            rotation=turned,
        )

    def _wanted(self, sampling: VideoSampling) -> list[float]:
        """The times of the pictures that are wanted, in order."""
        most = min(sampling.max_frames or max(DEFAULT_FRAMES, sampling.count or 0), self._limits.max_frames)
        if sampling.keyframes:
            keys = self._keys or [0.0]
            count = min(len(keys), most)
            return [keys[i * len(keys) // count] for i in range(count)]
        if sampling.count is None:
            every_s = max(sampling.every_s or 1.0, self._duration / most)
            end_s = self._duration - 0.5 / self._fps
            return [i * every_s for i in range(most) if i * every_s < end_s] or [0.0]
        count = min(sampling.count, most, self._packets)
        return [(i + 0.5) * self._duration / count for i in range(count)]

    def _picked(self) -> Iterator[tuple[float, Any]]:
        """A picture for each wanted time: the first that is not before it by more than half a picture."""
        slack_s = 0.5 / self._fps
        wanted = deque(self._times)
        last: tuple[float, Any] | None = None
        now_s = 0.0
        self._decoded = 0
        with self._open() as container:
            stream = self._decoder(container)
            while wanted:
                key_s = self._leap(now_s, wanted[0])
                if key_s is not None:
                    container.seek(self._start + round(key_s / float(self._base)), stream=stream, backward=True)
                for now_s, frame in self._decoding(container, stream):
                    if now_s < wanted[0] - slack_s:
                        last = now_s, frame
                        continue
                    self.damaged += bool(frame.is_corrupt)
                    yield now_s, frame
                    last = None
                    while wanted and wanted[0] - slack_s <= now_s:
                        wanted.popleft()
                    if not wanted or self._leap(now_s, wanted[0]) is not None:
                        break
                else:
                    break
        if last is not None and len(wanted) == 1:
            yield last  # the last wanted time is behind the last picture

    def _leap(self, now_s: float, wanted_s: float) -> float | None:
        """The key frame to leap to on the way from `now_s` to `wanted_s`, where there is one between."""
        if self._keyframes_only or self._format not in _INDEXED:
            return None
        index = bisect.bisect_right(self._keys, wanted_s + 1e-6) - 1
        return self._keys[index] if index >= 0 and self._keys[index] > now_s + _WORTH_A_LEAP_S else None

    def _decoder(self, container: Any) -> Any:
        stream = _video_stream(container)
        context = stream.codec_context
        context.thread_type = "AUTO"
        context.thread_count = _THREADS
        if self._keyframes_only:
            context.skip_frame = "NONKEY"
        return stream

    def _decoding(self, container: Any, stream: Any) -> Iterator[tuple[float, Any]]:
        """Pictures with their times, from where the file is now. A packet that cannot be decoded is left out."""
        packets = container.demux(stream)
        while True:
            self._check_time()
            try:
                packet = next(packets, None)
            except _av().FFmpegError:  # the first pass has judged how much of the file there is
                return
            if packet is None:
                return
            try:
                frames = packet.decode()
            except _av().FFmpegError:
                self.damaged += 1
                continue
            for frame in frames:
                self._check_size(frame.width, frame.height)
                self._decoded += 1
                if frame.pts is not None:
                    yield (frame.pts - self._start) * float(self._base), frame

    def _pixels(self, frame: Any) -> Array:
        """uint8 RGB [height, width, 3], upright, of the wanted size."""
        turned = _turn(frame)
        wide, high = (frame.height, frame.width) if turned % 180 else (frame.width, frame.height)
        width, height = _scaled_size(wide, high, self._size)
        if width * height > self._limits.max_pixels:
            raise VideoRefused(f"a video of {wide} x {high} pixels, which is too long and thin: cut it")
        if turned % 180:
            width, height = height, width
        small = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA")
        return _fitted(np.ascontiguousarray(np.rot90(small.to_ndarray(), turned // 90)), self._size)

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._limits.max_pixels:
            raise VideoRefused(
                f"a video of {width} x {height} pixels, a picture may have {self._limits.max_pixels}: make it smaller"
            )

    def _check_time(self) -> None:
        if self._clock() > self._until_s:
            raise VideoRefused(
                f"a video that takes more than {self._limits.decode_s:g} seconds to decode: cut it, or make it smaller"
            )


def _av() -> Any:
    import av

    return av


def _head(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(_HEAD_BYTES)


@contextmanager
def _refusing() -> Iterator[None]:
    """What PyAV raises becomes `VideoRefused`."""
    try:
        yield
    except VideoRefused:
        raise
    except MemoryError:
        raise VideoRefused("a video that needs too much memory to decode: make it smaller") from None
    except _av().FFmpegError as error:
        raise VideoRefused(_broken(error)) from None
    except (ValueError, OSError) as error:
        raise VideoRefused(str(error)) from None


def _broken(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"a video that is damaged or cut off ({text}): send it again"


def _video_stream(container: Any) -> Any:
    """The first stream of moving pictures; the cover of a sound file is none."""
    cover = _av().stream.Disposition.attached_pic
    for stream in container.streams.video:
        if not stream.disposition & cover:
            if stream.codec_context is None:
                raise VideoRefused("a video whose codec is not read here: convert it to H.264, VP9 or AV1")
            return stream
    if container.streams.audio:
        raise VideoRefused("sound without pictures: send a video")
    raise VideoRefused("no moving pictures: send a video")


def _said_duration(container: Any, stream: Any) -> float:
    """Seconds by the header; 0 where it says nothing, or only how long the longest of several streams is."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1
    return container.duration / 1e6 if container.duration and alone else 0.0


def _turn(frame: Any) -> int:
    """How far the stored picture must be turned counter-clockwise to be upright: 0, 90, 180 or 270 degrees."""
    return int(round(frame.rotation / 90) * 90 % 360)


def _scaled_size(wide: int, high: int, size: FrameSize) -> tuple[int, int]:
    """Width and height before anything is cut or put around."""
    if size.width is None or size.height is None:
        scale = min(1.0, size.max_side / max(wide, high))
    elif size.fit == "stretch":
        return size.width, size.height
    else:
        choose = max if size.fit == "cover" else min
        scale = choose(size.width / wide, size.height / high)
    return max(1, round(wide * scale)), max(1, round(high * scale))


def _fitted(pixels: Array, size: FrameSize) -> Array:
    """The middle of what stands over, black around what is too small."""
    if size.width is None or size.height is None or pixels.shape[:2] == (size.height, size.width):
        return pixels
    high, wide = pixels.shape[:2]
    top, left = (size.height - high) // 2, (size.width - wide) // 2
    made = np.zeros((size.height, size.width, 3), np.uint8)
    part = pixels[max(0, -top) : max(0, -top) + size.height, max(0, -left) : max(0, -left) + size.width]
    made[max(0, top) : max(0, top) + part.shape[0], max(0, left) : max(0, left) + part.shape[1]] = part
    return made
