"""Looks at sound files before any decoder does: which format they are, and whether they end too early.

Decoders take a file that was cut for a shorter one, so each format's own account of its size is held to the bytes that
came. Knows the outlines of the formats and decodes nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

READABLE = "WAV, FLAC, MP3, OGG or Opus, M4A, WebM, AIFF or AAC"
_MAGIC: tuple[tuple[int, bytes, tuple[bytes, ...], str], ...] = (  # where, what, then one of these at 8, the reader
    (0, b"RIFF", (b"WAVE",), "wav"),
    (0, b"RF64", (b"WAVE",), "wav"),
    (0, b"FORM", (b"AIFF", b"AIFC"), "aiff"),
    (4, b"ftyp", (), "mov"),
    (0, b"OggS", (), "ogg"),
    (0, b"\x1a\x45\xdf\xa3", (), "matroska"),
)
_UNKNOWN_32 = (0, 0xFFFFFFFF)
_OGG_LAST = 0x04
_KBITS = {  # ISO/IEC 11172-3 and 13818-3: bits of a second by (MPEG 1, layer)
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_HERTZ = (44100, 48000, 32000)


def reader_of(data: bytes) -> str:
    """FFmpeg's name of the reader for this file, by its content. Raises `ValueError` for what is no known sound."""
    for at, magic, beside, reader in _MAGIC:
        if data.startswith(magic, at) and (not beside or data[8:12] in beside):
            return reader
    frames = data[_id3_size(data) : _id3_size(data) + 4]
    if frames == b"fLaC":
        return "flac"
    if data.startswith(b"ID3") or (len(frames) == 4 and frames[0] == 0xFF and frames[1] & 0xE0 == 0xE0):
        return "aac" if _is_adts(frames) else "mp3"
    raise ValueError(f"no sound that can be read: send {READABLE}")


def check_whole(data: bytes, reader: str) -> None:
    """Raises `ValueError` where the file says that it goes on after its last byte."""
    check = _CHECKS.get(reader)
    try:
        whole = check is None or check(data)
    except (struct.error, IndexError):
        whole = False
    if not whole:
        raise ValueError("a recording that is cut off: send it again")


def _is_adts(data: bytes) -> bool:
    return len(data) > 1 and data[0] == 0xFF and data[1] & 0xF6 == 0xF0


def _id3_size(data: bytes) -> int:
    """The bytes of an ID3v2 tag in front, 0 without one."""
    if not data.startswith(b"ID3") or len(data) < 10:
        return 0
    a, b, c, d = data[6:10]
    return 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if data[5] & 0x10 else 0)


def _wav(data: bytes) -> bool:
    at = 12
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        if kind == b"data":
            return size in _UNKNOWN_32 or at + 8 + size <= len(data)
        at += 8 + size + (size & 1)
    return False


def _aiff(data: bytes) -> bool:
    return 8 + int(struct.unpack_from(">I", data, 4)[0]) <= len(data)


def _ogg(data: bytes) -> bool:
    """Whether the pages follow each other to the end, and the last one says that it is (RFC 3533)."""
    at, flags = 0, 0
    while at < len(data):
        if data[at : at + 4] != b"OggS":
            return False
        flags, segments = data[at + 5], data[at + 26]
        table = data[at + 27 : at + 27 + segments]
        if len(table) < segments:
            return False
        at += 27 + segments + sum(table)
    return at == len(data) and bool(flags & _OGG_LAST)


def _mov(data: bytes) -> bool:
    at = 0
    while at + 8 <= len(data):
        size = int(struct.unpack_from(">I", data, at)[0])
        if size == 0:  # up to the end of the file
            return True
        if size == 1:
            size = int(struct.unpack_from(">Q", data, at + 8)[0])
        if size < 8:
            return False
        at += size
    return at == len(data)


def _matroska(data: bytes) -> bool:
    """Whether the segment fits, where it tells its size: a live recording does not (RFC 8794)."""
    header, size = _ebml_size(data, 4)
    at = header + size
    if data[at : at + 4] != b"\x18\x53\x80\x67":
        return False
    start, size = _ebml_size(data, at + 4)
    return size < 0 or start + size <= len(data)


def _ebml_size(data: bytes, at: int) -> tuple[int, int]:
    """Where the content begins, and how long it is; -1 where that is left open."""
    length = 9 - data[at].bit_length()
    if len(data) < at + length:
        raise IndexError(at)
    value = int.from_bytes(data[at : at + length], "big") & (1 << 7 * length) - 1
    return at + length, -1 if value == (1 << 7 * length) - 1 else value


def _mp3(data: bytes) -> bool:
    """Whether the last frame is there in full. What follows the frames (tags) is the decoder's business."""
    at = _id3_size(data)
    if at > len(data):
        return False
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] & 0xE0 == 0xE0:
        size = _frame_size(data[at + 1], data[at + 2])
        if not size:
            return True
        at += size
    return at <= len(data)


def _frame_size(second: int, third: int) -> int:
    """The bytes of an MPEG audio frame by its header, 0 where that cannot be told."""
    version, layer, bits, rate = second >> 3 & 3, 4 - (second >> 1 & 3), third >> 4, third >> 2 & 3
    if version == 1 or layer == 4 or bits in (0, 15) or rate == 3:
        return 0
    is_first = version == 3
    hertz = _HERTZ[rate] >> (0 if is_first else 1 if version == 2 else 2)
    bytes_ = 125 * _KBITS[is_first, layer][bits]  # of a second
    padded = third >> 1 & 1
    if layer == 1:
        return (12 * 8 * bytes_ // 8 // hertz + padded) * 4
    samples = 576 if layer == 3 and not is_first else 1152
    return samples * bytes_ // hertz + padded


_CHECKS: dict[str, Callable[[bytes], bool]] = {
    "wav": _wav,
    "aiff": _aiff,
    "ogg": _ogg,
    "mov": _mov,
    "matroska": _matroska,
    "mp3": _mp3,
}
