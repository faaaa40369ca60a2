"""Preprocess steps for sound: `audio.decode`, `samples`, `mono`, `resample`, `normalize`, `pad_or_trim`, `log_mel`.

Between these steps sound is float32: [samples] for one channel, [channels, samples] for several, [mels, frames] after
`audio.log_mel`. Clips of one batch have lengths of their own (dtype `clips` in previews) until `audio.pad_or_trim`
brings them to one (dtype `sound`, which is as good as float32). Where the samples of a second are known, the dtype says
so: `clips@16000`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np

from inference_engine.domain.errors import InvalidManifest, InvalidTensor
from inference_engine.domain.model import TensorSpec
from inference_engine.domain.pipeline import CLIPS, SOUND, Side, Specs, choose, require_dtype
from inference_engine.domain.tensors import ANY, Array, Tensors
from inference_engine.infra.pipeline import mel, sound
from inference_engine.infra.pipeline.lengths import lengths_note

Rate = Annotated[int, msgspec.Meta(ge=1000, le=192_000)]
Channels = Annotated[int, msgspec.Meta(ge=1, le=len(sound.LAYOUTS))]
Count = Annotated[int, msgspec.Meta(ge=1, le=100_000_000)]
Time = Literal["last", "first"]
"""Where a clip has its time: [.., time], or [time, ..]."""
_QUIET = 1e-7  # keeps a silent clip from being divided by zero


class Decode(msgspec.Struct, frozen=True):
    """The client sends sound files as bytes; the model gets `channels` of float32 samples, `rate` of them a second.

    At most `max_bytes` and `max_seconds` for each, `max_batch_samples` for all together, at `rate`.
    """

    side: ClassVar[Side] = "preprocess"
    rate: Rate
    channels: Channels = 1
    max_bytes: Annotated[int, msgspec.Meta(ge=1)] = 32 << 20
    max_seconds: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 600.0
    max_batch_samples: Count = 50_000_000
    input: str | None = None

    def preview(self, specs: Specs) -> Specs:
        sound.require_av()
        name = choose(specs, self.input)
        spec = specs[name]
        kind, rate = read_sound(spec)
        if kind != CLIPS:
            raise InvalidManifest(
                f"tensor {name!r} is {kind} {list(spec.shape)}, recordings have different lengths: put "
                "audio.pad_or_trim after audio.decode"
            )
        _require_rate(name, rate, self.rate)
        wanted = (ANY,) if self.channels == 1 else (self.channels, ANY)
        if len(spec.shape) != len(wanted) + 1 or not _fits(spec.shape[1:], wanted):
            raise InvalidManifest(
                f"tensor {name!r} takes clips of shape {list(spec.shape[1:])}, audio.decode with channels "
                f"{self.channels} gives {list(wanted)}"
            )
        return {**specs, name: TensorSpec(name, "bytes", spec.shape[:1])}

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.input)
        found: list[Array] = []
        left = self.max_batch_samples
        for row, data in enumerate(tensors[name].tolist()):
            clip = self._decoded(data, name, row, left)
            left -= clip.size
            found.append(clip)
        return {**tensors, name: gathered(found)}

    def _decoded(self, data: object, name: str, row: int, left: int) -> Array:
        if not isinstance(data, bytes):
            raise InvalidTensor(f"input {name!r} row {row} is text, send a sound file's bytes as they are", param=name)
        if len(data) > self.max_bytes:
            raise InvalidTensor(
                f"input {name!r} row {row} has {len(data)} bytes, a recording may have {self.max_bytes}: make it "
                "shorter, or send it compressed",
                param=name,
            )
        try:
            return sound.decode(data, self.rate, self.channels, self.max_seconds, left)
        except ValueError as error:
            raise InvalidTensor(f"input {name!r} row {row} holds {error}", param=name) from None
        except sound.TooManySamples:
            raise InvalidTensor(
                f"input {name!r} holds more than {self.max_batch_samples} samples in all: send fewer recordings at "
                "once",
                param=name,
            ) from None


class Samples(msgspec.Struct, frozen=True):
    """The client sends samples, not files: float32, `rate` of them a second, all clips of one request of one length."""

    side: ClassVar[Side] = "preprocess"
    rate: Rate
    input: str | None = None

    def preview(self, specs: Specs) -> Specs:
        name = choose(specs, self.input)
        spec = specs[name]
        _, rate = read_sound(spec)
        _require_rate(name, rate, self.rate)
        return {**specs, name: TensorSpec(name, "float32", spec.shape)}

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.input)
        if not np.isfinite(tensors[name]).all():
            raise InvalidTensor(f"input {name!r} holds samples that are not finite numbers", param=name)
        if not tensors[name].size:
            raise InvalidTensor(f"input {name!r} holds clips without any sample", param=name)
        return tensors


class Mono(msgspec.Struct, frozen=True):
    """[channels, samples] become [samples]: the mean."""

    side: ClassVar[Side] = "preprocess"
    channels: Annotated[int, msgspec.Meta(ge=2, le=len(sound.LAYOUTS))]
    input: str | None = None

    def preview(self, specs: Specs) -> Specs:
        name = choose(specs, self.input)
        kind, rate = read_sound(specs[name])
        rows, time = _one_channel(specs[name])
        return {**specs, name: sound_spec(name, kind, rate, (rows, self.channels, time))}

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.input)
        return {**tensors, name: gathered([clip.mean(axis=0, dtype=np.float32) for clip in tensors[name]])}


class Resample(msgspec.Struct, frozen=True):
    """From `from` samples a second to `to`, with FFmpeg's resampler."""

    side: ClassVar[Side] = "preprocess"
    source: Rate = msgspec.field(name="from")
    to: Rate
    input: str | None = None

    def preview(self, specs: Specs) -> Specs:
        sound.require_av()
        name = choose(specs, self.input)
        spec = specs[name]
        kind, rate = read_sound(spec)
        _require_rate(name, rate, self.to)
        if spec.shape[-1] != ANY:
            raise InvalidManifest(
                f"tensor {name!r} has shape {list(spec.shape)}, audio.resample changes the length: put "
                "audio.pad_or_trim after it"
            )
        return {**specs, name: sound_spec(name, kind, self.source, spec.shape)}

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.input)
        if self.source == self.to:
            return tensors
        return {**tensors, name: gathered([sound.resampled(clip, self.source, self.to) for clip in tensors[name]])}


class Normalize(msgspec.Struct, frozen=True):
    """Each clip with mean 0 and variance 1. Before `audio.pad_or_trim`, so that the padding does not count."""

    side: ClassVar[Side] = "preprocess"
    input: str | None = None

    def preview(self, specs: Specs) -> Specs:
        name = choose(specs, self.input)
        kind, rate = read_sound(specs[name])
        return {**specs, name: sound_spec(name, kind, rate, specs[name].shape)}

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.input)
        return {**tensors, name: gathered([self._one(clip) for clip in tensors[name]])}

    @staticmethod
    def _one(clip: Array) -> Array:
        wide = clip.astype(np.float64)
        return np.asarray((wide - wide.mean()) / np.sqrt(wide.var() + _QUIET), np.float32)


class PadOrTrim(msgspec.Struct, frozen=True):
    """Clips of one `length`: longer ones are cut, shorter ones filled with `value`, at the end.

    Without `length` all get the length of the longest in the batch. `mask` and `lengths` name inputs of the model: 1
    for what was sent and 0 for padding [-1, length], and the lengths before padding [-1]; both of dtype `dtype`.
    """

    side: ClassVar[Side] = "preprocess"
    length: Count | None = None
    value: float = 0.0
    time: Time = "last"
    mask: str | None = None
    lengths: str | None = None
    dtype: Literal["int64", "int32", "float32", "bool"] = "int64"
    input: str | None = None

    def preview(self, specs: Specs) -> Specs:
        made = [side for side in (self.mask, self.lengths) if side is not None]
        name = choose([key for key in specs if key not in made], self.input)
        spec = specs[name]
        kind, rate = read_sound(spec)
        if kind == CLIPS:
            raise InvalidManifest(f"tensor {name!r} needs no second audio.pad_or_trim")
        at = -1 if self.time == "last" else 1
        size = spec.shape[at]
        if size not in (ANY, self.length):
            raise InvalidManifest(f"tensor {name!r} has shape {list(spec.shape)}: give length: {size}")
        for side, shape in ((self.mask, 2), (self.lengths, 1)):
            if side is not None:
                self._check_side(specs, side, shape)
        shape_ = list(spec.shape)
        shape_[at] = ANY
        others = {key: value for key, value in specs.items() if key not in made}
        note = lengths_note(name, spec.shape[0])
        return {**others, name: sound_spec(name, CLIPS, rate, tuple(shape_)), note.name: note}

    def _check_side(self, specs: Specs, side: str, dimensions: int) -> None:
        spec = specs[choose(specs, side)]
        require_dtype(spec, (self.dtype,))
        if len(spec.shape) != dimensions or (dimensions == 2 and spec.shape[1] not in (ANY, self.length)):
            wanted = [ANY] if dimensions == 1 else [ANY, self.length or ANY]
            raise InvalidManifest(f"tensor {side!r} has shape {list(spec.shape)}, it would get {wanted}")

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.input)
        clips = tensors[name]
        axis = -1 if self.time == "last" else 0
        sizes = np.array([clip.shape[axis] for clip in clips], np.int64)
        length = int(sizes.max()) if self.length is None else self.length
        kept = np.minimum(sizes, length)
        first = clips[0]
        shape = (*first.shape[:-1], length) if self.time == "last" else (length, *first.shape[1:])
        made = np.full((len(clips), *shape), self.value, np.float32)
        for row, clip in enumerate(clips):
            if self.time == "last":
                made[row, ..., : kept[row]] = clip[..., :length]
            else:
                made[row, : kept[row]] = clip[:length]
        found = {**tensors, name: made}
        found[lengths_note(name).name] = np.stack([kept, np.full_like(kept, length)], axis=1)
        if self.mask is not None:
            found[self.mask] = (np.arange(length) < kept[:, None]).astype(self.dtype)
        if self.lengths is not None:
            found[self.lengths] = kept.astype(self.dtype)
        return found


def frames_of(spec: TensorSpec, n_mels: int, time: Time, step: str) -> int:
    """The frames of the spectrogram that a model takes. Raises `InvalidManifest` where `step` gives another shape."""
    at = 1 if time == "last" else 2
    if len(spec.shape) != 3 or spec.shape[at] not in (ANY, n_mels):
        layout = "[-1, mels, frames]" if time == "last" else "[-1, frames, mels]"
        raise InvalidManifest(
            f"tensor {spec.name!r} has shape {list(spec.shape)}, {step} gives {layout} with {n_mels} mels"
        )
    return spec.shape[3 - at]


class LogMel(msgspec.Struct, frozen=True, dict=True):
    """The logarithm of the energy in `n_mels` bands, for one frame of `n_fft` samples each `hop` samples.

    Gives [mels, frames], or [frames, mels] with `time: first`; (value - mean) / std is the last thing done to it.
    `center` puts frame i around sample i * hop, with the clip's ends as `edges` say; `drop_last` leaves the last one
    out, as Whisper does. `dynamic_range` raises what lies further below a clip's highest value.
    """

    side: ClassVar[Side] = "preprocess"
    rate: Rate
    n_fft: Annotated[int, msgspec.Meta(ge=16, le=65_536)] = 400
    hop: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 160
    n_mels: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 80
    window: mel.Window = "hann"
    window_length: Annotated[int, msgspec.Meta(ge=1)] | None = None
    power: Literal[1, 2] = 2
    low: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    high: float | None = None
    scale: mel.Scale = "slaney"
    norm: Literal["slaney", "none"] = "slaney"
    log: Literal["log10", "ln", "db"] = "log10"
    floor: Annotated[float, msgspec.Meta(gt=0)] = 1e-10
    dynamic_range: Annotated[float, msgspec.Meta(gt=0)] | None = None
    center: bool = True
    edges: Literal["reflect", "zeros"] = "reflect"
    drop_last: bool = False
    mean: float = 0.0
    std: float = 1.0
    time: Time = "last"
    input: str | None = None

    def preview(self, specs: Specs) -> Specs:
        name = choose(specs, self.input)
        self._check_options(name)
        spec = specs[name]
        kind, _ = read_sound(spec)
        frames = frames_of(spec, self.n_mels, self.time, "audio.log_mel")
        samples = ANY if frames == ANY else self._samples_for(frames)
        return {**specs, name: sound_spec(name, kind, self.rate, (spec.shape[0], samples))}

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.input)
        found = {**tensors, name: gathered([self._one(clip) for clip in tensors[name]])}
        note = lengths_note(name).name
        if note in tensors:  # padded before: its lengths are counted in samples
            found[note] = np.stack([self._frames_of(column) for column in tensors[note].T], axis=1)
        return found

    def _one(self, clip: Array) -> Array:
        shape, bank = self._tools
        samples = self._framed(clip.astype(np.float64))
        found = np.maximum(mel.spectrum(samples, shape, self.hop, self.power, bank), self.floor)
        if self.drop_last:
            found = found[:-1]
        found = np.log(found) if self.log == "ln" else np.log10(found) * (10 if self.log == "db" else 1)
        if self.dynamic_range is not None and found.size:
            found = np.maximum(found, found.max() - self.dynamic_range)
        found = (found - self.mean) / self.std
        return np.ascontiguousarray(found.T if self.time == "last" else found, np.float32)

    def _framed(self, samples: Array) -> Array:
        """What the frames are cut from: never shorter than one."""
        if self.center:
            half = self.n_fft // 2
            samples = np.pad(samples, half, mode="reflect" if self.edges == "reflect" else "constant")
        return np.pad(samples, (0, max(0, self.n_fft - len(samples))))

    def _frames_of(self, samples: Array) -> Array:
        inside = samples + (self.n_fft // 2 * 2 if self.center else 0) - self.n_fft
        return np.asarray(np.maximum(inside, 0) // self.hop + 1 - int(self.drop_last))

    def _samples_for(self, frames: int) -> int:
        """The fewest samples that give so many frames."""
        inside = (frames - 1 + int(self.drop_last)) * self.hop
        return inside + self.n_fft - (self.n_fft // 2 * 2 if self.center else 0)

    def _check_options(self, name: str) -> None:
        high = self.rate / 2 if self.high is None else self.high
        if not self.low < high <= self.rate / 2:
            raise InvalidManifest(
                f"low is {self.low} and high {high}, for tensor {name!r}: low must be below high, and high at most "
                f"rate / 2 = {self.rate / 2}"
            )
        if (self.window_length or 1) > self.n_fft:
            raise InvalidManifest(f"window_length is longer than n_fft, for tensor {name!r}")
        if not np.isfinite([self.mean, self.std]).all() or self.std == 0:
            raise InvalidManifest(f"mean and std must be finite, and std not zero, for tensor {name!r}")

    @cached_property
    def _tools(self) -> tuple[Array, Array]:
        """The window and the filters."""
        high = self.rate / 2 if self.high is None else self.high
        shape = mel.window(self.window, self.window_length or self.n_fft, self.n_fft)
        by_area = self.norm == "slaney"
        return shape, mel.filters(self.n_mels, self.n_fft, self.rate, self.low, high, self.scale, by_area)


def read_sound(spec: TensorSpec) -> tuple[str, int | None]:
    """Whether `spec` is `clips` or `sound`, which float32 is too; and the samples of a second, where they are known."""
    kind, _, rate = spec.dtype.partition("@")
    if kind in (CLIPS, SOUND):
        return kind, int(rate) if rate else None
    require_dtype(spec, ("float32",))
    if len(spec.shape) < 2:
        raise InvalidManifest(f"tensor {spec.name!r} has shape {list(spec.shape)}, sound has at least [-1, samples]")
    return SOUND, None


def sound_spec(name: str, kind: str, rate: int | None, shape: tuple[int, ...]) -> TensorSpec:
    return TensorSpec(name, kind if rate is None else f"{kind}@{rate}", shape)


def _one_channel(spec: TensorSpec) -> tuple[int, int]:
    if len(spec.shape) != 2:
        raise InvalidManifest(f"tensor {spec.name!r} has shape {list(spec.shape)}, one channel is [-1, samples]")
    return spec.shape[0], spec.shape[1]


def _require_rate(name: str, wanted: int | None, given: int) -> None:
    if wanted not in (None, given):
        raise InvalidManifest(
            f"tensor {name!r} takes {wanted} samples a second after this step, it gives {given}: make them equal"
        )


def _fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    return all(ANY in pair or pair[0] == pair[1] for pair in zip(shape, wanted, strict=True))


def gathered(clips: list[Array]) -> Array:
    """One array where all clips have one shape, else one array of arrays."""
    if len({clip.shape for clip in clips}) == 1:
        return np.stack(clips)
    made = np.empty(len(clips), dtype=object)
    for row, clip in enumerate(clips):
        made[row] = clip
    return made
