"""What runs beside the dialects: health, metrics, the console's files and the documentation page."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from inference_engine.adapters.http.admin import errors
from inference_engine.adapters.http.console import Console
from inference_engine.adapters.http.docs_page import docs_page
from inference_engine.adapters.http.endpoints import Dialect, Doc, Endpoint
from inference_engine.adapters.http.exchange import Exchange
from inference_engine.services.health import HealthService, ModelHealth, ServerHealth

_ENCODER = msgspec.json.Encoder()


class Health:
    """Truthful answers: 200 when ready, 503 when not, with the reason in the body."""

    def __init__(self, health: HealthService) -> None:
        self._health = health

    async def live(self, exchange: Exchange) -> None:
        await exchange.respond(200, b'{"status":"live"}')

    async def ready(self, exchange: Exchange) -> None:
        health = self._health.server()
        await exchange.respond(200 if health.ready else 503, _ENCODER.encode(health))

    async def model(self, exchange: Exchange) -> None:
        params = exchange.path_params
        health = self._health.model(":".join(params[key] for key in ("name", "version") if key in params))
        await exchange.respond(200 if health.ready else 503, _ENCODER.encode(health))


def dialect(
    health: HealthService, exposition: Callable[[], tuple[bytes, str]], console: Console, api_docs: bool
) -> Dialect:
    """Endpoints for operators' machinery and browsers. Owns every path that no dialect claims."""
    states = Health(health)

    async def metrics(exchange: Exchange) -> None:
        body, content_type = exposition()
        await exchange.respond(200, body, content_type.encode("latin-1"), compress=True)

    async def root(exchange: Exchange) -> None:
        if exchange.method == "HEAD":  # how tools made for Ollama ask whether it runs
            await exchange.respond(200, b"Ollama is running", b"text/plain; charset=utf-8")
        else:
            await console.redirect(exchange)

    of_model = Doc("Whether a model is loaded and answers", response=ModelHealth, errors=(404, 503))
    endpoints: tuple[Endpoint, ...] = (
        Endpoint("GET", "/health/live", states.live, Doc("The process runs"), hot=True, public=True),
        Endpoint(
            "GET",
            "/health/ready",
            states.ready,
            Doc("The server takes requests", response=ServerHealth, errors=(503,)),
            hot=True,
            public=True,
        ),
        Endpoint("GET", "/health/models/{name}", states.model, of_model, hot=True, public=True),
        Endpoint("GET", "/health/models/{name}/{version}", states.model, of_model, hot=True, public=True),
        Endpoint("GET", "/metrics", metrics, Doc("Prometheus metrics", response_type="text/plain"), hot=True),
        Endpoint("GET", "/", root, hot=True, public=True),
        Endpoint("GET", "/console", console.redirect, hot=True, public=True),
        Endpoint("GET", "/console/{file:path}", console.file, hot=True, public=True),
        Endpoint("GET", "/favicon.ico", console.favicon, hot=True, public=True),
    )
    if api_docs:
        endpoints += (Endpoint("GET", "/docs", docs_page, hot=True, public=True),)
    return Dialect("operations", "Operations", ("/health/", "/metrics"), errors.render, endpoints)
