"""Form data with files (RFC 7578), read piece by piece, so that a file never has to fit into memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import msgspec

from inference_engine.adapters.http.exchange import Exchange, HttpError
from inference_engine.domain.errors import InvalidRequest

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS = 64


class Part(msgspec.Struct):
    """The beginning of a part: its field, and of a file the client's name for it and the type it says it has."""

    field: str
    filename: str | None = None
    content_type: str = ""


class FormReader:
    """Takes a body in pieces of any size; `feed` gives each `Part`, then the pieces of its content."""

    def __init__(self, exchange: Exchange) -> None:
        """Raises `HttpError`: the body is not multipart/form-data."""
        from python_multipart.multipart import MultipartParser, parse_options_header

        kind, options = parse_options_header(exchange.headers.get(b"content-type"))
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not boundary:
            problem = "send the body as multipart/form-data with a boundary, as the clients do"
            raise HttpError(415, "unknown_content_type", problem)
        self._parser = MultipartParser(boundary, self._callbacks())
        self._found: list[Part | bytes] = []
        self._complete = False
        self._name = bytearray()
        self._value = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._parts = 0

    def feed(self, piece: bytes) -> list[Part | bytes]:
        """What `piece` completes. Raises `InvalidRequest`: the form is damaged."""
        from python_multipart.exceptions import FormParserError

        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise InvalidRequest(f"the form is damaged: {error}") from None
        found, self._found = self._found, []
        return found

    def finish(self) -> None:
        """The body has ended. Raises `InvalidRequest`: the form has not."""
        if not self._complete:
            raise InvalidRequest("the form is cut short: its last boundary is missing")

    def _callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header,
            "on_headers_finished": self._opened,
            "on_part_data": lambda data, start, end: self._found.append(bytes(memoryview(data)[start:end])),
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
        name, filename = options.get(b"name", b"").decode(errors="replace"), options.get(b"filename")
        if not name:
            raise InvalidRequest("a part of the form has no name")
        kind = self._headers.get(b"content-type", b"").decode("latin-1")
        self._found.append(Part(name, None if filename is None else filename.decode(errors="replace"), kind))

    def _ended(self) -> None:
        self._complete = True


async def parts(exchange: Exchange) -> AsyncGenerator[Part | bytes]:
    """The parts of the request's form: each `Part`, then the pieces of its content.

    Raises:
        InvalidRequest: the form is damaged or cut short. ClientGone; HttpError.
    """
    reader = FormReader(exchange)
    async for piece in exchange.pieces():
        for found in reader.feed(piece):
            yield found
    reader.finish()
