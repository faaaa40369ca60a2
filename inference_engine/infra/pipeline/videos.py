"""Preprocess steps for videos: `video.frames`, which samples clips, and `video.normalize`, which lays them out in
floats.

Between the two, clips are uint8 [-1, frames, height, width, 3] in RGB. Each file is decoded in a process of its own.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np

from inference_engine.domain.errors import InvalidManifest, InvalidTensor
from inference_engine.domain.model import TensorSpec
from inference_engine.domain.pipeline import FLOATS, Side, Specs, choose, require_dtype
from inference_engine.domain.tensors import Array, Tensors
from inference_engine.domain.video import Fit, FrameSize, VideoLimits, VideoSampling
from inference_engine.infra.media.containers import VideoRefused
from inference_engine.infra.media.decoder import Decoder, require_av

Length = Annotated[int, msgspec.Meta(ge=1, le=4096)]
_LIMITS = VideoLimits()


class Frames(msgspec.Struct, frozen=True):
    """The client sends video files as bytes; the model gets `count` pictures of each, `width` x `height`.

    Spread evenly over the whole video, or, with `every_s`, its first ones so many seconds apart. A video with fewer
    pictures repeats its last one.
    """

    side: ClassVar[Side] = "preprocess"
    count: Annotated[int, msgspec.Meta(ge=1, le=512)]
    width: Length
    height: Length
    every_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    fit: Fit = "cover"
    max_bytes: Annotated[int, msgspec.Meta(ge=1)] = _LIMITS.max_bytes
    max_s: Annotated[float, msgspec.Meta(gt=0)] = _LIMITS.max_s
    max_pixels: Annotated[int, msgspec.Meta(ge=1)] = _LIMITS.max_pixels
    decode_s: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    input: str | None = None

    def preview(self, specs: Specs) -> Specs:
        require_av()
        name = choose(specs, self.input)
        spec = specs[name]
        wanted = (self.count, self.height, self.width, 3)
        fits = spec.dtype == "uint8" and len(spec.shape) == 5
        if not fits or any(have not in (-1, want) for have, want in zip(spec.shape[1:], wanted, strict=True)):
            after = "; video.normalize after this step makes floats of the pictures" if spec.dtype in FLOATS else ""
            raise InvalidManifest(
                f"tensor {name!r} is {spec.dtype} {list(spec.shape)}, this step gives uint8 {[-1, *wanted]}{after}"
            )
        return {**specs, name: TensorSpec(name, "bytes", spec.shape[:1])}

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.input)
        files = tensors[name].tolist()
        made = np.empty((len(files), self.count, self.height, self.width, 3), np.uint8)
        for row, data in enumerate(files):
            if not isinstance(data, bytes):
                raise InvalidTensor(f"input {name!r} row {row} is text, send a video's bytes as they are", param=name)
            try:
                self._fill(made[row], data)
            except VideoRefused as error:
                raise InvalidTensor(f"input {name!r} row {row} holds {error}", param=name) from None
        return {**tensors, name: made}

    def _fill(self, clip: Array, data: bytes) -> None:
        """Decodes one file into `clip`."""
        limits = VideoLimits(self.max_bytes, self.max_s, self.max_pixels, 1_000_000, self.decode_s)
        even = self.every_s is None
        # With `every_s` the step wants the first `count`, and stops reading there.
        sampling = VideoSampling(self.every_s, self.count if even else None, max_frames=limits.max_frames)
        decoder = Decoder(data, sampling, FrameSize(width=self.width, height=self.height, fit=self.fit), limits)
        try:
            decoder.begin()
            at = 0
            for frame in decoder.frames():
                clip[at] = frame.pixels
                at += 1
                if at == self.count:
                    return
            if not at:
                raise VideoRefused("a video of which no picture can be decoded: send it again")
            clip[at:] = clip[at - 1]
        finally:
            decoder.close()


class Normalize(msgspec.Struct, frozen=True):
    """(value * scale - mean) / std for each channel, in floats, laid out as the model takes it."""

    side: ClassVar[Side] = "preprocess"
    scale: float = 1 / 255
    mean: float | tuple[float, float, float] = 0.0
    std: float | tuple[float, float, float] = 1.0
    layout: Literal["ncthw", "ntchw", "nthwc"] = "ncthw"
    to: Literal["float16", "float32", "float64"] = "float32"
    input: str | None = None

    def preview(self, specs: Specs) -> Specs:
        name = choose(specs, self.input)
        spec = specs[name]
        require_dtype(spec, (self.to,))
        at = self.layout.index("c")
        if len(spec.shape) != 5 or spec.shape[at] not in (-1, 3):
            raise InvalidManifest(
                f"tensor {name!r} has shape {list(spec.shape)}, {self.layout} needs five dimensions, of which "
                f"dimension {at} has 3 channels"
            )
        numbers = np.array([self.scale, *np.ravel(self.mean), *np.ravel(self.std)])
        if not np.isfinite(numbers).all() or not np.all(self.std):
            raise InvalidManifest(f"scale, mean and std must be finite, and std not zero, for tensor {name!r}")
        sizes = [spec.shape[self.layout.index(letter)] for letter in "nthw"]
        return {**specs, name: TensorSpec(name, "uint8", (*sizes, 3))}

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.input)
        kind = np.dtype(np.float64 if self.to == "float64" else np.float32)
        values = tensors[name] * kind.type(self.scale)
        values = (values - np.array(self.mean, kind)) / np.array(self.std, kind)
        found = values.transpose(["nthwc".index(letter) for letter in self.layout])
        return {**tensors, name: np.ascontiguousarray(found, dtype=self.to)}
