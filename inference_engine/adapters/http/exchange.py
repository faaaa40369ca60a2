"""One HTTP request and its answer on the ASGI wire: headers, body, answers, streams, disconnects. Knows no dialect."""

from __future__ import annotations

import asyncio
import gzip
import re
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import msgspec

from inference_engine.domain.requests import Principal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

JSON = b"application/json"
EVENTS = b"text/event-stream; charset=utf-8"
JSON_LINES = b"application/x-ndjson"
OK = 200
SWEEP_S = 0.02
NOBODY = Principal("", "")
NO_PARAMS: Mapping[str, str] = MappingProxyType({})
_ANY_WRAPPING = zlib.MAX_WBITS | 32  # gzip or zlib, whichever the header shows
_COMPRESS_FROM_BYTES = 1024
_EVENT_HEADERS: tuple[Header, ...] = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))


WHOLE_ANSWER = "inference_engine.whole_answer"
"""ASGI extension of `protocol.py`: a `WholeAnswer` for this request. A server without it gets the usual messages."""
RUNNING_TASK = "inference_engine.task"
"""Where a scope holds the task of a request that `protocol.py` has begun without one; None until there is one."""
CLIENT_LEFT = "inference_engine.client_left"
"""What a scope holds when the client of such a request has left before there was a task."""
WholeAnswer = Callable[[int, bytes, bytes], bool]
"""Takes status, header lines and body; False when it must be answered in the usual way."""
_NO_EXTENSIONS: Mapping[str, Any] = MappingProxyType({})
_BAD_HEADER = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


@lru_cache(maxsize=1024)
def _lines(*headers: Header) -> bytes:
    """Headers as they are written. Remembered, because nearly all answers have those of others.

    Raises:
        ValueError: one would end its line, or is otherwise not text.
    """
    for name, value in headers:
        if _BAD_HEADER.search(name) or _BAD_HEADER.search(value):
            raise ValueError(f"the answer's header {name!r} has a value that cannot be sent: {value!r}")
    return b"".join(b"%b: %b\r\n" % header for header in headers)


class HttpError(Exception):
    """A request that is refused on the way to a use case; dialects give it their own shape."""

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, headers: Iterable[Header] = ()
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.headers = tuple(headers)


class ClientGone(Exception):
    """The client closed the connection before its request was complete: there is nobody to answer."""


class Departures:
    """Cancels the tasks of clients that leave. One sweep serves all requests: a timer for each would cost more.

    A request is watched from the second sweep it sees, so that short ones never are.
    """

    def __init__(self, sweep_s: float = SWEEP_S) -> None:
        self._sweep_s = sweep_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fresh: dict[Exchange, asyncio.Task[Any] | None] = {}
        self._seen: dict[Exchange, asyncio.Task[Any] | None] = {}
        self._watchers: dict[Exchange, asyncio.Task[None]] = {}

    def add(self, exchange: Exchange, task: asyncio.Task[Any] | None) -> None:
        """Without a `task`, the exchange has been begun without one, and is watched once its scope holds one."""
        self._fresh[exchange] = task
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.call_later(self._sweep_s, self._sweep)

    def discard(self, exchange: Exchange) -> None:
        if self._fresh.pop(exchange, None) is None and self._seen.pop(exchange, None) is None:
            watcher = self._watchers.pop(exchange, None)
            if watcher is not None:
                watcher.cancel()

    def _sweep(self) -> None:
        loop = self._loop
        if loop is None:
            return
        for exchange, task in self._seen.items():
            running = task or exchange.scope[RUNNING_TASK]
            if running is None:
                self._fresh[exchange] = None
            else:
                self._watchers[exchange] = loop.create_task(exchange.watch(running))
        self._seen, self._fresh = self._fresh, {}
        if self._seen:
            loop.call_later(self._sweep_s, self._sweep)
        else:
            self._loop = None


class Exchange(msgspec.Struct, eq=False):
    """A request and the one answer it gets. Made by the edge, used by one task.

    `headers` holds the last value of each request header, names in lower case. `principal` is set before a handler
    sees the exchange. `status` is 0 until an answer has begun. `priority` is added to that of the work it asks for:
    what nobody waits for has a higher number. `whole_body` is the body, as it was sent, where it came with the request.
    A Struct, because that is made five times faster.
    """

    scope: Scope
    receive: Receive
    send: Send
    method: str
    path: str
    headers: dict[bytes, bytes]
    request_id: bytes
    extra_headers: tuple[Header, ...]
    max_body_bytes: int
    departures: Departures
    principal: Principal = NOBODY
    path_params: Mapping[str, str] = NO_PARAMS
    status: int = 0
    watched: bool = False
    gone: bool = False
    priority: int = 0
    whole_body: bytes | None = None

    # -- the request ---------------------------------------------------------------------------------------------

    def header(self, name: bytes) -> str | None:
        """A request header as text; `name` in lower case."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def body(self) -> bytes:
        """The whole request body, unpacked.

        Raises:
            HttpError: it is larger than `max_body_bytes`, or packed in a way that is not known. ClientGone: the client
                left while sending it.
        """
        body = self.whole_body
        if body is None:
            body = await self._raw_body()
        elif len(body) > self.max_body_bytes:
            raise self._too_large()
        return self._unpacked(body) if b"content-encoding" in self.headers else body

    async def pieces(self) -> AsyncGenerator[bytes]:
        """The request body as it comes in, of any size: the caller bounds it.

        Raises:
            HttpError: it is packed. ClientGone: the client left while sending it.
        """
        if self.headers.get(b"content-encoding", b"identity").strip().lower() not in (b"", b"identity"):
            raise HttpError(415, "unknown_encoding", "this body is taken as it is only: send no Content-Encoding")
        if self.whole_body is not None:
            yield self.whole_body
        more = self.whole_body is None
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            if piece := message.get("body", b""):
                yield piece
            more = message.get("more_body", False)

    async def _raw_body(self) -> bytes:
        message = await self.receive()
        if message.get("more_body", False):
            return await self._long_body(message)
        if message["type"] == "http.disconnect":
            raise ClientGone
        body: bytes = message.get("body", b"")
        if len(body) > self.max_body_bytes:
            raise self._too_large()
        return body

    async def _long_body(self, message: Message) -> bytes:
        length = self.headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self.max_body_bytes:
            raise self._too_large()
        body = bytearray(message.get("body", b""))
        while message.get("more_body", False):
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            body += message.get("body", b"")
            if len(body) > self.max_body_bytes:
                raise self._too_large()
        return bytes(body)

    def _unpacked(self, body: bytes) -> bytes:
        """Undo gzip or deflate, never past the limit."""
        encoding = self.headers[b"content-encoding"].strip().lower()
        if encoding in (b"", b"identity"):
            return body
        if encoding not in (b"gzip", b"deflate"):
            raise HttpError(415, "unknown_encoding", "Content-Encoding may be gzip, deflate or identity")
        unpacker = zlib.decompressobj(_ANY_WRAPPING)
        try:
            unpacked = unpacker.decompress(body, self.max_body_bytes + 1)
        except zlib.error:
            unpacked = b""
        if len(unpacked) > self.max_body_bytes:
            raise self._too_large()
        if not unpacker.eof:
            raise HttpError(400, "damaged_body", "the body is not what its Content-Encoding says, or it is cut short")
        return unpacked

    def _too_large(self) -> HttpError:
        return HttpError(
            413,
            "body_too_large",
            f"the request body is larger than {self.max_body_bytes} bytes: send less, or raise max_body_mb",
            headers=((b"connection", b"close"),),
        )

    # -- the client leaves ---------------------------------------------------------------------------------------

    def cancel_when_gone(self) -> None:
        """From now on the task of this request is cancelled when the client leaves. The body must have been read.

        The edge, which runs the task, tells this cancellation from any other by `gone`.
        """
        if not self.watched:
            self.watched = True
            self.departures.add(self, None if RUNNING_TASK in self.scope else asyncio.current_task())

    async def watch(self, task: asyncio.Task[Any]) -> None:
        """Wait for the client to leave, then cancel `task`."""
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        task.cancel("the client has left")

    # -- the answer ----------------------------------------------------------------------------------------------

    async def respond(
        self,
        status: int,
        body: bytes,
        content_type: bytes = JSON,
        headers: Iterable[Header] = (),
        *,
        compress: bool = False,
    ) -> None:
        """Send the whole answer. `compress` allows gzip where the client takes it."""
        if compress and len(body) >= _COMPRESS_FROM_BYTES and b"gzip" in self.headers.get(b"accept-encoding", b""):
            body = gzip.compress(body, 5)
            headers = (*headers, (b"content-encoding", b"gzip"), (b"vary", b"Accept-Encoding"))
        self.status = status
        sent = b"" if self.method == "HEAD" else body
        whole: WholeAnswer | None = self.scope.get("extensions", _NO_EXTENSIONS).get(WHOLE_ANSWER)
        if status == OK and whole is not None:
            lines = b"%bcontent-length: %d\r\nx-request-id: %b\r\n" % (
                _lines((b"content-type", content_type), *self.extra_headers, *headers),
                len(body),
                self.request_id,
            )
            if whole(OK, lines, sent):
                return
        await self.send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (b"content-type", content_type),
                    (b"content-length", b"%d" % len(body)),
                    (b"x-request-id", self.request_id),
                    *self.extra_headers,
                    *headers,
                ],
            }
        )
        await self.send({"type": "http.response.body", "body": sent})

    async def respond_pieces(
        self, pieces: AsyncGenerator[bytes], size_bytes: int, content_type: bytes, headers: Iterable[Header] = ()
    ) -> None:
        """Send an answer of `size_bytes` piece by piece; waits while the client reads slower than we write."""
        self.status = 200
        sent = [
            (b"content-type", content_type),
            (b"content-length", b"%d" % size_bytes),
            (b"x-request-id", self.request_id),
        ]
        await self.send(
            {"type": "http.response.start", "status": 200, "headers": [*sent, *self.extra_headers, *headers]}
        )
        if self.method != "HEAD":
            async for piece in pieces:
                await self.send({"type": "http.response.body", "body": piece, "more_body": True})
        await self.send({"type": "http.response.body", "body": b""})

    async def start_events(self, headers: Iterable[Header] = (), content_type: bytes = EVENTS) -> None:
        """Begin an answer of server-sent events, or of JSON lines; go on with `send_events`, end with `end_events`."""
        self.status = 200
        await self.send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-type", content_type),
                    (b"x-request-id", self.request_id),
                    *_EVENT_HEADERS,
                    *self.extra_headers,
                    *headers,
                ],
            }
        )

    async def send_events(self, events: bytes) -> None:
        """Send whole events, each ended by an empty line. Waits while the client reads slower than we write."""
        await self.send({"type": "http.response.body", "body": events, "more_body": True})

    async def end_events(self, events: bytes = b"") -> None:
        """Send the last events and end the answer."""
        await self.send({"type": "http.response.body", "body": events})
