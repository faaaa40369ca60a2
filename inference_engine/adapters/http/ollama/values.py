"""Single values as Ollama writes them: durations, images, times, and names of models. Knows no endpoint."""

from __future__ import annotations

import base64
import binascii
import math
import re
from datetime import UTC, datetime

from inference_engine.adapters.http.decoding import shown
from inference_engine.domain.errors import InvalidRequest, ModelNotFound
from inference_engine.domain.model_store import LATEST, RemoteName
from inference_engine.domain.requests import ImagePart
from inference_engine.domain.results import Served
from inference_engine.services.models import ModelService

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?)(ns|us|µs|ms|s|m|h)")
_IMAGES = (
    (b"\x89PNG\r\n\x1a\n", 0, "image/png"),
    (b"\xff\xd8\xff", 0, "image/jpeg"),
    (b"WEBP", 8, "image/webp"),
    (b"GIF8", 0, "image/gif"),
    (b"BM", 0, "image/bmp"),
)


def keep_alive_s(value: str | float | None) -> float | None:
    """`5m`, `1h30m`, `300` or 300 (seconds), `-1` or any other negative one for ever, 0 for not at all.

    Raises:
        InvalidRequest: it is no duration.
    """
    if value is None:
        return None
    seconds = _duration(value.strip()) if isinstance(value, str) else float(value)
    if math.isnan(seconds):
        raise InvalidRequest(
            f"keep_alive is {shown(value)}: write a duration such as '5m', seconds, 0 to unload, or -1 to keep it",
            param="keep_alive",
        )
    return -1.0 if seconds < 0 or math.isinf(seconds) else seconds


def _duration(text: str) -> float:
    sign = -1.0 if text.startswith("-") else 1.0
    digits = text.lstrip("+-")
    if re.fullmatch(r"\d+(\.\d+)?", digits):
        return sign * float(digits)
    if not digits or _DURATION.sub("", digits):
        return math.nan
    return sign * sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(digits))


def image(text: str, place: str) -> ImagePart:
    """An image in base64.

    Raises:
        InvalidRequest: it is not base64, or not an image of a known kind.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        hint = ": send the part after the comma alone" if text.startswith("data:") else ""
        raise InvalidRequest(f"{place} is not valid base64{hint}", param=place) from None
    for magic, at, media_type in _IMAGES:
        if data[at : at + len(magic)] == magic:
            return ImagePart(data, media_type)
    raise InvalidRequest(f"{place} is not a PNG, JPEG, WebP, GIF or BMP image", param=place)


def now() -> str:
    """The time as answers carry it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def resolve(models: ModelService, name: str) -> Served:
    """The model that a name means: `name:version`, a route, or `host/owner/name:tag` as it was pulled.

    `name:latest` is the version of that name if there is one, else what `name` leads to.

    Raises:
        ModelNotFound; InvalidRequest.
    """
    if "/" in name:
        name = str(RemoteName.parse(name).local)
    base, _, version = name.partition(":")
    if version != LATEST:
        return models.resolve(name)
    try:
        return models.resolve(name)
    except ModelNotFound:
        try:
            return models.resolve(base)
        except ModelNotFound:
            raise ModelNotFound(
                f"model {name!r} not found: see /api/tags for those that are here", param="model"
            ) from None
