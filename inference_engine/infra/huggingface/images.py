"""Decodes the images of a request with Pillow: anything else, or one that is too large, is refused before it costs."""

from __future__ import annotations

import io
import warnings
from typing import Any

from inference_engine.domain.errors import InvalidRequest, RuntimeMissing
from inference_engine.infra.images import MAX_BYTES, READABLE

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def decode_image(data: bytes, max_pixels: int, field: str) -> Any:
    """An RGB `PIL.Image`; of an animation its first frame. `max_pixels` is width times height.

    Raises:
        InvalidRequest: not an image of a known format, damaged, or too large; names `field`.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise RuntimeMissing(f"images need Pillow ({error}): pip install pillow") from error
    if len(data) > MAX_BYTES:
        raise InvalidRequest(f"the image has {len(data)} bytes, at most {MAX_BYTES} are read", param=field)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # held to our own limit below
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            width, height = image.size
            if width * height > max_pixels:
                raise InvalidRequest(
                    f"the image has {width} x {height} pixels, at most {max_pixels} are read: make it smaller",
                    param=field,
                )
            return ImageOps.exif_transpose(image).convert("RGB")
    except InvalidRequest:
        raise
    except Exception as error:  # on damaged files the decoders raise what they like
        raise InvalidRequest(f"the image cannot be decoded ({error}): send {READABLE}", param=field) from None
