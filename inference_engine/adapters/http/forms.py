"""Bodies of type multipart/form-data: fields and files, whole in memory, bounded by `max_body_bytes`."""

from __future__ import annotations

import asyncio

import msgspec

from inference_engine.adapters.http.exchange import Exchange
from inference_engine.adapters.http.multipart import FormReader, Part
from inference_engine.domain.errors import InvalidRequest

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
    reader = FormReader(exchange)
    body = await exchange.body()
    if len(body) < _LONG_BYTES:
        return _read(reader, body)
    return await asyncio.to_thread(_read, reader, body)  # 60 MB take a third of a second


def _read(reader: FormReader, body: bytes) -> Form:
    gathered: list[tuple[Part, list[bytes]]] = []
    for found in reader.feed(body):
        if isinstance(found, Part):
            gathered.append((found, []))
        else:
            gathered[-1][1].append(found)
    reader.finish()
    form = Form({}, {})
    for part, pieces in gathered:
        data = b"".join(pieces)
        if part.filename is not None:
            form.files.setdefault(part.field, []).append(Upload(part.filename, part.content_type, data))
        else:
            form.fields.setdefault(part.field, []).append(_text(part.field, data))
    return form


def _text(field: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"the field {field[:80]} is not UTF-8 text", param=field[:80]) from None
