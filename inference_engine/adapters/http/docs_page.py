"""GET /docs: a page that renders /openapi.json without asking any other server for anything."""

from __future__ import annotations

from inference_engine.adapters.http.exchange import Exchange


async def docs_page(exchange: Exchange) -> None:
    await exchange.respond(200, b"todo", b"text/html")
