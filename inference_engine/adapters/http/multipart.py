"""Form data with files (RFC 7578), read piece by piece, so that a file never has to fit into memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from inference_engine.adapters.http.exchange import Exchange
from inference_engine.domain.errors import InvalidRequest

MAX_PARTS = 64


class Part(msgspec.Struct):
    """The beginning of a part: its field, and of a file the client's name for it."""

    field: str
    filename: str | None = None


class _Reading:
    """What the parser has found and nobody has taken yet."""

    def __init__(self) -> None:
        self.found: list[Part | bytes] = []
        self.complete = False
        self._name = bytearray()
        self._value = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._parts = 0

    def callbacks(self) -> dict[str, Any]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header,
            "on_headers_finished": self._opened,
            "on_part_data": lambda data, start, end: self.found.append(bytes(data[start:end])),
            "on_end": self._ended,
        }

    def _begin(self) -> None:
        self._headers = {}
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InvalidRequest(f"the form has more than {MAX_PARTS} parts")

    def _header(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _opened(self) -> None:
        from python_multipart.multipart import parse_options_header

        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if b"name" not in options:
            raise InvalidRequest("a part of the form has no name: every part needs a Content-Disposition with one")
        filename = options.get(b"filename")
        self.found.append(
            Part(
                options[b"name"].decode(errors="replace"),
                None if filename is None else filename.decode(errors="replace"),
            )
        )

    def _ended(self) -> None:
        self.complete = True


async def parts(exchange: Exchange) -> AsyncGenerator[Part | bytes]:
    """The parts of the request's form: each `Part`, then the pieces of its content.

    Raises:
        InvalidRequest: the body is no such form, or is cut short. ClientGone; HttpError.
    """
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    kind, options = parse_options_header(exchange.headers.get(b"content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise InvalidRequest("the body must be multipart/form-data with a boundary: send the file as a form upload")
    reading = _Reading()
    try:
        parser = MultipartParser(options[b"boundary"], reading.callbacks())  # type: ignore[arg-type] # its TypedDict
        async for piece in exchange.pieces():
            parser.write(piece)
            for found in reading.found:
                yield found
            reading.found.clear()
    except FormParserError as error:
        raise InvalidRequest(f"the body is not well-formed multipart/form-data: {error}") from None
    if not reading.complete:
        raise InvalidRequest("the form is cut short: its closing boundary never came")
