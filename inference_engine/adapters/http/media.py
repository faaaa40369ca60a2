"""Files inside of JSON: base64, alone or in a `data:` URL. Fetches nothing."""

from __future__ import annotations

import binascii
import re

from inference_engine.domain.errors import InvalidRequest, UnknownField

DATA_URL = re.compile(r"data:([A-Za-z0-9.+/-]*)((?:;[^;,]*)*),", re.IGNORECASE)
"""The beginning of a `data:` URL: its media type, and its parameters."""
_FETCHED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{1,20}://")


def inline(text: str, place: str) -> bytes:
    """The file in base64 or in a `data:` URL; the media type a URL claims counts for nothing. `place` is the field.

    Raises:
        InvalidRequest: it is damaged or empty. UnknownField: it would have to be fetched.
    """
    if _FETCHED.match(text):
        raise UnknownField(
            f"{place} would have to be fetched, which this server does not do: send the file itself, in base64 or as "
            "data:image/png;base64,...",
            param=place,
        )
    if text[:5].lower() != "data:":
        return binary(text, place)
    found = DATA_URL.match(text)
    if found is None or not found[2].lower().endswith(";base64"):
        raise InvalidRequest(f"{place} must read data:TYPE;base64,...", param=place)
    return binary(text[found.end() :], place)


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
