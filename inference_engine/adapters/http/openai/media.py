"""Images and audio as they stand in a request: base64, nothing else. Knows no model, and fetches nothing."""

from __future__ import annotations

from inference_engine.adapters.http.media import DATA_URL, binary
from inference_engine.domain.errors import InvalidRequest, UnknownField
from inference_engine.domain.requests import AudioPart, ImagePart


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
    found = DATA_URL.match(url)
    if found is None or not found[2].lower().endswith(";base64"):
        raise InvalidRequest(f"{place} must read data:image/png;base64,...", param=place)
    media_type = found[1].lower()
    if not media_type.startswith("image/"):
        raise InvalidRequest(f"{place} is of type {media_type[:80]!r}, not an image", param=place)
    return ImagePart(binary(url[found.end() :], place), media_type)


def audio(data: str, form: str, place: str) -> AudioPart:
    """The sound in base64; `form` is its file format. Raises `InvalidRequest`."""
    return AudioPart(binary(data, place), f"audio/{form}")
