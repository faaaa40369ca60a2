"""How an image must be turned to stand upright, by its EXIF data (JEITA CP-3451, tag Orientation). Decodes nothing."""

from __future__ import annotations

import struct

_ORIENTATION = 0x0112
_SHORT = 3
_MOST_PIECES = 1000
"""Segments or chunks that are looked through: a hostile file has millions of empty ones."""
_SIDEWAYS = range(5, 9)


def lies_sideways(data: bytes) -> bool:
    """True where width and height change places when the image is turned upright. False for what cannot be read."""
    try:
        block = _block(data)
        return block is not None and _orientation(block) in _SIDEWAYS
    except (struct.error, IndexError):
        return False


def _block(data: bytes) -> bytes | None:
    """The TIFF structure that holds the EXIF data of a JPEG, PNG or WebP file."""
    if data.startswith(b"\xff\xd8"):
        return _in_jpeg(data)
    if data.startswith(b"\x89PNG"):
        return _in_chunks(data, 8, ">I4s", b"eXIf", trailer=4)
    if data[8:12] == b"WEBP":
        return _in_chunks(data, 12, "<4sI", b"EXIF", trailer=0)
    return None


def _in_jpeg(data: bytes) -> bytes | None:
    at = 2
    for _ in range(_MOST_PIECES):
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == 0xFFE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            return data[at + 10 : at + 2 + length]
        if marker >> 8 != 0xFF or marker in (0xFFDA, 0xFFD9):
            return None
        at += 1 if marker == 0xFFFF else 2 + length
    return None


def _in_chunks(data: bytes, at: int, head: str, wanted: bytes, trailer: int) -> bytes | None:
    for _ in range(_MOST_PIECES):
        first, second = struct.unpack_from(head, data, at)
        kind, length = (first, second) if isinstance(first, bytes) else (second, first)
        start = at + struct.calcsize(head)
        if kind == wanted:
            return data[start : start + length].removeprefix(b"Exif\0\0")
        at = start + length + (length % 2 if trailer == 0 else trailer)
    return None


def _orientation(block: bytes) -> int:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return 1
    (at,) = struct.unpack_from(order + "I", block, 4)
    (entries,) = struct.unpack_from(order + "H", block, at)
    for entry in range(min(entries, _MOST_PIECES)):
        tag, kind, _, value = struct.unpack_from(order + "HHIH", block, at + 2 + 12 * entry)
        if tag == _ORIENTATION:
            return int(value) if kind == _SHORT else 1
    return 1
