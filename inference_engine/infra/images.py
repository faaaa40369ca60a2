"""Looks at encoded images before any decoder does: what they are and how many pixels they claim. Decodes only WebP.

Decoders allocate what a header promises, so a file of a few hundred bytes can ask for gigabytes; such a file is
refused here by its header alone.
"""

from __future__ import annotations

import struct

from inference_engine.domain.errors import InvalidRequest

MAX_BYTES = 32 << 20
MAX_PIXELS = 40_000_000
READABLE = "PNG, JPEG, GIF, BMP or WebP"


def checked_image(data: bytes, field: str) -> bytes:
    """`data` when it is an image within the limits; WebP comes back as PNG, the others as they are.

    Raises:
        InvalidRequest: it is no image, damaged, or too large; the error names `field`.
    """
    if len(data) > MAX_BYTES:
        raise InvalidRequest(
            f"{field} holds an image of {len(data)} bytes, at most {MAX_BYTES} are taken: make it smaller", param=field
        )
    try:
        width, height = header_size(data)
    except (struct.error, IndexError):
        raise InvalidRequest(f"{field} holds an image that is cut off: send it again", param=field) from None
    except ValueError:
        raise InvalidRequest(
            f"{field} holds no image that can be read: send {READABLE}, encoded in base64", param=field
        ) from None
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise InvalidRequest(
            f"{field} holds an image of {width} x {height} pixels, it must have 1 to {MAX_PIXELS}", param=field
        )
    return _png_of_webp(data, field) if data[:4] == b"RIFF" else data


def header_size(data: bytes) -> tuple[int, int]:
    """Width and height by the header. Raises `ValueError` for what is no known image; `struct.error`, `IndexError`."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        if data[12:16] != b"IHDR" or b"IDAT" not in data:
            raise struct.error("no image data")
        return struct.unpack_from(">II", data, 16)
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg_size(data)
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return struct.unpack_from("<HH", data, 6)
    if data.startswith(b"BM"):
        width, height = struct.unpack_from("<ii", data, 18)
        return abs(width), abs(height)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp_size(data)
    raise ValueError("no known image")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """From the frame header, which stands behind segments of any length (ITU T.81, B.1)."""
    at = 2
    while True:
        marker, length = struct.unpack_from(">HH", data, at)
        if marker >> 8 != 0xFF or length < 2:
            raise ValueError("no JPEG marker where one must be")
        if marker & 0xF0 == 0xC0 and marker not in (0xFFC4, 0xFFC8, 0xFFCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 2 + length


def _webp_size(data: bytes) -> tuple[int, int]:
    """From the first chunk (RFC 9649)."""
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


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
