"""Encoded sounds, by their first bytes alone. Decodes nothing."""

from __future__ import annotations

from inference_engine.domain.errors import InvalidRequest

HEARABLE = "WAV, FLAC, Ogg or MP3"


def checked_sound(data: bytes, place: str, max_bytes: int) -> str:
    """The media type of an encoded sound within the limit; `place` is the field that holds it.

    Raises:
        InvalidRequest: it is empty, too large, or of a kind that is not read.
    """
    if not data:
        raise InvalidRequest(f"{place} is empty: send a sound ({HEARABLE})", param=place)
    if len(data) > max_bytes:
        raise InvalidRequest(
            f"{place} has {len(data)} bytes, a sound may have {max_bytes}: make it shorter", param=place
        )
    kind = _kind(data)
    if kind is None:
        raise InvalidRequest(f"{place} holds no sound that can be read: send {HEARABLE}", param=place)
    return kind


def _kind(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "audio/wav"
    if data[:4] == b"fLaC":
        return "audio/flac"
    if data[:4] == b"OggS":
        return "audio/ogg"
    if data[:3] == b"ID3" or (data[:1] == b"\xff" and data[1:2] >= b"\xe0" and data[1:3] != b"\xff\xff"):
        return "audio/mpeg"
    return None
