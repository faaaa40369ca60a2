"""Looks at encoded images before llama.cpp does, by their headers (`domain/images.py`). Decodes only WebP."""

from __future__ import annotations

from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.images import MAX_BYTES, MAX_PIXELS, READABLE, checked_head, header_size

__all__ = ["MAX_BYTES", "MAX_PIXELS", "READABLE", "checked_image", "header_size"]


def checked_image(data: bytes, field: str) -> bytes:
    """`data` when it is an image within the limits; WebP comes back as PNG, the others as they are.

    Raises:
        InvalidRequest: it is no image, damaged, or too large; the error names `field`.
    """
    checked_head(data, field)
    return _png_of_webp(data, field) if data[:4] == b"RIFF" else data


def _png_of_webp(data: bytes, field: str) -> bytes:
    try:
        from PIL import Image
    except ImportError:
        raise InvalidRequest(
            f"{field} holds a WebP image, which this server cannot read without Pillow: send PNG or JPEG, or "
            "pip install pillow",
            param=field,
        ) from None
    import io

    made = io.BytesIO()
    try:
        with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
            image.convert("RGB").save(made, "PNG", compress_level=1)
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{field} holds a WebP image that cannot be read: {error}", param=field) from None
    return made.getvalue()
