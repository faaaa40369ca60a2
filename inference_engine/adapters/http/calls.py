"""What every dialect does alike around a use case: the call that travels with it, the headers that say who served."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from inference_engine.adapters.http.exchange import Exchange, Header
from inference_engine.domain.errors import EngineError, InvalidRequest
from inference_engine.domain.requests import Call, Reuse
from inference_engine.domain.results import Served

TIMEOUT_HEADER = b"x-request-timeout"
PRIORITY_HEADER = b"x-priority"
CACHE_HEADER = b"x-cache"
MAX_PRIORITY = 1000
_CACHE_WORDS: dict[str, Reuse] = {"auto": "auto", "always": "always", "refresh": "refresh", "never": "never"}


class Calls:
    """Makes the `Call` of a request. `limit_s` bounds every request; a client may ask for less in X-Request-Timeout."""

    __slots__ = ("_clock", "_limit_s")

    def __init__(self, clock: Callable[[], float], limit_s: float) -> None:
        self._clock = clock
        self._limit_s = limit_s

    def of(self, exchange: Exchange, own_limit_s: float | None = None, priority: int = 0) -> Call:
        """The call of this exchange; its deadline counts from now. `own_limit_s` is a dialect's own field for it.

        A lower `priority` is served first; X-Priority stands for it where the dialect's own field was not used.

        Raises:
            InvalidRequest: X-Request-Timeout, X-Priority or X-Cache holds what it may not, or `priority` is negative:
                nobody may push in front of those who say nothing.
        """
        headers = exchange.headers
        limit_s = self._limit_s if own_limit_s is None else min(self._limit_s, own_limit_s)
        if TIMEOUT_HEADER in headers:
            limit_s = min(limit_s, _seconds(headers[TIMEOUT_HEADER]))
        if priority < 0:
            raise InvalidRequest("priority must be a whole number from 0; 0 is served first", param="priority")
        if PRIORITY_HEADER in headers:
            priority = priority or _priority(headers[PRIORITY_HEADER])
        reuse = _reuse(headers) if CACHE_HEADER in headers or b"cache-control" in headers else "auto"
        return Call(
            exchange.request_id.decode("latin-1"),
            exchange.principal,
            self._clock() + limit_s,
            priority + exchange.priority,
            reuse,
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


def _priority(value: bytes) -> int:
    if not value.isdigit() or int(value[:9]) > MAX_PRIORITY:
        raise InvalidRequest(
            f"X-Priority must be a whole number from 0 to {MAX_PRIORITY}; 0 is served first", param="X-Priority"
        )
    return int(value[:9])


def _reuse(headers: Mapping[bytes, bytes]) -> Reuse:
    """What the client says of kept answers: X-Cache in our words, else Cache-Control in HTTP's."""
    value = headers.get(CACHE_HEADER)
    if value is not None:
        word = _CACHE_WORDS.get(value.decode("latin-1").strip().lower())
        if word is None:
            raise InvalidRequest(f"X-Cache must be one of {', '.join(_CACHE_WORDS)}", param="X-Cache")
        return word
    directives = [part.strip() for part in headers.get(b"cache-control", b"").lower().split(b",")]
    if b"no-store" in directives:
        return "never"
    return "refresh" if b"no-cache" in directives or b"max-age=0" in directives else "auto"


_headers: dict[str, tuple[Served, tuple[Header, ...]]] = {}
_REMEMBERED = 1024


def served_headers(served: Served) -> tuple[Header, ...]:
    """Which version answered, under which public name, by which rule, and whether it had answered this before."""
    if served.cache is None:
        return _named(served)
    return (*_named(served), (CACHE_HEADER, served.cache.encode()))


def _named(served: Served) -> tuple[Header, ...]:
    """Remembered: routes give the same object."""
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
