"""The preprocess step `audio.fbank`: log-mel features as Kaldi computes them, without dither.

Many speech and sound models (Audio Spectrogram Transformer, Zipformer, Paraformer, speaker embeddings) were trained on
them. They differ from `audio.log_mel` in the frames' mean, the pre-emphasis, the window and the shape of the bands.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from inference_engine.domain.errors import InvalidManifest
from inference_engine.domain.pipeline import Side, Specs, choose
from inference_engine.domain.tensors import ANY, Array, Tensors
from inference_engine.infra.pipeline import mel
from inference_engine.infra.pipeline.audio import Rate, Time, frames_of, gathered, read_sound, sound_spec
from inference_engine.infra.pipeline.lengths import lengths_note

_BLOCK = 4096  # frames at once
_FLOOR = 1.1920928955078125e-07  # the smallest step of float32 at 1


class Fbank(msgspec.Struct, frozen=True, dict=True):
    """[frames, n_mels] of a mono clip, or [n_mels, frames] with `time: last`: natural logarithms.

    Frames of `frame_ms`, one each `hop_ms`, only where a whole one fits; each loses its mean, gets `preemphasis`
    and Povey's window. Samples are multiplied with `gain` before: 32768 where the model was trained on 16-bit numbers.
    (value - mean) / std is the last thing done.
    """

    side: ClassVar[Side] = "preprocess"
    rate: Rate
    n_mels: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 80
    frame_ms: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 25.0
    hop_ms: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 10.0
    preemphasis: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.97
    low: Annotated[float, msgspec.Meta(ge=0)] = 20.0
    high: float | None = None
    gain: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    mean: float = 0.0
    std: float = 1.0
    time: Time = "first"
    input: str | None = None

    def preview(self, specs: Specs) -> Specs:
        name = choose(specs, self.input)
        self._check_options(name)
        spec = specs[name]
        kind, _ = read_sound(spec)
        frames = frames_of(spec, self.n_mels, self.time, "audio.fbank")
        samples = ANY if frames == ANY else (frames - 1) * self._hop + self._frame
        return {**specs, name: sound_spec(name, kind, self.rate, (spec.shape[0], samples))}

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.input)
        found = {**tensors, name: gathered([self._one(clip) for clip in tensors[name]])}
        note = lengths_note(name).name
        if note in tensors:  # padded before: its lengths are counted in samples
            found[note] = np.maximum(tensors[note] - self._frame, 0) // self._hop + 1
        return found

    def _one(self, clip: Array) -> Array:
        window, bank = self._tools
        samples = clip.astype(np.float64) * self.gain
        samples = np.pad(samples, (0, max(0, self._frame - len(samples))))
        frames = np.lib.stride_tricks.sliding_window_view(samples, self._frame)[:: self._hop]
        blocks = [self._block(frames[at : at + _BLOCK], window, bank) for at in range(0, len(frames), _BLOCK)]
        found = (np.concatenate(blocks) - self.mean) / self.std
        return np.ascontiguousarray(found.T if self.time == "last" else found, np.float32)

    def _block(self, frames: Array, window: Array, bank: Array) -> Array:
        frames = frames - frames.mean(axis=1, keepdims=True)
        before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
        powers = np.abs(np.fft.rfft((frames - self.preemphasis * before) * window, self._n_fft, axis=1)) ** 2
        return np.asarray(np.log(np.maximum(powers @ bank, _FLOOR)))

    def _check_options(self, name: str) -> None:
        high = self.rate / 2 if self.high is None else self.high
        if not self.low < high <= self.rate / 2:
            raise InvalidManifest(
                f"low is {self.low} and high {high}, for tensor {name!r}: low must be below high, and high at most "
                f"rate / 2 = {self.rate / 2}"
            )
        if self._frame < 2 or self._hop < 1:
            raise InvalidManifest(f"frame_ms and hop_ms are less than a sample, for tensor {name!r}")
        if not np.isfinite([self.mean, self.std]).all() or self.std == 0:
            raise InvalidManifest(f"mean and std must be finite, and std not zero, for tensor {name!r}")

    @property
    def _frame(self) -> int:
        return int(self.rate * self.frame_ms / 1000)

    @property
    def _hop(self) -> int:
        return int(self.rate * self.hop_ms / 1000)

    @property
    def _n_fft(self) -> int:
        """The next power of two."""
        return 1 << (self._frame - 1).bit_length()

    @cached_property
    def _tools(self) -> tuple[Array, Array]:
        """The window and the filters."""
        angles = 2 * np.pi * np.arange(self._frame) / (self._frame - 1)
        window = (0.5 - 0.5 * np.cos(angles)) ** 0.85
        high = self.rate / 2 if self.high is None else self.high
        return window, mel.kaldi_filters(self.n_mels, self._n_fft, self.rate, self.low, high)
