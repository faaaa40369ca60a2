"""Cross-origin requests: which pages may call this server from a browser."""

from __future__ import annotations

from inference_engine.adapters.http.exchange import Exchange, Header
from inference_engine.domain.errors import Forbidden

_METHODS = b"GET, POST, PUT, DELETE, HEAD"
_EXPOSED = b"X-Request-Id, X-Inference-Engine, X-Model-Version, X-Model-Route, X-Model-Rule, X-Cache, Retry-After"
_PREFLIGHT_AGE_S = b"600"


class Cors:
    """Answers preflights and marks answers for allowed origins (`*` allows all).

    With `guard`, a browser's writing request from another site is refused unless its origin is allowed: without keys
    any page that the operator happens to visit could otherwise command this server.
    """

    def __init__(self, origins: tuple[str, ...], *, guard: bool) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origin.encode("latin-1") for origin in origins)
        self._guard = guard

    async def answered(self, exchange: Exchange) -> bool:
        """Called for requests with an `Origin`. True when the request was a preflight and has its answer.

        Raises:
            Forbidden: a foreign page wants to write.
        """
        origin = exchange.headers[b"origin"]
        allowed = self._any or origin in self._origins
        if allowed:
            exchange.extra_headers = (*exchange.extra_headers, *self._allow(origin))
        if exchange.method == "OPTIONS" and b"access-control-request-method" in exchange.headers:
            await exchange.respond(204, b"", headers=self._preflight(exchange) if allowed else ())
            return True
        if self._guard and not allowed and exchange.headers.get(b"sec-fetch-site") == b"cross-site":
            raise Forbidden(
                f"pages of {origin.decode('latin-1')[:200]} may not use this server: add it to cors_origins"
            )
        return False

    def _allow(self, origin: bytes) -> tuple[Header, ...]:
        return (
            (b"access-control-allow-origin", b"*" if self._any else origin),
            (b"access-control-expose-headers", _EXPOSED),
            (b"vary", b"Origin"),
        )

    def _preflight(self, exchange: Exchange) -> tuple[Header, ...]:
        asked = exchange.headers.get(b"access-control-request-headers", b"*")
        return (
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", asked),
            (b"access-control-max-age", _PREFLIGHT_AGE_S),
        )
