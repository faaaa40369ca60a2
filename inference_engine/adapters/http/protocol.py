"""uvicorn's HTTP protocol with a short way for whole answers. Knows uvicorn, no dialect and no endpoint."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from inference_engine.adapters.http.exchange import WHOLE_ANSWER


class WholeAnswersProtocol(HttpToolsProtocol):
    """Offers the ASGI extension `WHOLE_ANSWER`: head and body of an answer are given in one call.

    The two `send` calls that it replaces check, render and count every header of every answer anew, which costs as much
    as decoding a small request.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._extensions: dict[str, Any] = {WHOLE_ANSWER: self._answer}
        self._defaults: object = None
        self._default_lines = b""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._extensions = {}  # which held this connection

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = self._extensions

    def _answer(self, status: int, lines: bytes, body: bytes) -> bool:
        """Write an answer whose rendered header `lines` are known to be good.

        False, and nothing done, where uvicorn's own way has more to do: it delays, closes, or another request of this
        connection has been read already.
        """
        cycle = self.cycle
        if self.pipeline or not cycle.keep_alive or cycle.response_started or cycle.disconnected:
            return False
        if self.flow.write_paused or cycle.access_log:
            return False
        defaults = self.server_state.default_headers
        if defaults is not self._defaults:  # uvicorn makes them anew every second, for the date
            self._defaults = defaults
            self._default_lines = b"".join(b"%b: %b\r\n" % header for header in defaults)
        self.transport.write(b"".join((STATUS_LINE[status], self._default_lines, lines, b"\r\n")))
        self.transport.write(body)
        cycle.waiting_for_100_continue = False
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        cycle.on_response()
        return True
