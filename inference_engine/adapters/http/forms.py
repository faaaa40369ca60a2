"""Bodies of type multipart/form-data: fields and files, whole in memory, bounded by `max_body_bytes`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from inference_engine.adapters.http.exchange import Exchange, HttpError
from inference_engine.domain.errors import InvalidRequest

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS = 256
_LONG_BYTES = 1 << 20


class Upload(msgspec.Struct, frozen=True):
    """A file of a form; its name is the client's and must not be trusted as a path."""

    filename: str
    content_type: str
    data: bytes


class Form(msgspec.Struct, frozen=True):
    """The parts of a form by name. A name may come several times."""

    fields: dict[str, list[str]]
    files: dict[str, list[Upload]]

    def file(self, name: str) -> Upload:
        """The one file of that name. Raises `InvalidRequest`."""
        found = self.files.get(name, [])
        if len(found) != 1:
            problem = "is missing: upload it as a file of the form" if not found else "came several times: upload one"
            raise InvalidRequest(f"{name} {problem}", param=name)
        return found[0]


async def form_of(exchange: Exchange) -> Form:
    """The form in the body of a request.

    Raises:
        HttpError: the body is not multipart/form-data, or too large. InvalidRequest: it is damaged.
    """
    from python_multipart.multipart import parse_options_header

    kind, options = parse_options_header(exchange.header(b"content-type"))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise HttpError(415, "unknown_content_type", "send the body as multipart/form-data, as the clients do")
    body = await exchange.body()
    if len(body) < _LONG_BYTES:
        return _parsed(boundary, body)
    return await asyncio.to_thread(_parsed, boundary, body)  # 60 MB take a third of a second


def _parsed(boundary: bytes, body: bytes) -> Form:
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser

    parts = _Parts()
    try:
        parser = MultipartParser(boundary, parts.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest(f"the form is damaged: {error}") from None
    if not parts.complete:
        raise InvalidRequest("the form is cut short: its last boundary is missing")
    return parts.form


class _Parts:
    """Gathers the parts while the parser goes through the body."""

    def __init__(self) -> None:
        self.form = Form({}, {})
        self.complete = False
        self._count = 0
        self._headers: dict[bytes, bytes] = {}
        self._name = bytearray()
        self._value = bytearray()
        self._data = bytearray()

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header,
            "on_part_data": lambda data, start, end: self._data.extend(memoryview(data)[start:end]),
            "on_part_end": self._end,
            "on_end": self._finished,
        }

    def _begin(self) -> None:
        self._count += 1
        if self._count > MAX_PARTS:
            raise InvalidRequest(f"the form has more than {MAX_PARTS} parts")
        self._headers = {}
        self._data = bytearray()

    def _header(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name, self._value = bytearray(), bytearray()

    def _end(self) -> None:
        from python_multipart.multipart import parse_options_header

        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if not name:
            raise InvalidRequest("a part of the form has no name")
        if b"filename" in options:
            filename = options[b"filename"].decode("utf-8", "replace")
            kind = self._headers.get(b"content-type", b"").decode("latin-1")
            self.form.files.setdefault(name, []).append(Upload(filename, kind, bytes(self._data)))
            return
        try:
            self.form.fields.setdefault(name, []).append(self._data.decode())
        except UnicodeDecodeError:
            raise InvalidRequest(f"the field {name[:80]} is not UTF-8 text", param=name[:80]) from None

    def _finished(self) -> None:
        self.complete = True
