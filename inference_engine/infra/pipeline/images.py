"""Preprocess steps for images: `image.decode`, `image.resize`, `image.crop`, `image.letterbox`, `image.normalize`.

Between decoding and normalizing, images are uint8 [height, width, 3] in RGB, each of its own size or all of one. Where
a pixel of an image came from is kept in a note (see `placement`), for boxes on their way back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np

from inference_engine.domain.errors import InvalidManifest, InvalidTensor
from inference_engine.domain.model import TensorSpec
from inference_engine.domain.pipeline import FLOATS, IMAGE, NOTE, Side, Specs, Step, choose, require_dtype
from inference_engine.domain.tensors import Array, Tensors
from inference_engine.infra.images import MAX_BYTES, MAX_PIXELS
from inference_engine.infra.pipeline import pixels

if TYPE_CHECKING:
    from PIL.Image import Image

Length = Annotated[int, msgspec.Meta(ge=1, le=8192)]
Level = Annotated[int, msgspec.Meta(ge=0, le=255)]
Filter = Literal["nearest", "box", "bilinear", "bicubic", "lanczos"]
Placing = tuple[float, float, float, float]
"""An image's step from old to new places: x scale, y scale, x shift, y shift; new = old * scale + shift."""
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def placement(name: str) -> str:
    """The note of the images `name`: float64 [-1, 6], for each the scales and shifts of x and y, then width, height.

    place in the image now = place in the original * scale + shift; width and height are the upright original's.
    """
    return f"{NOTE}{name}"


class Decode(msgspec.Struct, frozen=True):
    """The client sends image files as bytes. At most `max_bytes` and `max_pixels` each, `max_batch_pixels` together."""

    side: ClassVar[Side] = "preprocess"
    max_bytes: Annotated[int, msgspec.Meta(ge=1)] = MAX_BYTES
    max_pixels: Annotated[int, msgspec.Meta(ge=1, le=MAX_PIXELS)] = MAX_PIXELS
    max_batch_pixels: Annotated[int, msgspec.Meta(ge=1)] = 4 * MAX_PIXELS
    background: tuple[Level, Level, Level] = (255, 255, 255)
    input: str | None = None

    def preview(self, specs: Specs) -> Specs:
        pixels.require_pillow()
        name = choose(specs, self.input)
        spec = specs[name]
        if spec.dtype != IMAGE:
            raise InvalidManifest(
                f"tensor {name!r} is {spec.dtype} {list(spec.shape)}, images have different sizes: put image.resize, "
                "image.crop or image.letterbox after image.decode, and image.normalize where the model takes floats"
            )
        note = TensorSpec(placement(name), "float64", (*spec.shape, 6))
        return {**specs, name: TensorSpec(name, "bytes", spec.shape), note.name: note}

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.input)
        found = [np.asarray(picture) for picture in self.pictures(tensors, name)]
        notes = np.array([(1, 1, 0, 0, image.shape[1], image.shape[0]) for image in found], np.float64)
        return {**tensors, name: _ragged(found), placement(name): notes}

    def joined(self, following: object) -> Step | None:
        """Pillow can change the size of what it has decoded before that becomes an array."""
        if isinstance(following, Resize | Letterbox) and following.input == self.input:
            return DecodeAndResize(self, following)
        return None

    def pictures(self, tensors: Tensors, name: str) -> Iterator[Image]:
        """The image of each row. Raises `InvalidTensor`."""
        left = self.max_batch_pixels
        for row, data in enumerate(tensors[name].tolist()):
            picture = self._decoded(data, name, row)
            left -= picture.width * picture.height
            if left < 0:
                raise InvalidTensor(
                    f"input {name!r} holds more than {self.max_batch_pixels} pixels in all: send fewer images at once",
                    param=name,
                )
            yield picture

    def _decoded(self, data: object, name: str, row: int) -> Image:
        if not isinstance(data, bytes):
            raise InvalidTensor(f"input {name!r} row {row} is text, send an image's bytes as they are", param=name)
        if len(data) > self.max_bytes:
            raise InvalidTensor(
                f"input {name!r} row {row} has {len(data)} bytes, an image may have {self.max_bytes}: make it smaller",
                param=name,
            )
        try:
            return pixels.decode(data, self.max_pixels, self.background)
        except ValueError as error:
            raise InvalidTensor(f"input {name!r} row {row} holds {error}", param=name) from None


class Resize(msgspec.Struct, frozen=True):
    """To `width` x `height`, whatever the proportions; or to a shorter side of `shorter`, keeping them."""

    side: ClassVar[Side] = "preprocess"
    width: Length | None = None
    height: Length | None = None
    shorter: Length | None = None
    filter: Filter = "bilinear"
    input: str | None = None

    def preview(self, specs: Specs) -> Specs:
        pixels.require_pillow()
        name = choose(specs, self.input)
        if (self.width is None) != (self.height is None) or (self.width is None) == (self.shorter is None):
            raise InvalidManifest(f"give either width and height, or shorter, for tensor {name!r}")
        if self.width is not None and self.height is not None:
            return _of_any_size(specs, name, self.width, self.height)
        if specs[name].dtype != IMAGE:
            raise InvalidManifest(
                f"shorter leaves images in different sizes, for tensor {name!r}: put image.crop after it"
            )
        return specs

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.input)
        return _each(tensors, name, self.sized, ragged=self.ragged)

    @property
    def ragged(self) -> bool:
        """Whether images have different sizes afterwards."""
        return self.shorter is not None

    def sized(self, image: Array | Image) -> tuple[Array, Placing]:
        """Raises `ValueError` for an image that cannot have that size."""
        wide, high = pixels.size_of(image)
        if self.width is not None and self.height is not None:
            width, height = self.width, self.height
        else:
            scale = (self.shorter or 1) / min(high, wide)
            width, height = max(1, round(wide * scale)), max(1, round(high * scale))
            if width * height > MAX_PIXELS:
                raise ValueError(f"an image of {wide} x {high} pixels, which is too long and thin: cut it")
        return pixels.resized(image, width, height, self.filter), (width / wide, height / high, 0.0, 0.0)


class Crop(msgspec.Struct, frozen=True):
    """The middle `width` x `height` pixels; where an image is smaller, `fill` stands around it."""

    side: ClassVar[Side] = "preprocess"
    width: Length
    height: Length
    fill: Level = 0
    input: str | None = None

    def preview(self, specs: Specs) -> Specs:
        return _of_any_size(specs, choose(specs, self.input), self.width, self.height)

    def apply(self, tensors: Tensors) -> Tensors:
        return _each(tensors, choose(tensors, self.input), self._one)

    def _one(self, image: Array) -> tuple[Array, Placing]:
        return _centred(image, self.width, self.height, self.fill)


class Letterbox(msgspec.Struct, frozen=True):
    """The whole image as large as fits in `width` x `height`, in the middle, `fill` around it; proportions are kept."""

    side: ClassVar[Side] = "preprocess"
    width: Length
    height: Length
    fill: Level = 114
    filter: Filter = "bilinear"
    input: str | None = None
    ragged: ClassVar[bool] = False

    def preview(self, specs: Specs) -> Specs:
        pixels.require_pillow()
        return _of_any_size(specs, choose(specs, self.input), self.width, self.height)

    def apply(self, tensors: Tensors) -> Tensors:
        return _each(tensors, choose(tensors, self.input), self.sized)

    def sized(self, image: Array | Image) -> tuple[Array, Placing]:
        wide, high = pixels.size_of(image)
        scale = min(self.width / wide, self.height / high)
        width = min(self.width, max(1, round(wide * scale)))
        height = min(self.height, max(1, round(high * scale)))
        small = pixels.resized(image, width, height, self.filter)
        placed, (_, _, left, top) = _centred(small, self.width, self.height, self.fill)
        return placed, (width / wide, height / high, left, top)


class DecodeAndResize:
    """`Decode` and the step after it at once, which spares each image of full size two copies."""

    side: ClassVar[Side] = "preprocess"

    def __init__(self, decode: Decode, sizing: Resize | Letterbox) -> None:
        self._decode = decode
        self._sizing = sizing

    def preview(self, specs: Specs) -> Specs:
        return self._decode.preview(self._sizing.preview(specs))

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self._decode.input)
        found: list[Array] = []
        notes = np.empty((len(tensors[name]), 6), np.float64)
        for row, picture in enumerate(self._decode.pictures(tensors, name)):
            try:
                changed, placing = self._sizing.sized(picture)
            except ValueError as error:
                raise InvalidTensor(f"input {name!r} row {row} holds {error}", param=name) from None
            notes[row] = (*placing, picture.width, picture.height)
            found.append(changed)
        return {**tensors, name: _ragged(found) if self._sizing.ragged else np.stack(found), placement(name): notes}


class Normalize(msgspec.Struct, frozen=True):
    """(value * scale - mean) / std for each channel, in floats, laid out as the model takes it."""

    side: ClassVar[Side] = "preprocess"
    scale: float = 1 / 255
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    layout: Literal["nchw", "nhwc"] = "nchw"
    channels: Literal["rgb", "bgr", "grey"] = "rgb"
    input: str | None = None
    to: Literal["float16", "float32", "float64"] = "float32"

    def preview(self, specs: Specs) -> Specs:
        name = choose(specs, self.input)
        spec = specs[name]
        require_dtype(spec, (self.to,))
        count = 1 if self.channels == "grey" else 3
        at = 1 if self.layout == "nchw" else 3
        if len(spec.shape) != 4 or spec.shape[at] not in (-1, count):
            raise InvalidManifest(
                f"tensor {name!r} has shape {list(spec.shape)}, {self.layout} with {self.channels} needs four "
                f"dimensions, of which dimension {at} has {count} channels"
            )
        for option, values in (("mean", self.mean), ("std", self.std), ("scale", self.scale)):
            _per_channel(option, values, count, name)
        rows, *sizes = spec.shape
        del sizes[at - 1]
        return {**specs, name: TensorSpec(name, "uint8", (rows, *sizes, 3))}

    def apply(self, tensors: Tensors) -> Tensors:
        name = choose(tensors, self.input)
        given = tensors[name]
        values = np.float64 if self.to == "float64" else np.float32
        count = 1 if self.channels == "grey" else 3
        mean, std = (np.broadcast_to(np.array(numbers, values), count) for numbers in (self.mean, self.std))
        scale = values(self.scale)
        found = np.empty((len(given), count, *given.shape[1:3]), values)
        for channel in range(count):  # each by itself, as numpy is slow along an axis of three
            plane = found[:, channel]
            plane[...] = self._plane(given, channel, values)
            plane *= scale
            plane -= mean[channel]
            plane /= std[channel]
        if self.layout == "nhwc":
            found = found.transpose(0, 2, 3, 1)
        return {**tensors, name: np.ascontiguousarray(found, dtype=self.to)}

    def _plane(self, given: Array, channel: int, values: type[np.floating[Any]]) -> Array:
        """One channel of what the model takes, [rows, height, width], not yet scaled."""
        if self.channels == "grey":
            return given.astype(values) @ np.array(_LUMA, values)
        return given[..., 2 - channel if self.channels == "bgr" else channel]


def _per_channel(option: str, values: float | tuple[float, ...], count: int, name: str) -> None:
    numbers = np.asarray(values, np.float64)
    if numbers.ndim and len(numbers) != count:
        raise InvalidManifest(f"{option} has {len(numbers)} numbers, tensor {name!r} has {count} channels")
    if not np.isfinite(numbers).all() or (option == "std" and not numbers.all()):
        raise InvalidManifest(f"{option} must be finite, and std not zero, for tensor {name!r}")


def _of_any_size(specs: Specs, name: str, width: int, height: int) -> Specs:
    """Images of any size become images of this one: what goes in, when `specs` fit what comes out."""
    spec = specs[name]
    if spec.dtype == IMAGE:
        return specs
    wanted = (height, width, 3)
    fits = spec.dtype == "uint8" and len(spec.shape) == 4
    if not fits or any(have not in (-1, want) for have, want in zip(spec.shape[1:], wanted, strict=True)):
        after = "; image.normalize after this step makes floats of the pixels" if spec.dtype in FLOATS else ""
        raise InvalidManifest(
            f"tensor {name!r} is {spec.dtype} {list(spec.shape)}, this step gives uint8 "
            f"[-1, {height}, {width}, 3]{after}"
        )
    return {**specs, name: TensorSpec(name, IMAGE, spec.shape[:1])}


def _each(
    tensors: Tensors, name: str, change: Callable[[Array], tuple[Array, Placing]], ragged: bool = False
) -> Tensors:
    """Every image changed, and its note with it."""
    found: list[Array] = []
    notes = tensors[placement(name)].copy()
    for row, image in enumerate(tensors[name]):
        try:
            changed, placing = change(image)
        except ValueError as error:
            raise InvalidTensor(f"input {name!r} row {row} holds {error}", param=name) from None
        scale, shift = np.array(placing[:2]), np.array(placing[2:])
        notes[row, 2:4] = notes[row, 2:4] * scale + shift
        notes[row, :2] *= scale
        found.append(changed)
    return {**tensors, name: _ragged(found) if ragged else np.stack(found), placement(name): notes}


def _centred(image: Array, width: int, height: int, fill: int) -> tuple[Array, Placing]:
    """The image in the middle of `width` x `height`, cut or with `fill` around it."""
    high, wide = image.shape[:2]
    left, top = (width - wide) // 2, (height - high) // 2
    made = np.full((height, width, 3), fill, np.uint8)
    part = image[max(0, -top) : max(0, -top) + height, max(0, -left) : max(0, -left) + width]
    made[max(0, top) : max(0, top) + part.shape[0], max(0, left) : max(0, left) + part.shape[1]] = part
    return made, (1.0, 1.0, float(left), float(top))


def _ragged(images: list[Array]) -> Array:
    made = np.empty(len(images), dtype=object)
    for row, image in enumerate(images):
        made[row] = image
    return made
