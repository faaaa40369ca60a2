"""Decodes recordings to one channel at the rate a model hears. Refuses what is too long before it is decoded whole."""

from __future__ import annotations

import io
import math
import wave
from typing import Any

import numpy as np

from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.tensors import Array

_BLOCK_S = 30
_LOBES = 16  # zero crossings of the resampling filter on each side
_MOST_PHASES = 1024
_BLOCK = 4096
_RATES = (1_000, 768_000)
FIELD = "file"


def decode_audio(data: bytes, rate: int, max_s: int, max_bytes: int) -> Array:
    """Mono float32 samples at `rate` hertz, between -1 and 1.

    WAV, FLAC, OGG and MP3 through soundfile; more through PyAV where it is installed; plain WAV without either.

    Raises:
        InvalidRequest: not audio, damaged, longer than `max_s` seconds, or larger than `max_bytes`.
    """
    if len(data) > max_bytes:
        raise InvalidRequest(f"the recording has {len(data)} bytes, at most {max_bytes} are read", param=FIELD)
    problems = []
    for read in (_with_soundfile, _with_av, _with_wave):
        try:
            samples, source = read(data, max_s)
        except ImportError:
            continue
        except _NotAudio as error:
            problems.append(str(error))
            continue
        if not len(samples):
            raise InvalidRequest("the recording holds no sound", param=FIELD)
        if not _RATES[0] <= source <= _RATES[1]:
            raise InvalidRequest(
                f"the recording has {source} samples a second, {_RATES[0]} to {_RATES[1]} are read", param=FIELD
            )
        return resampled(samples, source, rate)
    raise InvalidRequest(
        f"the recording cannot be decoded ({'; '.join(problems)}): send WAV, FLAC, OGG or MP3", param=FIELD
    )


class _NotAudio(Exception):
    """One way of reading does not know this file; the next is tried."""


def _too_long(max_s: int) -> InvalidRequest:
    return InvalidRequest(f"the recording is longer than {max_s} seconds: send it in parts", param=FIELD)


def _with_soundfile(data: bytes, max_s: int) -> tuple[Array, int]:
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if file.frames > max_s * file.samplerate:
                raise _too_long(max_s)
            blocks: list[Array] = []
            while len(block := file.read(_BLOCK_S * file.samplerate, dtype="float32", always_2d=True)):
                blocks.append(block.mean(axis=1))
                if len(blocks) * _BLOCK_S > max_s + _BLOCK_S:  # a header that lies about the length
                    raise _too_long(max_s)
            return _whole(blocks), int(file.samplerate)
    except (soundfile.SoundFileError, ValueError) as error:
        raise _NotAudio(str(error)) from None


def _with_av(data: bytes, max_s: int) -> tuple[Array, int]:
    import av

    try:
        with av.open(io.BytesIO(data), mode="r") as container:
            stream = container.streams.audio[0]
            rate = int(stream.rate)
            resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
            blocks: list[Array] = []
            size = 0
            for frame in container.decode(stream):
                for part in resampler.resample(frame):
                    blocks.append(np.asarray(part.to_ndarray(), np.float32).reshape(-1))
                    size += len(blocks[-1])
                if size > max_s * rate:
                    raise _too_long(max_s)
            return _whole(blocks), rate
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise _NotAudio(str(error) or "there is no sound in it") from None


def _with_wave(data: bytes, max_s: int) -> tuple[Array, int]:
    try:
        with wave.open(io.BytesIO(data)) as file:
            if file.getnframes() > max_s * file.getframerate():
                raise _too_long(max_s)
            raw, width, channels = file.readframes(file.getnframes()), file.getsampwidth(), file.getnchannels()
            rate = file.getframerate()
    except (wave.Error, EOFError, ValueError) as error:
        raise _NotAudio(str(error) or "the file is cut") from None
    raw = raw[: len(raw) // (width * channels) * width * channels]
    if width == 1:
        samples: Array = (np.frombuffer(raw, np.uint8).astype(np.float32) - 128) / 128
    elif width == 3:
        bytes_ = np.frombuffer(raw, np.uint8).reshape(-1, 3).astype(np.int32)
        samples = (((bytes_[:, 2] << 24) | (bytes_[:, 1] << 16) | (bytes_[:, 0] << 8)) / 2**31).astype(np.float32)
    else:
        kind = np.dtype(f"<i{width}")
        samples = np.frombuffer(raw, kind).astype(np.float32) / float(2 ** (8 * width - 1))
    return samples.reshape(-1, channels).mean(axis=1), rate


def _whole(blocks: list[Array]) -> Array:
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def resampled(samples: Array, source: int, target: int) -> Array:
    """`samples` at another rate, through a windowed-sinc low pass."""
    if source == target:
        return np.ascontiguousarray(samples, np.float32)
    common = math.gcd(source, target)
    down, up = source // common, target // common
    cut = 0.95 * min(1.0, up / down)  # as a share of the source's half rate
    reach = math.ceil(_LOBES / cut)
    padded = np.pad(np.asarray(samples, np.float32), (reach, reach + 1 + down))
    size = math.ceil(len(samples) * up / down)
    if up <= _MOST_PHASES:
        return _polyphase(padded, up, down, cut, reach)[:size]
    return _one_by_one(padded, up, down, cut, reach, size)


def _filter(distance: Array, cut: float, reach: int) -> Array:
    """The low pass at so many source samples from its middle."""
    window = np.where(np.abs(distance) <= reach, np.cos(distance * (math.pi / 2 / reach)) ** 2, 0.0)
    return np.asarray(cut * np.sinc(cut * distance) * window, np.float32)


def _polyphase(padded: Array, up: int, down: int, cut: float, reach: int) -> Array:
    """Every output sample, `up` at a time: their filters are the same for each `down` source samples."""
    import torch

    offsets = np.arange(-reach, reach + 1 + down, dtype=np.float64)
    phases = np.arange(up, dtype=np.float64) * down / up
    kernel = torch.from_numpy(_filter(offsets[None, :] - phases[:, None], cut, reach))
    output: Any = torch.nn.functional.conv1d(torch.from_numpy(padded)[None, None], kernel[:, None], stride=down)[0]
    return np.ascontiguousarray(output.T.reshape(-1).numpy())


def _one_by_one(padded: Array, up: int, down: int, cut: float, reach: int, size: int) -> Array:
    """The same for rates without a common measure: a filter for each output sample."""
    taps = np.arange(-reach, reach + 1)
    output = np.empty(size, np.float32)
    for start in range(0, size, _BLOCK):
        positions = np.arange(start, min(start + _BLOCK, size)) * (down / up)
        middles = positions.astype(np.int64)
        weights = _filter(taps[None, :] - (positions - middles)[:, None], cut, reach)
        output[start : start + _BLOCK] = (padded[middles[:, None] + taps[None, :] + reach] * weights).sum(-1)
    return output
