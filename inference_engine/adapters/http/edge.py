"""The outermost ASGI callable: what every HTTP request meets, and the short way to the hot endpoints.

It gives request ids, answers CORS, authenticates, turns every error into the dialect's shape, and logs. It knows that
there are dialects, not what they say.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Coroutine
from itertools import count
from secrets import token_hex
from typing import Any, Protocol

import msgspec

from inference_engine.adapters.http.cors import Cors
from inference_engine.adapters.http.endpoints import Dialect, Endpoint, ErrorAnswer, Found, HotTable
from inference_engine.adapters.http.exchange import (
    CLIENT_LEFT,
    ClientGone,
    Departures,
    Exchange,
    HttpError,
    Message,
    Receive,
    Scope,
    Send,
)
from inference_engine.adapters.http.hosts import LocalHosts, host_of
from inference_engine.core.logging import get_logger
from inference_engine.domain.errors import EngineError
from inference_engine.services.access import AccessService

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9._:/@-]*")
_REMEMBERED = 1024
_LONGEST_PROMPT = 400  # bytes: a name and a version of full length, and a prefix
_PUBLIC_COOL = ("/openapi.json",)  # what a client may send is no secret, and /docs needs it before it has a key
_log = get_logger(__name__)


class EdgeOptions(msgspec.Struct, frozen=True):
    """What an operator can set of the edge."""

    version: str
    host: str = "localhost"
    max_body_bytes: int = 64 << 20
    cors_origins: tuple[str, ...] = ()
    root_path: str = ""
    access_log: bool = False


class CoolApp(Protocol):
    """Answers what is not hot; made on first need, because the framework behind it is slow to import."""

    async def __call__(self, exchange: Exchange) -> None: ...


class Edge:
    """An ASGI application. The dialect with the longest prefix of a path owns its errors, the last one all others."""

    def __init__(
        self, dialects: tuple[Dialect, ...], access: AccessService, options: EdgeOptions, cool: CoolApp | None = None
    ) -> None:
        self._dialects = dialects
        self._hot = HotTable(dialects)
        special = {endpoint.only_with for dialect in dialects for endpoint in dialect.endpoints if endpoint.only_with}
        self._special = [(header, HotTable(dialects, header)) for header in sorted(special)]
        self._access = access
        self._cors = Cors(options.cors_origins, guard=not access.has_keys)
        open_to_all = access.has_keys or "*" in options.cors_origins
        self._hosts = None if open_to_all else LocalHosts(options.host, *map(host_of, options.cors_origins))
        self._root = options.root_path
        self._access_log = options.access_log
        self._max_body_bytes = options.max_body_bytes
        self._headers = ((b"x-inference-engine", options.version.encode("latin-1")),)
        self._departures = Departures()
        self._id_prefix = token_hex(8).encode()
        self._ids = count(1)
        self._prompt: dict[bytes, str] = {}
        self.cool = cool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _other(scope, receive, send)
            return
        path: str = scope["path"]
        if self._root and path.startswith(self._root + "/"):
            path = path[len(self._root) :]
        await self._met(self._exchange(scope, receive, send, scope["method"], path))

    def prompt_path(self, method: bytes, url: bytes) -> str | None:
        """See `protocol.py`: the path of a request that may be answered without waiting for anything."""
        if method != b"POST" or len(url) > _LONGEST_PROMPT:
            return None
        path = self._prompt.get(url)
        if path is None:
            if len(self._prompt) >= _REMEMBERED:
                self._prompt.clear()
            path = self._prompt[url] = self._read_prompt(url)
        return path or None

    def _read_prompt(self, url: bytes) -> str:
        text = url.decode("latin-1").removeprefix(self._root)
        found = self._hot.find("POST", text) if _PLAIN_PATH.fullmatch(text) else None
        return text if found is not None and found.endpoint.prompt else ""

    def begin(self, scope: Scope, receive: Receive, send: Send, path: str, body: bytes) -> Coroutine[Any, None, None]:
        """See `protocol.py`."""
        exchange = self._exchange(scope, receive, send, "POST", path)
        exchange.whole_body = body
        return self._met(exchange)

    def _exchange(self, scope: Scope, receive: Receive, send: Send, method: str, path: str) -> Exchange:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = headers.get(b"x-request-id")
        if request_id is None or not _REQUEST_ID.fullmatch(request_id):
            request_id = b"%b%08x" % (self._id_prefix, next(self._ids))
        return Exchange(
            scope,
            receive,
            send,
            method,
            path,
            headers,
            request_id,
            self._headers,
            self._max_body_bytes,
            self._departures,
        )

    def _met(self, exchange: Exchange) -> Coroutine[Any, None, None]:
        return self._logged(exchange) if self._access_log else self._answer(exchange)

    async def _answer(self, exchange: Exchange) -> None:
        dialect = None
        try:
            if self._hosts is not None:
                self._hosts.check(exchange.headers.get(b"host"))
            if b"origin" in exchange.headers and await self._cors.answered(exchange):
                return
            method = exchange.method
            found = self._found("GET" if method == "HEAD" else method, exchange)
            if found is None:
                if exchange.path not in _PUBLIC_COOL:
                    exchange.principal = self._access.authenticate(exchange.headers)
                await self._answer_cool(exchange)
                return
            endpoint, dialect, exchange.path_params = found
            if not endpoint.public:
                exchange.principal = self._access.authenticate(exchange.headers)
            await endpoint.handler(exchange)
        except (Exception, asyncio.CancelledError) as error:
            await self._failed(exchange, dialect or self.dialect_of(exchange.path), error)
        finally:
            if exchange.watched:
                self._departures.discard(exchange)

    def _found(self, method: str, exchange: Exchange) -> Found | None:
        for header, table in self._special:
            if header in exchange.headers:
                found = table.find(method, exchange.path)
                if found is not None:
                    return found
        return self._hot.find(method, exchange.path)

    async def _answer_cool(self, exchange: Exchange) -> None:
        if self.cool is None:
            raise HttpError(404, "not_found", f"there is nothing at {exchange.path[:200]}")
        await self.cool(exchange)

    async def run(self, endpoint: Endpoint, dialect: Dialect, exchange: Exchange) -> None:
        """Run a cool endpoint: errors are answered in its dialect and never reach the framework."""
        try:
            await endpoint.handler(exchange)
        except (Exception, asyncio.CancelledError) as error:
            await self._failed(exchange, dialect, error)

    def dialect_of(self, path: str) -> Dialect:
        """The dialect whose error shape belongs to a path."""
        claims = [(prefix, dialect) for dialect in self._dialects for prefix in dialect.prefixes]
        matching = [claim for claim in claims if path.startswith(claim[0])]
        return max(matching, key=lambda claim: len(claim[0]))[1] if matching else self._dialects[-1]

    # -- when it fails -------------------------------------------------------------------------------------------

    async def _failed(self, exchange: Exchange, dialect: Dialect, error: BaseException) -> None:
        if isinstance(error, ClientGone) or (
            CLIENT_LEFT in exchange.scope and isinstance(error, asyncio.CancelledError)
        ):
            exchange.status = 499
        elif isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if not exchange.gone or task is None:
                raise error
            task.uncancel()
            exchange.status = exchange.status or 499
        elif exchange.status:
            # A dialect ends its own streams; what comes here broke in the middle of an answer: the server cuts it.
            _log.error("answer broken off", request_id=exchange.request_id.decode("latin-1"), exc_info=error)
            raise error
        else:
            answer = self._error_answer(exchange, dialect, error)
            await exchange.respond(answer.status, answer.body, headers=answer.headers)

    def _error_answer(self, exchange: Exchange, dialect: Dialect, error: BaseException) -> ErrorAnswer:
        request_id = exchange.request_id.decode("latin-1")
        if not isinstance(error, EngineError | HttpError):
            _log.error("unexpected error", request_id=request_id, path=exchange.path, exc_info=error)
            error = HttpError(
                500, "internal_error", f"the server failed unexpectedly; its log says more under {request_id}"
            )
        return dialect.render_for(error, request_id) if dialect.render_for else dialect.render_error(error)

    # -- the access log ------------------------------------------------------------------------------------------

    async def _logged(self, exchange: Exchange) -> None:
        started = time.perf_counter()
        try:
            await self._answer(exchange)
        finally:
            _log.info(
                "request",
                method=exchange.method,
                path=exchange.path,
                status=exchange.status,
                seconds=round(time.perf_counter() - started, 6),
                request_id=exchange.request_id.decode("latin-1"),
                key=exchange.principal.key_id,
                client=exchange.scope["client"][0] if exchange.scope.get("client") else None,
            )


async def _other(scope: Scope, receive: Receive, send: Send) -> None:
    """Lifespan is agreed to (the composition root opens and closes the services); WebSockets are refused for now."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000})
        return
    while True:
        message: Message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
