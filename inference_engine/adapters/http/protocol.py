"""uvicorn's HTTP protocol with a short way for small requests. Knows uvicorn, no dialect and no endpoint."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any, Protocol, runtime_checkable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from inference_engine.adapters.http.exchange import RUNNING_TASK, WHOLE_ANSWER, Message, Receive, Scope, Send

_CLOCK_TICK_S = 0.001  # timers may come this much early


@runtime_checkable
class PromptApp(Protocol):
    """An ASGI application that can begin some requests without a task."""

    def prompt_path(self, method: bytes, url: bytes) -> str | None:
        """The path of such a request, None for every other."""

    def begin(self, scope: Scope, receive: Receive, send: Send, path: str, body: bytes) -> Coroutine[Any, None, None]:
        """Answers it. `body` is whole; `scope` has method and path only once `receive` or `send` was called."""


class ShortWayProtocol(HttpToolsProtocol):
    """Begins some requests at once, and writes whole answers in one call.

    - What a `PromptApp` says it can begin is begun where its last byte is read, if it came in one piece. Many of these
      are answered before they wait for anything: they need no task, and none of what uvicorn makes for a request. One
      that waits goes on in a task, which the scope holds as `RUNNING_TASK`, as any other request of uvicorn.
    - The ASGI extension `WHOLE_ANSWER` takes head and body of an answer together. The two `send` calls that it replaces
      check, render and count every header of every answer anew, which costs as much as decoding a small request.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._prompt = self.app if isinstance(self.app, PromptApp) else None
        self._path: str | None = None
        self._body = b""
        self._begun: _Begun | None = None
        self._extensions: dict[str, Any] = {WHOLE_ANSWER: self._answer}
        self._idle_since: float | None = None
        self._defaults: object = None
        self._default_lines = b""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._extensions = {}  # which held this connection
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None

    # -- the connection ------------------------------------------------------------------------------------------

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
        super().on_message_begin()
        self.scope["extensions"] = self._extensions

    def on_headers_complete(self) -> None:
        if self._prompt is not None and (self.cycle is None or self.cycle.response_complete):
            path = self._prompt.prompt_path(self.parser.get_method(), self.url)
            if path is not None and not self.expect_100_continue and not self.parser.should_upgrade():
                self._path = path
                self._body = b""
                return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._path is None:
            super().on_body(body)
        else:
            self._body = self._body + body if self._body else body

    def on_message_complete(self) -> None:
        path, self._path = self._path, None
        if path is None:
            super().on_message_complete()
        else:
            self._begin(path)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._path is not None:  # it did not come in one piece
            self._path = None
            super().on_headers_complete()
            if self._body:
                super().on_body(self._body)

    def _begin(self, path: str) -> None:
        assert self._prompt is not None
        begun = self._begun = _Begun(self)
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]  # to which we add keys of our own
        scope[RUNNING_TASK] = None
        work = self._prompt.begin(scope, begun.receive, begun.send, path, self._body)
        rest: Any = None
        try:
            awaited = work.send(None)
        except StopIteration:
            if not begun.answered:
                rest = _ended
        except BaseException as error:
            rest = _Failed(error)
        else:
            rest = _Continued(work, awaited)
        if rest is not None:
            super()._start_asgi_task(begun.made(), rest)
        self._begun = None

    def make_cycle(self) -> RequestResponseCycle:
        """What uvicorn makes for a request, for the one that has been begun."""
        super().on_headers_complete()
        self.cycle.more_body = False
        return self.cycle

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._begun is None:
            super()._start_asgi_task(cycle, app)

    # -- the answer ----------------------------------------------------------------------------------------------

    def _answer(self, status: int, lines: bytes, body: bytes) -> bool:
        """Write an answer whose rendered header `lines` are known to be good.

        False, and nothing done, where uvicorn's own way has more to do: it delays, closes, or another request of this
        connection has been read already.
        """
        begun = self._begun
        cycle = self.cycle if begun is None else begun.cycle
        if cycle is None:
            if self.access_log or self.parser.get_http_version() == "1.0" or not self.parser.should_keep_alive():
                return False
        elif self.pipeline or not cycle.keep_alive or cycle.response_started or cycle.disconnected or cycle.access_log:
            return False
        if self.flow.write_paused:
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
    """A request that was begun without uvicorn's `cycle`, which is made when it is needed."""

    __slots__ = ("_protocol", "answered", "cycle")

    def __init__(self, protocol: ShortWayProtocol) -> None:
        self._protocol = protocol
        self.answered = False
        self.cycle: RequestResponseCycle | None = None

    def made(self) -> RequestResponseCycle:
        if self.cycle is None:
            self.cycle = self._protocol.make_cycle()
        return self.cycle

    async def receive(self) -> Message:
        message: Message = await self.made().receive()  # type: ignore[assignment]  # uvicorn types each message
        return message

    async def send(self, message: Any) -> None:
        cycle = self.made()
        await cycle.send(message)
        self.answered = cycle.response_complete


class _Continued:
    """An ASGI application that goes on with work that has been begun and waits for `awaited`."""

    def __init__(self, work: Coroutine[Any, None, None], awaited: Any) -> None:
        self._work = work
        self._awaited = awaited

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
