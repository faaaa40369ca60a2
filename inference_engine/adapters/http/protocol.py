"""uvicorn's HTTP protocol with a short way for small requests. Knows uvicorn, no dialect and no endpoint."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any, Protocol, runtime_checkable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from inference_engine.adapters.http.exchange import (
    CLIENT_LEFT,
    RUNNING_TASK,
    WHOLE_ANSWER,
    Message,
    Receive,
    Scope,
    Send,
)

_CLOCK_TICK_S = 0.001  # timers may come this much early


@runtime_checkable
class PromptApp(Protocol):
    """An ASGI application that can answer some requests without a task."""

    def prompt_path(self, method: bytes, url: bytes) -> str | None:
        """The path of such a request, None for every other."""

    def begin(self, scope: Scope, receive: Receive, send: Send, path: str, body: bytes) -> Coroutine[Any, None, None]:
        """Answers it. `body` is whole; `scope` has method and path only once `receive` or `send` was called.

        There is a current task from the second wait on. When the client leaves before that, the first one is cancelled.
        """


class ShortWayProtocol(HttpToolsProtocol):
    """Answers some requests without a task, and writes whole answers in one call.

    - What a `PromptApp` says it can begin is begun where its last byte is read, if it came in one piece. It needs no
      task, and none of what uvicorn makes for a request, if it waits for no more than one thing. One that waits again
      goes on as any other request of uvicorn, in a task, which the scope then holds as `RUNNING_TASK`.
    - The ASGI extension `WHOLE_ANSWER` takes head and body of an answer together. The two `send` calls that it replaces
      check, render and count every header of every answer anew, which costs as much as decoding a small request.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._prompt = self.app if isinstance(self.app, PromptApp) else None
        self._path: str | None = None
        self._pieces: list[bytes] = []
        self._begun: _Begun | None = None
        self._extensions: dict[str, Any] = {WHOLE_ANSWER: self._answer}
        self._idle_since: float | None = None
        self._defaults: object = None
        self._default_lines = b""

    # -- the connection ------------------------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._extensions = {}  # which held this connection
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        if self._begun is not None:
            self._begun.cancel()

    def shutdown(self) -> None:
        """End the connection, after the answer that is being made."""
        if self._begun is not None:
            self._begun.made()
        super().shutdown()

    def _unset_keepalive_if_required(self) -> None:
        """Called when bytes come, and when the connection ends. The timer stays: to make one each time costs more."""
        self._idle_since = None

    def on_response_complete(self) -> None:
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it has been idle all the time; one that is busy sets the timer again itself."""
        self.timeout_keep_alive_task = None
        if self._idle_since is None:
            return
        left_s = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left_s <= _CLOCK_TICK_S:
            super().timeout_keep_alive_handler()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(left_s, self.timeout_keep_alive_handler)

    # -- the request ---------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._begun is not None:
            self._begun.made()  # the next request has come before its answer: uvicorn keeps their order
        super().on_message_begin()
        self.scope["extensions"] = self._extensions

    def on_headers_complete(self) -> None:
        if self._prompt is not None and (self.cycle is None or self.cycle.response_complete):
            path = self._prompt.prompt_path(self.parser.get_method(), self.url)
            if path is not None and not self.expect_100_continue and not self.parser.should_upgrade():
                self._path = path
                self._pieces = []
                return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._path is None:
            super().on_body(body)
        else:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        path, self._path = self._path, None
        if path is None or self._prompt is None:
            super().on_message_complete()
            return
        keep_alive = self.parser.should_keep_alive() and self.parser.get_http_version() != "1.0"
        begun = self._begun = _Begun(self, self.scope, self.url, path, keep_alive)
        begun.go(self._prompt.begin(begun.scope, begun.receive, begun.send, path, b"".join(self._pieces)))

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._path is not None:  # it did not come in one piece
            self._path = None
            super().on_headers_complete()
            if self._pieces:
                super().on_body(b"".join(self._pieces))

    def make_cycle(self, begun: _Begun) -> RequestResponseCycle:
        """What uvicorn makes for a request, for one that was begun without it."""
        scope = begun.scope
        scope.update(method="POST", path=begun.path, raw_path=begun.url, query_string=b"")
        self.cycle = RequestResponseCycle(
            scope=scope,  # type: ignore[arg-type]  # a plain dictionary to us, since it holds keys of our own
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=begun.keep_alive,
            on_response=self.on_response_complete,
        )
        self.cycle.more_body = False
        self.cycle.disconnected = self.transport.is_closing()
        return self.cycle

    def go_on(self, begun: _Begun, app: Any) -> None:
        """Let a request that was begun go on in a task, with `app`."""
        self._start_asgi_task(begun.made(), app)
        self.ended(begun)

    def ended(self, begun: _Begun) -> None:
        """It has been answered, or goes on in a task."""
        if self._begun is begun:
            self._begun = None

    # -- the answer ----------------------------------------------------------------------------------------------

    def _answer(self, status: int, lines: bytes, body: bytes) -> bool:
        """Write an answer whose rendered header `lines` are known to be good.

        False, and nothing done, where uvicorn's own way has more to do: it delays, closes, or another request of this
        connection has been read already.
        """
        begun = self._begun
        cycle = self.cycle if begun is None else begun.cycle
        if self.flow.write_paused or self.access_log:
            return False
        if cycle is None:
            if begun is None or not begun.keep_alive or self.transport.is_closing():
                return False
        elif self.pipeline or not cycle.keep_alive or cycle.response_started or cycle.disconnected:
            return False
        defaults = self.server_state.default_headers
        if defaults is not self._defaults:  # uvicorn makes them anew every second, for the date
            self._defaults = defaults
            self._default_lines = b"".join(b"%b: %b\r\n" % header for header in defaults)
        self.transport.write(b"".join((STATUS_LINE[status], self._default_lines, lines, b"\r\n")))
        self.transport.write(body)
        if begun is not None:
            begun.answered = True
        if cycle is None:
            self.on_response_complete()
            return True
        cycle.waiting_for_100_continue = False
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        cycle.on_response()
        return True


class _Begun:
    """A request that was begun without a task and without uvicorn's `cycle`, which are made when they are needed."""

    __slots__ = ("_protocol", "_waits_for", "_work", "answered", "cycle", "keep_alive", "path", "scope", "url")

    def __init__(self, protocol: ShortWayProtocol, scope: Any, url: bytes, path: str, keep_alive: bool) -> None:
        scope[RUNNING_TASK] = None
        self.scope: dict[str, Any] = scope
        self.url = url
        self.path = path
        self.keep_alive = keep_alive
        self.answered = False
        self.cycle: RequestResponseCycle | None = None
        self._protocol = protocol
        self._work: Coroutine[Any, None, None] | None = None
        self._waits_for: asyncio.Future[Any] | None = None

    def made(self) -> RequestResponseCycle:
        if self.cycle is None:
            self.cycle = self._protocol.make_cycle(self)
        return self.cycle

    async def receive(self) -> Message:
        message: Message = await self.made().receive()  # type: ignore[assignment]  # uvicorn types each message
        return message

    async def send(self, message: Any) -> None:
        cycle = self.made()
        await cycle.send(message)
        self.answered = cycle.response_complete

    def go(self, work: Coroutine[Any, None, None]) -> None:
        """Run it up to its first wait."""
        awaited = self._step(work)
        if awaited is None:
            return
        if getattr(awaited, "_asyncio_future_blocking", False):
            awaited._asyncio_future_blocking = False  # as a task does it
            self._work = work
            self._waits_for = awaited
            awaited.add_done_callback(self._woken)
        else:
            self._protocol.go_on(self, _Continued(work, awaited))

    def _woken(self, _: object) -> None:
        work, self._work, self._waits_for = self._work, None, None
        assert work is not None
        awaited = self._step(work)
        if awaited is not None:
            self._protocol.go_on(self, _Continued(work, awaited))

    def _step(self, work: Coroutine[Any, None, None]) -> Any:
        """What it waits for now; None when nothing is left to do."""
        try:
            return work.send(None) or _TURN
        except StopIteration:
            if self.answered or CLIENT_LEFT in self.scope:
                self._protocol.ended(self)
            else:
                self._protocol.go_on(self, _ended)
        except BaseException as error:
            self._protocol.go_on(self, _Failed(error))
        return None

    def cancel(self) -> None:
        """The client has left."""
        self.scope[CLIENT_LEFT] = True
        if self._waits_for is not None:
            self._waits_for.cancel()


_TURN = object()
"""What `asyncio.sleep(0)` waits for: the next turn of the loop, which only a task gets."""


class _Continued:
    """An ASGI application that goes on with work that has been begun and waits for `awaited`."""

    def __init__(self, work: Coroutine[Any, None, None], awaited: Any) -> None:
        self._work = work
        self._awaited = None if awaited is _TURN else awaited

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI has it
        scope[RUNNING_TASK] = asyncio.current_task()
        await self._rest()

    @types.coroutine
    def _rest(self) -> Generator[Any, None, None]:
        while True:
            try:
                yield self._awaited
            except BaseException as error:
                try:
                    self._awaited = self._work.throw(error)
                except StopIteration:
                    return
            else:
                break
        yield from self._work


class _Failed:
    """An ASGI application that fails, so that uvicorn answers as it does when one fails."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def __call__(self, *_: object) -> None:
        raise self._error


async def _ended(*_: object) -> None:
    """An ASGI application that has ended."""
