"""Images and audio as they stand in a request: base64, nothing else. Knows no model, and fetches nothing."""

from __future__ import annotations

import binascii
import re

from inference_engine.domain.errors import InvalidRequest, UnknownField
from inference_engine.domain.requests import AudioPart, ImagePart

_DATA_URL = re.compile(r"data:([A-Za-z0-9.+/-]*)((?:;[^;,]*)*),", re.IGNORECASE)


def image(url: str, place: str) -> ImagePart:
    """The image in a `data:` URL; `place` is the field.

    Raises:
        InvalidRequest: it is no such URL, no image type, or damaged base64. UnknownField: it would have to be fetched.
    """
    if url[:5].lower() != "data:":
        raise UnknownField(
            f"{place} would have to be fetched, which this server does not do: "
            "send the image itself, as data:image/png;base64,...",
            param=place,
        )
    found = _DATA_URL.match(url)
    if found is None or not found[2].lower().endswith(";base64"):
        raise InvalidRequest(f"{place} must read data:image/png;base64,...", param=place)
    media_type = found[1].lower()
    if not media_type.startswith("image/"):
        raise InvalidRequest(f"{place} is of type {media_type[:80]!r}, not an image", param=place)
    return ImagePart(binary(url[found.end() :], place), media_type)


def audio(data: str, form: str, place: str) -> AudioPart:
    """The sound in base64; `form` is its file format. Raises `InvalidRequest`."""
    return AudioPart(binary(data, place), f"audio/{form}")


def binary(text: str, place: str) -> bytes:
    """What base64 stands for, strictly: no other characters, the right padding, at least one byte.

    Raises:
        InvalidRequest
    """
    try:
        data = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise InvalidRequest(f"{place} is not valid base64: {error}", param=place) from None
    if not data:
        raise InvalidRequest(f"{place} holds no data", param=place)
    return data
