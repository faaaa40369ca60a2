"""JSON bodies into typed values, with errors that name the field and the remedy. Knows msgspec, no dialect."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from inference_engine.domain.errors import InvalidRequest, UnknownField

T = TypeVar("T")
_AT = re.compile(r"^(?P<problem>.*?)(?: - at `(?P<place>[^`]*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_SHOWN = 80


def decode(decoder: msgspec.json.Decoder[T], body: bytes | memoryview) -> T:
    """Decode a request body.

    Raises:
        InvalidRequest: it is no JSON, or a field is missing or of the wrong type; `param` is the field's place.
        UnknownField: it holds a field that is not known here.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise field_error(error) from None
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InvalidRequest(f"the request body is not valid JSON: {_lower(str(error))}") from None
    except RecursionError:
        raise InvalidRequest("the request body is nested too deeply: send flatter JSON") from None


def convert(value: object, kind: type[T], field: str, *, strict: bool = True) -> T:
    """Like `decode` for a part that was decoded already, found at `field`. Not `strict` reads numbers in text."""
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise field_error(error, field) from None
    except RecursionError:
        raise InvalidRequest(f"{field} is nested too deeply: send flatter JSON", param=field) from None


def field_error(error: msgspec.ValidationError, field: str = "") -> InvalidRequest:
    """msgspec's complaint in our words: `messages[0].role: expected ...`."""
    found = _AT.match(str(error))
    problem, place = (found["problem"], found["place"] or "") if found else (str(error), "")
    place = (field + place.removeprefix("$")).lstrip(".")
    if unknown := _UNKNOWN.match(problem):
        param = _join(place, unknown[1])
        return UnknownField(f"{param} is not a field that is supported here: leave it out", param=param)
    if missing := _MISSING.match(problem):
        param = _join(place, missing[1])
        return InvalidRequest(f"{param} is missing: it is required", param=param)
    if not place:
        return InvalidRequest(f"the request body is wrong: {_lower(problem)}")
    return InvalidRequest(f"{place}: {_lower(problem)}", param=place)


def shown(value: object) -> str:
    """`value` for a message, shortened."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _join(place: str, name: str) -> str:
    return f"{place}.{name[:_SHOWN]}" if place else name[:_SHOWN]


def _lower(text: str) -> str:
    return text if text.startswith("JSON") else text[:1].lower() + text[1:]
