"""Encoded images, by their headers alone: what they are and how many pixels they claim. Decodes nothing.

Decoders allocate what a header promises, so a file of a few hundred bytes can ask for gigabytes; such a file is
refused here by its header.
"""

from __future__ import annotations

import struct

import msgspec

from inference_engine.domain.errors import InvalidRequest
from inference_engine.domain.exif import lies_sideways

MAX_BYTES = 32 << 20
MAX_PIXELS = 40_000_000
READABLE = "PNG, JPEG, GIF, BMP or WebP"
_FILL = 0xFFFF
_MOST_SEGMENTS = 5000  # a hostile file has millions of empty ones, each a step of this loop
_KINDS: tuple[tuple[bytes, int, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", 0, "image/png"),
    (b"\xff\xd8\xff", 0, "image/jpeg"),
    (b"GIF87a", 0, "image/gif"),
    (b"GIF89a", 0, "image/gif"),
    (b"BM", 0, "image/bmp"),
    (b"WEBP", 8, "image/webp"),
)
_FOREIGN: tuple[tuple[bytes, int, str], ...] = (
    (b"II*\0", 0, "a TIFF image"),
    (b"MM\0*", 0, "a TIFF image"),
    (b"ftypavif", 4, "an AVIF image"),
    (b"ftyphei", 4, "a HEIC image"),
    (b"ftypmif1", 4, "a HEIF image"),
    (b"\0\0\0\x0cJXL ", 0, "a JPEG XL image"),
    (b"\xff\x0a", 0, "a JPEG XL image"),
    (b"\0\0\x01\0", 0, "an icon"),
    (b"8BPS", 0, "a Photoshop file"),
    (b"%PDF-", 0, "a PDF document"),
    (b"<svg", 0, "an SVG drawing"),
    (b"<?xml", 0, "an XML document"),
    (b"<!DOCTYPE", 0, "an HTML page"),
    (b"<html", 0, "an HTML page"),
    (b"PK\x03\x04", 0, "a ZIP archive"),
    (b"\x1f\x8b", 0, "a gzip file"),
    (b"ftyp", 4, "a video"),
    (b"\x1aE\xdf\xa3", 0, "a video"),
    (b"AVI ", 8, "a video"),
    (b"WAVE", 8, "a sound"),
    (b"ID3", 0, "a sound"),
    (b"fLaC", 0, "a sound"),
    (b"OggS", 0, "a sound"),
)


class ImageHead(msgspec.Struct, frozen=True):
    """What an image's header says. Width and height are those of the upright image, as its EXIF data turn it."""

    media_type: str
    width: int
    height: int


def checked_head(data: bytes, place: str, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS) -> ImageHead:
    """The header of an encoded image within the limits; `place` is the field that holds it.

    Raises:
        InvalidRequest: it is empty, no image, of a kind that is not read, cut off in its header, or too large.
    """
    if not data:
        raise InvalidRequest(f"{place} is empty: send an image ({READABLE})", param=place)
    if len(data) > max_bytes:
        raise InvalidRequest(
            f"{place} has {len(data)} bytes, an image may have {max_bytes}: make it smaller", param=place
        )
    try:
        width, height = header_size(data)
    except (struct.error, IndexError):
        raise InvalidRequest(f"{place} holds an image that is cut off: send it again", param=place) from None
    except ValueError:
        raise InvalidRequest(
            f"{place} holds {foreign_kind(data)}, not an image that can be read: send {READABLE}", param=place
        ) from None
    if width < 1 or height < 1 or width * height > max_pixels:
        raise InvalidRequest(
            f"{place} holds an image of {width} x {height} pixels, it must have 1 to {max_pixels}: make it smaller",
            param=place,
        )
    if lies_sideways(data):
        width, height = height, width
    return ImageHead(_kind(data, _KINDS) or "", width, height)


def foreign_kind(data: bytes) -> str:
    """What a file is that is no image of ours, in words, as far as its first bytes tell."""
    found = _kind(data[:64].lstrip() if data[:64].lstrip()[:1] == b"<" else data, _FOREIGN)
    return found or "a file of an unknown kind"


def _kind(data: bytes, kinds: tuple[tuple[bytes, int, str], ...]) -> str | None:
    return next((name for mark, at, name in kinds if data[at : at + len(mark)] == mark), None)


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
    """From the frame header, which stands behind segments of any length and fill bytes (ITU T.81, B.1)."""
    at = 2
    for _ in range(_MOST_SEGMENTS):
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == _FILL:
            at += 1
            continue
        if marker >> 8 != 0xFF or length < 2:
            raise ValueError("no JPEG marker where one must be")
        if marker & 0xF0 == 0xC0 and marker not in (0xFFC4, 0xFFC8, 0xFFCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 2 + length
    raise ValueError("no frame among the first segments")


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
