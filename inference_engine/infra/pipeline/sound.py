"""Sound files to samples with PyAV (FFmpeg), within limits, and samples to other rates. Knows no pipeline.

Only the readers and decoders listed here are ever opened: others of FFmpeg's follow addresses that stand in a file.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from inference_engine.domain.errors import RuntimeMissing
from inference_engine.domain.tensors import Array
from inference_engine.infra.pipeline.sound_files import check_whole, reader_of

RATES = (1_000, 768_000)
LAYOUTS = ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1")
"""FFmpeg's name for so many channels, from one up. They are only counted, never mixed by what they mean."""
_PCM = ("u8", "s16le", "s16be", "s24le", "s24be", "s32le", "s32be", "f32le", "f32be", "f64le", "f64be", "alaw", "mulaw")
_DECODERS = frozenset(
    (*(f"pcm_{kind}" for kind in _PCM), "flac", "mp3", "mp3float", "vorbis", "opus", "libopus", "aac", "alac")
)
_LEVELS = {"u8": 1 << 7, "s16": 1 << 15, "s32": 1 << 31}
_EXACT = 0.001
_SLACK_S = {"wav": _EXACT, "flac": _EXACT, "aiff": _EXACT, "mp3": 0.25, "mov": 0.25, "matroska": 0.25}
"""How far the length in the header may be from what is there, where a header has one: codecs pad both ends."""
_BLOCK = 1 << 16


class TooManySamples(Exception):
    """The batch holds more than it may."""


def require_av() -> None:
    """Raises `RuntimeMissing` where PyAV is not installed."""
    try:
        import av  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise RuntimeMissing(
            f"sound needs PyAV, which cannot be imported ({error}): pip install 'inference-engine[audio]'"
        ) from None


def decode(data: bytes, rate: int, channels: int, max_seconds: float, max_samples: int) -> Array:
    """The first sound track of a file as float32 between -1 and 1: [samples], or [channels, samples] for several.

    One channel is the mean of all; a single one is repeated for several.

    Raises:
        ValueError: it is no sound, damaged, cut or too long; the text goes on after "holds".
        TooManySamples: it has more than `max_samples` at `rate`, all channels counted.
    """
    reader = reader_of(data)
    check_whole(data, reader)
    import av

    options = {"err_detect": "explode+crccheck", "codec_whitelist": ",".join(sorted(_DECODERS))}
    try:
        with av.open(io.BytesIO(data), "r", format=reader, options=options) as container:
            blocks = _mixed(_Track(container, reader), channels, max_seconds)
            found = list(_within(_at_rate(blocks, rate), max_samples))
    except (_Refused, TooManySamples, MemoryError):
        raise
    except Exception as error:  # the border to FFmpeg, which raises nearly anything for damaged files
        raise ValueError(f"a recording that cannot be read: {_reason(error)}") from None
    samples = np.concatenate(found, axis=1) if found else np.zeros((channels, 0), np.float32)
    if not samples.size:
        raise ValueError("a recording without any sound in it")
    return samples[0] if channels == 1 else samples


def resampled(samples: Array, source: int, rate: int) -> Array:
    """float32 [..., samples] at another rate."""
    flat = samples.reshape(-1, samples.shape[-1])
    blocks = ((source, flat[:, at : at + _BLOCK]) for at in range(0, flat.shape[1], _BLOCK))
    return np.concatenate(list(_at_rate(blocks, rate)), axis=1).reshape(*samples.shape[:-1], -1)


class _Refused(ValueError):
    """Not what FFmpeg says, but what the limits say."""


class _Track:
    """The sound of a file, frame by frame."""

    def __init__(self, container: Any, reader: str) -> None:
        if not container.streams.audio:
            raise _Refused("a file without sound")
        stream = container.streams.audio[0]
        if stream.codec_context.name not in _DECODERS:
            raise _Refused(f"sound in {stream.codec_context.name}, which is not read: send another format")
        self.rate = int(stream.rate or 0)
        if not RATES[0] <= self.rate <= RATES[1]:
            raise _Refused(f"a recording of {self.rate} samples a second, {RATES[0]} to {RATES[1]} are read")
        stream.codec_context.thread_type = "NONE"  # the batch is what runs beside others
        self._container, self._stream = container, stream
        told = stream.duration * stream.time_base if stream.duration else Fraction(container.duration or 0, 1_000_000)
        self.told_seconds = float(told) if reader in _SLACK_S else 0.0
        self.slack_seconds = _SLACK_S.get(reader, 0.0)

    def frames(self) -> Iterator[Any]:
        yield from self._container.decode(self._stream)


def _mixed(track: _Track, channels: int, max_seconds: float) -> Iterator[tuple[int, Array]]:
    """The track as [channels, samples], in blocks, each with its rate."""
    if track.told_seconds > max_seconds:
        raise _too_long(max_seconds)
    read = 0
    for frame in track.frames():
        if frame.sample_rate != track.rate:
            raise _Refused("a recording whose rate changes in the middle: send it in parts")
        read += frame.samples
        if read > max_seconds * track.rate:
            raise _too_long(max_seconds)
        yield track.rate, _to_channels(_floats(frame), channels)
    missing = track.told_seconds - read / track.rate
    if track.told_seconds and (missing > track.slack_seconds or -missing > max(track.slack_seconds, _SLACK_S["mov"])):
        raise _Refused(
            f"a recording that is damaged or cut off: it says it has {track.told_seconds:.2f} seconds and has "
            f"{read / track.rate:.2f}: send it again"
        )


def _too_long(max_seconds: float) -> _Refused:
    return _Refused(f"a recording of more than {max_seconds:g} seconds: send it in parts")


def _floats(frame: Any) -> Array:
    """float32 [channels, samples]."""
    kind = frame.format.name.removesuffix("p")
    given: Array = frame.to_ndarray()
    if not frame.format.is_planar:
        given = given.reshape(-1, len(frame.layout.channels)).T
    if kind not in _LEVELS:
        return given.astype(np.float32)
    middle = _LEVELS[kind] if kind == "u8" else 0
    return (given.astype(np.float32) - np.float32(middle)) / np.float32(_LEVELS[kind])


def _to_channels(given: Array, channels: int) -> Array:
    if len(given) == channels:
        return given
    if channels == 1:
        return np.asarray(given.mean(axis=0, keepdims=True))
    if len(given) == 1:
        return np.repeat(given, channels, axis=0)
    raise _Refused(f"a recording of {len(given)} channels, the model hears {channels}: mix it before it is sent")


def _at_rate(blocks: Iterator[tuple[int, Array]], rate: int) -> Iterator[Array]:
    """Blocks float32 [channels, samples], each with its rate (one for all), at `rate`."""
    resampler: _Resampler | None = None
    for source, block in blocks:
        if source == rate:
            yield block
            continue
        resampler = resampler or _Resampler(source, rate, len(block))
        yield from resampler.push(block)
    if resampler is not None:
        yield from resampler.rest()


class _Resampler:
    """FFmpeg's resampler, which gives n * rate / source samples for n, rounded up."""

    _TAIL = 1024  # zeros after the end: FFmpeg keeps what its filter has not seen enough of

    def __init__(self, source: int, rate: int, channels: int) -> None:
        import av

        self._layout, self._source, self._rate = LAYOUTS[channels - 1], source, rate
        self._inner = av.AudioResampler(format="fltp", layout=self._layout, rate=rate)
        self._zeros = np.zeros((channels, self._TAIL), np.float32)
        self._taken = self._given = 0

    def push(self, block: Array) -> Iterator[Array]:
        import av

        frame: Any = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(block, np.float32), format="fltp", layout=self._layout
        )
        frame.sample_rate, frame.time_base, frame.pts = self._source, Fraction(1, self._source), self._taken
        self._taken += block.shape[1]
        for part in self._inner.resample(frame):
            found = np.asarray(part.to_ndarray())
            self._given += found.shape[1]
            yield found

    def rest(self) -> Iterator[Array]:
        left = -(-self._taken * self._rate // self._source) - self._given
        tail = [*self.push(self._zeros), *(np.asarray(part.to_ndarray()) for part in self._inner.resample(None))]
        for found in tail:
            if left > 0:
                yield found[:, :left]
            left -= found.shape[1]


def _within(blocks: Iterator[Array], max_samples: int) -> Iterator[Array]:
    left = max_samples
    for block in blocks:
        left -= block.size
        if left < 0:
            raise TooManySamples
        yield block


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
