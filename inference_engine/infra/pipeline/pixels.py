"""Encoded images to pixels with Pillow, within limits. Knows no tensors and no pipeline."""

from __future__ import annotations

import io
import struct
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from inference_engine.domain.errors import RuntimeMissing
from inference_engine.domain.tensors import Array
from inference_engine.infra.images import READABLE, header_size

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP")
_16_TO_8 = 257
_KEPT_BLOCKS = 2
"""Of the memory of images, up to 16 MB each; taking it from the system anew costs more than to decode a photograph."""


def require_pillow() -> None:
    """Raises `RuntimeMissing` where Pillow is not installed."""
    try:
        import PIL.Image  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise RuntimeMissing(
            f"images need Pillow, which cannot be imported ({error}): pip install 'inference-engine[images]'"
        ) from None


def decode(data: bytes, max_pixels: int, ground: tuple[int, int, int]) -> Image:
    """The first picture of an image file in RGB, upright as its EXIF data say.

    What is transparent shows `ground`. 16-bit grey is scaled to 8 bits, other colour spaces are converted.

    Raises:
        ValueError: it is no image, damaged, or of more than `max_pixels`; the text goes on after "holds".
    """
    try:
        size = header_size(data)
    except (struct.error, IndexError):
        raise ValueError("an image that is cut off: send it again") from None
    except ValueError:
        raise ValueError(f"no image that can be read: send {READABLE}") from None
    _check_size(*size, max_pixels)
    from PIL import Image, ImageOps

    _keep_memory()
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_size(image.width, image.height, max_pixels)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)  # else it is copied, turned or not
            return _rgb(image, ground)
    except (_TooLarge, MemoryError):
        raise
    except Exception as error:  # the border to Pillow, whose decoders raise nearly anything for damaged files
        raise ValueError(f"an image that cannot be read: {error or type(error).__name__}") from None


def size_of(picture: Array | Image) -> tuple[int, int]:
    """Width and height."""
    return (picture.shape[1], picture.shape[0]) if isinstance(picture, np.ndarray) else picture.size


def resized(picture: Array | Image, width: int, height: int, method: str) -> Array:
    """Pixels in another size, as Pillow does it: over the whole area of the pixels that become one."""
    from PIL import Image

    if size_of(picture) == (width, height):
        return np.asarray(picture)
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    return np.asarray(picture.resize((width, height), Image.Resampling[method.upper()]))


@cache
def _keep_memory() -> None:
    """Once in each process that decodes."""
    from PIL import Image

    Image.core.set_blocks_max(_KEPT_BLOCKS)


class _TooLarge(ValueError):
    """More pixels than are allowed."""


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1 or width * height > max_pixels:
        raise _TooLarge(f"an image of {width} x {height} pixels, it must have 1 to {max_pixels}: make it smaller")


def _rgb(image: Image, ground: tuple[int, int, int]) -> Image:
    import PIL.Image

    if image.mode.startswith(("I", "F")):
        grey: Any = np.asarray(image)
        eight = np.clip(np.rint(grey / _16_TO_8), 0, 255).astype(np.uint8)
        return PIL.Image.fromarray(eight).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or image.has_transparency_data:
        below = PIL.Image.new("RGBA", image.size, (*ground, 255))
        image = PIL.Image.alpha_composite(below, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")
