"""/v1/files: upload, list, get, content, delete. A file goes from the socket to the disk in pieces."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import msgspec

from inference_engine.adapters.http.decoding import convert
from inference_engine.adapters.http.endpoints import Doc, Endpoint
from inference_engine.adapters.http.exchange import Exchange
from inference_engine.adapters.http.multipart import Part, parts
from inference_engine.adapters.http.openai.fields import Deleted, ExpiresAfter
from inference_engine.adapters.http.queries import page_of, query
from inference_engine.domain.errors import InvalidRequest, UnknownField
from inference_engine.domain.files import StoredFile
from inference_engine.services.files import FileService, Receiving

PURPOSES = ("batch", "assistants", "fine-tune", "vision", "user_data", "evals")
MAX_LISTED = 10_000
_MAX_FIELD_BYTES = 4096
_MAX_NAME = 255
_LIFETIME = {"expires_after[anchor]": "anchor", "expires_after[seconds]": "seconds"}
_ENCODER = msgspec.json.Encoder()


class UploadForm(msgspec.Struct):
    """The form of an upload, for the documentation: `file` is the file itself."""

    file: str
    purpose: str


class File(msgspec.Struct):
    id: str
    object: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: str = "processed"
    expires_at: int | None = None


class FileList(msgspec.Struct):
    object: str
    data: list[File]
    has_more: bool
    first_id: str | None = None
    last_id: str | None = None


class _Form:
    """The fields of an upload as they come in."""

    def __init__(self) -> None:
        self.file: Receiving | None = None
        self.name = ""
        self.fields: dict[str, str] = {}


class Files:
    """The endpoints."""

    def __init__(self, files: FileService) -> None:
        self._files = files

    async def upload(self, exchange: Exchange) -> None:
        form = _Form()
        try:
            async with aclosing(parts(exchange)) as found:
                await self._take(exchange.principal.tenant, found, form)
            if form.file is None:
                raise InvalidRequest("file is missing: send the file in a form field of that name", param="file")
            stored = await form.file.keep(form.name, _purpose(form.fields), _lifetime_s(form.fields))
        finally:
            if form.file is not None:
                await form.file.aclose()
        await exchange.respond(200, _ENCODER.encode(_shown(stored)))

    async def _take(self, tenant: str, found: Any, form: _Form) -> None:
        into: str | None = None
        async for piece in found:
            if isinstance(piece, Part):
                into = await self._open(tenant, piece, form)
            elif into is None:
                assert form.file is not None, "bytes come after the head of their part"
                await form.file.write(piece)
            else:
                form.fields[into] += piece.decode(errors="replace")
                if len(form.fields[into]) > _MAX_FIELD_BYTES:
                    raise InvalidRequest(f"{into} is too long", param=into)

    async def _open(self, tenant: str, part: Part, form: _Form) -> str | None:
        """Where the content of a part goes: the name of a field, or None for the file."""
        if part.field == "file":
            if part.filename is None:
                raise InvalidRequest("file must be a file with a filename, it came as a plain field", param="file")
            if form.file is not None:
                raise InvalidRequest("file came twice: upload one file at a time", param="file")
            form.file = await self._files.receive(tenant)
            form.name = _label(part.filename)
            return None
        if part.field != "purpose" and part.field not in _LIFETIME:
            name = part.field[:80]
            raise UnknownField(f"{name} is not a field that is supported here: leave it out", param=name)
        form.fields[part.field] = ""
        return part.field

    async def list(self, exchange: Exchange) -> None:
        asked = query(exchange, "purpose", "limit", "order", "after")
        files = await self._files.listed(exchange.principal.tenant)
        wanted = [(file.id, file) for file in files if asked.get("purpose") in (None, file.purpose)]
        page = page_of(wanted, asked, MAX_LISTED, MAX_LISTED, "desc")
        data = [_shown(file) for file in page.data]
        ends = (data[0].id, data[-1].id) if data else (None, None)
        await exchange.respond(200, _ENCODER.encode(FileList("list", data, page.more, *ends)), compress=True)

    async def get(self, exchange: Exchange) -> None:
        file = await self._files.get(exchange.principal.tenant, exchange.path_params["file_id"])
        await exchange.respond(200, _ENCODER.encode(_shown(file)))

    async def content(self, exchange: Exchange) -> None:
        tenant, id = exchange.principal.tenant, exchange.path_params["file_id"]
        file = await self._files.get(tenant, id)
        headers = (
            (b"content-disposition", f"attachment; filename*=UTF-8''{quote(file.name, safe='')}".encode()),
            (b"x-content-type-options", b"nosniff"),
        )
        stream = await self._files.open(tenant, id)
        async with aclosing(stream) as pieces:
            await exchange.respond_pieces(pieces, file.size_bytes, b"application/octet-stream", headers)

    async def delete(self, exchange: Exchange) -> None:
        id = exchange.path_params["file_id"]
        await self._files.delete(exchange.principal.tenant, id)
        await exchange.respond(200, _ENCODER.encode(Deleted(id, "file")))


def _purpose(fields: dict[str, str]) -> str:
    purpose = fields.get("purpose")
    if purpose not in PURPOSES:
        said = "missing" if purpose is None else repr(purpose[:80])
        raise InvalidRequest(f"purpose is {said}, it must be one of {', '.join(PURPOSES)}", param="purpose")
    return purpose


def _lifetime_s(fields: dict[str, str]) -> int | None:
    given: dict[str, object] = {name: fields[field] for field, name in _LIFETIME.items() if field in fields}
    if not given:
        return None
    if str(given.get("seconds")).isdecimal():
        given["seconds"] = int(str(given["seconds"])[:12])
    return convert(given, ExpiresAfter, "expires_after").seconds


def _label(name: str) -> str:
    """The client's name for a file, without folders and control characters: it is shown, and never a path here."""
    base = PurePosixPath(name.replace("\\", "/")).name
    return "".join(character for character in base if character.isprintable())[:_MAX_NAME] or "file"


def _shown(file: StoredFile) -> File:
    return File(file.id, "file", file.size_bytes, file.created_at, file.name, file.purpose, expires_at=file.expires_at)


_EXAMPLE: dict[str, Any] = {
    "id": "file-5f2c0d9a7be14c1f9c3a1d2e4b6f8a70",
    "object": "file",
    "bytes": 214,
    "created_at": 1790000000,
    "filename": "questions.jsonl",
    "purpose": "batch",
    "status": "processed",
    "expires_at": None,
}


def endpoints(files: FileService) -> tuple[Endpoint, ...]:
    """The endpoints over the files of `files`."""
    handlers = Files(files)
    return (
        Endpoint(
            "POST",
            "/v1/files",
            handlers.upload,
            Doc(
                "Upload a file",
                f"A form (multipart/form-data) with `file` and `purpose`: {', '.join(PURPOSES)}. "
                "`expires_after[anchor]` (created_at) and `expires_after[seconds]` let it expire.",
                UploadForm,
                {"a batch": {"file": "@questions.jsonl", "purpose": "batch"}},
                File,
                _EXAMPLE,
                errors=(400, 401, 503),
                request_type="multipart/form-data",
            ),
        ),
        Endpoint(
            "GET",
            "/v1/files",
            handlers.list,
            Doc(
                "List files",
                "Query: `purpose`, `limit` (1 to 10000), `after` (an id), `order` (desc or asc).",
                response=FileList,
                response_example={"object": "list", "data": [_EXAMPLE], "has_more": False},
                errors=(400, 401),
            ),
        ),
        Endpoint(
            "GET",
            "/v1/files/{file_id}",
            handlers.get,
            Doc("What is known of a file", response=File, response_example=_EXAMPLE, errors=(401, 404)),
        ),
        Endpoint(
            "GET",
            "/v1/files/{file_id}/content",
            handlers.content,
            Doc("The bytes of a file", response_type="application/octet-stream", errors=(401, 404)),
        ),
        Endpoint(
            "DELETE",
            "/v1/files/{file_id}",
            handlers.delete,
            Doc(
                "Delete a file",
                "Refused while a batch reads it.",
                response=Deleted,
                response_example={"id": _EXAMPLE["id"], "object": "file", "deleted": True},
                errors=(400, 401, 404),
            ),
        ),
    )
