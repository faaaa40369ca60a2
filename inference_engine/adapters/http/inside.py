"""A request that comes from inside the server: its endpoint's own handler answers it, and no socket is involved.

What is asked this way is decoded, checked, computed and encoded by exactly the code that serves clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from inference_engine.adapters.http.endpoints import ErrorAnswer, Handler
from inference_engine.adapters.http.exchange import Departures, Exchange, HttpError, Message
from inference_engine.core.logging import get_logger
from inference_engine.domain.errors import EngineError
from inference_engine.domain.requests import Call

_log = get_logger(__name__)


class Inside(NamedTuple):
    """The answer. `error` is what was raised, where that made the answer."""

    status: int
    body: bytes
    error: Exception | None = None


class _Wire:
    """The two ends of an ASGI connection that leads nowhere."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self.sent = bytearray()

    async def receive(self) -> Message:
        if self._body is None:
            await asyncio.Event().wait()  # this client never leaves; it is cancelled
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        self.sent += message.get("body", b"")


async def answer_inside(
    handler: Handler, render_error: Callable[[EngineError | HttpError], ErrorAnswer], path: str, body: bytes, call: Call
) -> Inside:
    """Let `handler` answer a JSON body that is posted to `path` for `call`. Raises nothing but cancellation."""
    wire = _Wire(body)
    exchange = Exchange(
        {"type": "http", "query_string": b""},
        wire.receive,
        wire.send,
        "POST",
        path,
        {b"content-type": b"application/json"},
        call.id.encode(),
        (),
        len(body),
        Departures(),
        principal=call.principal,
        watched=True,  # nobody leaves
        priority=call.priority,
    )
    try:
        await handler(exchange)
    except (EngineError, HttpError) as error:
        answer = render_error(error)
        return Inside(answer.status, answer.body, error)
    except Exception as error:
        _log.error("unexpected error", request_id=call.id, path=path, exc_info=error)
        failed = HttpError(500, "internal_error", f"the server failed unexpectedly; its log says more under {call.id}")
        return Inside(500, render_error(failed).body, error)
    return Inside(exchange.status, bytes(wire.sent))
