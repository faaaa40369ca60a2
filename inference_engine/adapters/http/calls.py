"""What every dialect does alike around a use case: the call that travels with it, the headers that say who served."""

from __future__ import annotations

import math
from collections.abc import Callable

from inference_engine.adapters.http.exchange import Exchange, Header
from inference_engine.domain.errors import EngineError, InvalidRequest
from inference_engine.domain.requests import Call
from inference_engine.domain.results import Served

TIMEOUT_HEADER = b"x-request-timeout"


class Calls:
    """Makes the `Call` of a request. `limit_s` bounds every request; a client may ask for less in X-Request-Timeout."""

    __slots__ = ("_clock", "_limit_s")

    def __init__(self, clock: Callable[[], float], limit_s: float) -> None:
        self._clock = clock
        self._limit_s = limit_s

    def of(self, exchange: Exchange, own_limit_s: float | None = None, priority: int = 0) -> Call:
        """The call of this exchange; its deadline counts from now. `own_limit_s` is a dialect's own field for it.

        A lower `priority` is served first.

        Raises:
            InvalidRequest: X-Request-Timeout is not a positive number of seconds.
        """
        limit_s = self._limit_s if own_limit_s is None else min(self._limit_s, own_limit_s)
        if TIMEOUT_HEADER in exchange.headers:
            limit_s = min(limit_s, _seconds(exchange.headers[TIMEOUT_HEADER]))
        return Call(
            exchange.request_id.decode("latin-1"),
            exchange.principal,
            self._clock() + limit_s,
            priority + exchange.priority,
        )


def _seconds(value: bytes) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise InvalidRequest(
            "X-Request-Timeout must be a positive number of seconds, for example 30", param="X-Request-Timeout"
        )
    return seconds


_headers: dict[str, tuple[Served, tuple[Header, ...]]] = {}
_REMEMBERED = 1024


def served_headers(served: Served) -> tuple[Header, ...]:
    """Which version answered, under which public name, by which rule. Remembered: routes give the same object."""
    known = _headers.get(served.route)
    if known is not None and known[0] is served:
        return known[1]
    headers: tuple[Header, ...] = (
        (b"x-model-version", served.ref.version.encode("latin-1")),
        (b"x-model-route", served.route.encode("latin-1")),
        (b"x-model-rule", served.rule.encode("latin-1")),
    )
    if served.adapter is not None:
        headers += ((b"x-model-adapter", served.adapter.encode("latin-1")),)
    if len(_headers) >= _REMEMBERED:
        _headers.clear()
    _headers[served.route] = (served, headers)
    return headers


def retry_headers(error: EngineError) -> tuple[Header, ...]:
    """When to come back, in whole seconds, where the error says so."""
    if error.retry_after_s is None:
        return ()
    return ((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))),)
