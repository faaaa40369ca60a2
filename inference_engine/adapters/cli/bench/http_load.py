"""Keeps an HTTP server busy over raw connections: one request in flight on each, then at once the next one.

A general HTTP client costs more than a small model does; here a request is bytes that are ready, and httptools reads
the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httptools
import msgspec

from inference_engine.adapters.cli.bench.recorder import Recorder
from inference_engine.domain.errors import (
    EngineError,
    Forbidden,
    InvalidRequest,
    ModelNotFound,
    Unauthenticated,
    Unavailable,
)

_PAUSE_S = 0.05  # before a refused request is sent again
_LOST_LIMIT = 40  # connections that fail in a row
_HOPELESS: dict[int, type[EngineError]] = {
    400: InvalidRequest,
    401: Unauthenticated,
    403: Forbidden,
    404: ModelNotFound,
    405: InvalidRequest,
    413: InvalidRequest,
    415: InvalidRequest,
    422: InvalidRequest,
}
"""Statuses that the same request would get again."""


class Post(msgspec.Struct, frozen=True):
    """One request: where to, and its body."""

    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    """A piece of a chat (`delta`) or of a completion (`text`)."""

    delta: _Delta = msgspec.field(default_factory=_Delta)
    text: str | None = None

    @property
    def written(self) -> bool:
        return bool(self.text or self.delta.content or self.delta.reasoning_content or self.delta.reasoning)


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


_EVENT = msgspec.json.Decoder(_Event)


class HttpLoad:
    """Sends what `source` gives to the server at `url`. `streams` says that answers are chats or completions in
    events."""

    def __init__(
        self,
        url: str,
        api_key: str | None,
        source: Callable[[], Post],
        *,
        streams: bool = False,
        timeout_s: float = 60.0,
    ) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._prefix = parts.path.rstrip("/")
        self._head = f"Host: {parts.netloc}\r\n" + (f"Authorization: Bearer {api_key}\r\n" if api_key else "")
        self._source = source
        self.streams = streams
        self.timeout_s = timeout_s
        self._made: dict[int, tuple[Post, bytes]] = {}

    @asynccontextmanager
    async def running(self, concurrency: int, recorder: Recorder) -> AsyncIterator[None]:
        """Keep so many requests in flight. Raises `Unavailable` when no connection can be made at all."""
        lane = _Lane(self, recorder)
        try:
            await asyncio.gather(*[lane.connect() for _ in range(concurrency)])
        except OSError as error:
            lane.close()
            raise Unavailable(
                f"{self._host}:{self._port} cannot be reached ({error}): is the server running?"
            ) from None
        watch = asyncio.create_task(lane.watch())
        try:
            yield
        finally:
            watch.cancel()
            lane.close()
            with contextlib.suppress(asyncio.CancelledError):
                await watch

    def wire(self) -> bytes:
        """The next request as it goes over the line. Requests that are sent again are put together once."""
        post = self._source()
        made = self._made.get(id(post))
        if made is not None and made[0] is post:
            return made[1]
        lines = "".join(f"{name}: {value}\r\n" for name, value in post.headers)
        head = f"POST {self._prefix}{post.path} HTTP/1.1\r\n{self._head}{lines}Content-Length: {len(post.body)}\r\n\r\n"
        wire = head.encode() + post.body
        if not self.streams and len(self._made) < 64:
            self._made[id(post)] = (post, wire)
        return wire

    async def open(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(protocol, self._host, self._port, ssl=self._tls)


class _Lane:
    """The connections of one level."""

    def __init__(self, load: HttpLoad, recorder: Recorder) -> None:
        self.load = load
        self.recorder = recorder
        self.closing = False
        self.lost = 0
        self.connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect(self) -> None:
        await self.load.open(lambda: _Connection(self))

    def again(self) -> None:
        """Replace a connection that was lost."""
        self.lost += 1
        if self.lost >= _LOST_LIMIT:
            self.recorder.give_up(Unavailable("the server has gone away: its connections are closed and refused"))
        elif not self.closing:
            task = asyncio.get_running_loop().create_task(self._reconnect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _reconnect(self) -> None:
        await asyncio.sleep(_PAUSE_S)
        if self.closing:
            return
        try:
            await self.connect()
        except OSError as error:
            self.recorder.failed("connection", str(error))
            self.again()

    async def watch(self) -> None:
        """End requests that nobody answers."""
        while True:
            await asyncio.sleep(0.5)
            late = time.perf_counter() - self.load.timeout_s
            for connection in [one for one in self.connections if one.sent_s is not None and one.sent_s < late]:
                self.recorder.failed("timeout", f"no answer within {self.load.timeout_s:g} s")
                connection.abandon()

    def close(self) -> None:
        self.closing = True
        for task in self._tasks:
            task.cancel()
        for connection in tuple(self.connections):
            connection.abandon()


class _Connection(asyncio.Protocol):
    """One request at a time. `sent_s` is when the one in flight was sent."""

    def __init__(self, lane: _Lane) -> None:
        self._lane = lane
        self._recorder = lane.recorder
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self.sent_s: float | None = None
        self._begin()

    def _begin(self) -> None:
        self._status = 0
        self._body = b""
        self._first_s = self._last_s = 0.0
        self._pieces = 0
        self._usage = _Usage()
        self._error = ""

    # -- asyncio -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # uvloop's transports are no subclass of asyncio's
        self._lane.connections.add(self)
        self._send()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._recorder.failed("protocol", f"the answer is not HTTP: {error}")
            self.abandon()

    def connection_lost(self, error: Exception | None) -> None:
        self._lane.connections.discard(self)
        if self._lane.closing:
            return
        if self.sent_s is not None:
            self._recorder.failed("connection", f"the connection was closed ({error or 'by the server'})")
        self._lane.again()

    def abandon(self) -> None:
        """Close without an answer; the server sees that nobody waits any more."""
        self.sent_s = None
        if self._transport is not None:
            self._transport.abort()

    def _send(self) -> None:
        if self._lane.closing or self._transport is None or self._transport.is_closing():
            return
        wire = self._lane.load.wire()
        self.sent_s = time.perf_counter()
        self._transport.write(wire)

    # -- httptools -----------------------------------------------------------------------------------------------

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if self._status == 200 and self._lane.load.streams:
            *events, self._body = (self._body + body).split(b"\n\n")
            if events:
                self._read(events)
        elif self._status != 200:
            self._body += body

    def on_message_complete(self) -> None:
        sent_s, self.sent_s = self.sent_s, None
        if sent_s is None or self._lane.closing:
            return
        pause_s = 0.0
        if self._status == 200 and not self._error:
            self._lane.lost = 0
            self._recorder.answered(time.perf_counter() - sent_s)
            if self._lane.load.streams:
                usage = self._usage
                seconds = self._last_s - self._first_s
                self._recorder.streamed(self._pieces, usage.completion_tokens, usage.prompt_tokens, seconds)
        else:
            pause_s = _PAUSE_S
            self._fail()
        self._begin()
        if pause_s:
            asyncio.get_running_loop().call_later(pause_s, self._send)
        else:
            self._send()

    def _fail(self) -> None:
        message = self._error or error_message(self._body) or f"the server answered {self._status}"
        code = {200: "stream", 429: "rejected"}.get(self._status, f"http_{self._status}")
        self._recorder.failed(code, message)
        if (kind := _HOPELESS.get(self._status)) is not None:
            self._recorder.give_up(kind(message))

    def _read(self, events: list[bytes]) -> None:
        now, sent_s = time.perf_counter(), self.sent_s
        for event in events:
            data = event.removeprefix(b"data:").strip()
            if sent_s is None or not event.startswith(b"data:") or data == b"[DONE]":
                continue
            try:
                found = _EVENT.decode(data)
            except msgspec.MsgspecError:
                continue  # an event of a kind that holds no text
            if bytes(found.error):
                self._error = error_message(data) or "the stream broke off"
            self._usage = found.usage or self._usage
            if any(choice.written for choice in found.choices):
                if self._pieces:
                    self._recorder.went_on(now - self._last_s)
                else:
                    self._first_s = now
                    self._recorder.began(now - sent_s)
                self._pieces += 1
                self._last_s = now


def error_message(body: bytes) -> str:
    """The message of an error in whichever shape the server answered; empty when there is none."""
    try:
        error = msgspec.json.decode(body)["error"]
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""
    return str(error.get("message") or error) if isinstance(error, Mapping) else str(error)
