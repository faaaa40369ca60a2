"""Decodes the manifest's `options` into a runtime's own type, so that a misspelt option is an error with its name."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from inference_engine.domain.errors import InvalidManifest

T = TypeVar("T", bound=msgspec.Struct)


def decode_options(options: dict[str, Any], kind: type[T], runtime: str) -> T:
    """`options` as a `kind`.

    Raises:
        InvalidManifest: an option is unknown, of a wrong type or out of range; the message lists those there are.
    """
    known = ", ".join(kind.__struct_encode_fields__)
    unknown = sorted(options.keys() - set(kind.__struct_encode_fields__))
    if unknown:
        raise InvalidManifest(
            f"options.{unknown[0]} is not an option of the {runtime} runtime; it takes: {known}",
            param=f"options.{unknown[0]}",
        )
    try:
        return msgspec.convert(options, kind)
    except msgspec.ValidationError as error:
        field = str(error).rpartition("`$.")[2].rstrip("`") if "`$." in str(error) else ""
        name = f"options.{field}" if field else "options"
        raise InvalidManifest(f"{name}: {str(error).split(' - at')[0]} ({runtime} runtime)", param=name) from None
