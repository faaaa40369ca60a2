"""One HTTP request and its answer on the ASGI wire: headers, body, answers, streams, disconnects. Knows no dialect."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from inference_engine.domain.requests import Principal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

JSON = b"application/json"
EVENTS = b"text/event-stream; charset=utf-8"
WATCH_AFTER_S = 0.02
"""A request older than this is watched for the client's leaving; a task for each short one would cost more."""
_COMPRESS_FROM_BYTES = 1024
_EVENT_HEADERS: tuple[Header, ...] = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))


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


class Exchange:
    """A request and the one answer it gets. Made by the edge, used by one task.

    `headers` holds the last value of each request header, names in lower case. `principal` is set before a handler
    sees the exchange. `status` is 0 until an answer has begun.
    """

    __slots__ = (
        "_receive",
        "_send",
        "_timer",
        "_watcher",
        "extra_headers",
        "gone",
        "headers",
        "max_body_bytes",
        "method",
        "path",
        "path_params",
        "principal",
        "request_id",
        "scope",
        "status",
    )

    principal: Principal

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        path: str,
        headers: dict[bytes, bytes],
        request_id: bytes,
        extra_headers: tuple[Header, ...],
        max_body_bytes: int,
    ) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self.method: str = scope["method"]
        self.path = path
        self.path_params: dict[str, str] = {}
        self.headers = headers
        self.request_id = request_id
        self.extra_headers = extra_headers
        self.max_body_bytes = max_body_bytes
        self.status = 0
        self.gone = False
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None

    # -- the request ---------------------------------------------------------------------------------------------

    def header(self, name: bytes) -> str | None:
        """A request header as text; `name` in lower case."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def body(self) -> bytes:
        """The whole request body.

        Raises:
            HttpError: it is larger than `max_body_bytes`. ClientGone: the client left while sending it.
        """
        length = self.headers.get(b"content-length")
        if length is not None and length.isdigit() and int(length) > self.max_body_bytes:
            raise self._too_large()
        message = await self._receive()
        if message.get("more_body", False):
            return await self._long_body(message)
        if message["type"] == "http.disconnect":
            raise ClientGone
        body: bytes = message.get("body", b"")
        if len(body) > self.max_body_bytes:
            raise self._too_large()
        return body

    async def _long_body(self, message: Message) -> bytes:
        body = bytearray(message.get("body", b""))
        while message.get("more_body", False):
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            body += message.get("body", b"")
            if len(body) > self.max_body_bytes:
                raise self._too_large()
        return bytes(body)

    def _too_large(self) -> HttpError:
        return HttpError(
            413,
            "body_too_large",
            f"the request body is larger than {self.max_body_bytes} bytes: send less, or raise max_body_mb",
            headers=((b"connection", b"close"),),
        )

    # -- the client leaves ---------------------------------------------------------------------------------------

    def cancel_when_gone(self) -> None:
        """From now on the current task is cancelled when the client leaves. The body must have been read.

        The edge, which runs the task, tells this cancellation from any other by `gone`.
        """
        task = asyncio.current_task()
        if task is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._start_watching, task)

    def _start_watching(self, task: asyncio.Task[Any]) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._watch(task))

    async def _watch(self, task: asyncio.Task[Any]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        task.cancel("the client has left")

    def close(self) -> None:
        """End the watch; called by the edge when the handler is through."""
        if self._timer is not None:
            self._timer.cancel()
            if self._watcher is not None:
                self._watcher.cancel()

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
        await self._send(
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
        await self._send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body})

    async def start_events(self, headers: Iterable[Header] = ()) -> None:
        """Begin an answer of server-sent events; go on with `send_events`, end with `end_events`."""
        self.status = 200
        await self._send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-type", EVENTS),
                    (b"x-request-id", self.request_id),
                    *_EVENT_HEADERS,
                    *self.extra_headers,
                    *headers,
                ],
            }
        )

    async def send_events(self, events: bytes) -> None:
        """Send whole events, each ended by an empty line. Waits while the client reads slower than we write."""
        await self._send({"type": "http.response.body", "body": events, "more_body": True})

    async def end_events(self, events: bytes = b"") -> None:
        """Send the last events and end the answer."""
        await self._send({"type": "http.response.body", "body": events})
