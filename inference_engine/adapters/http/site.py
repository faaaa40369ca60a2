"""The one FastAPI application: every endpoint of every dialect, routed, and described in one OpenAPI.

Imported on first need only (see `cool.py`). Endpoints answer on the wire themselves; FastAPI finds them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import orjson
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from inference_engine.adapters.http.cool import EXCHANGE
from inference_engine.adapters.http.endpoints import Dialect, Doc, Endpoint
from inference_engine.adapters.http.exchange import Exchange, HttpError, Receive, Scope, Send
from inference_engine.adapters.http.openapi import Described, describe, security_schemes


class Runner(Protocol):
    """The edge, as it is seen from here."""

    async def run(self, endpoint: Endpoint, dialect: Dialect, exchange: Exchange) -> None: ...

    def dialect_of(self, path: str) -> Dialect: ...


class Through(Response):
    """A response that lets somebody else answer."""

    def __init__(self, answer: Callable[[], Awaitable[None]]) -> None:
        self.background = None
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        await self._answer()


def make_site(edge: Runner, dialects: tuple[Dialect, ...], version: str, key_header: str, api_docs: bool) -> FastAPI:
    """All endpoints as one application. Takes a third of a second."""
    app = FastAPI(
        title="Inference Engine",
        version=version,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    described: list[Described] = []
    for dialect in dialects:
        for endpoint in dialect.endpoints:
            if endpoint.doc is not None:
                described.append(_register(app, edge, dialect, endpoint, endpoint.doc))
    app.add_exception_handler(HTTPException, _refusal(edge))
    if api_docs:
        _serve_openapi(app, described, key_header)
    return app


def _register(app: FastAPI, edge: Runner, dialect: Dialect, endpoint: Endpoint, doc: Doc) -> Described:
    async def answer(request: Request) -> Response:
        exchange: Exchange = request.scope[EXCHANGE]
        exchange.path_params = request.path_params
        return Through(lambda: edge.run(endpoint, dialect, exchange))

    described = describe(endpoint, doc, dialect.name)
    app.add_api_route(
        endpoint.path,
        answer,
        methods=[endpoint.method],
        response_model=None,
        summary=doc.summary,
        description=doc.description or None,
        tags=[dialect.title],
        operation_id=described.operation_id,
        openapi_extra=described.extra,
        responses=described.responses,
    )
    return described


def _refusal(edge: Runner) -> Callable[[Request, Exception], Awaitable[Response]]:
    """What the router refuses (404, 405), in the shape of the dialect that owns the path."""

    async def refused(request: Request, error: Exception) -> Response:
        exchange: Exchange = request.scope[EXCHANGE]
        dialect = edge.dialect_of(exchange.path)

        async def refuse(exchange: Exchange) -> None:
            raise _http_error(exchange, error)

        return Through(lambda: edge.run(Endpoint("GET", exchange.path, refuse), dialect, exchange))

    return refused


def _http_error(exchange: Exchange, error: Exception) -> HttpError:
    assert isinstance(error, HTTPException)
    path = exchange.path[:200]
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return HttpError(
            405,
            "method_not_allowed",
            f"{path} takes {allowed}, not {exchange.method}",
            headers=((b"allow", allowed.encode("latin-1")),),
        )
    if error.status_code == 404:
        return HttpError(404, "not_found", f"there is nothing at {path}: see /docs for what there is")
    return HttpError(error.status_code, "http_error", str(error.detail))


def _serve_openapi(app: FastAPI, described: list[Described], key_header: str) -> None:
    document: bytes | None = None

    def written() -> bytes:
        made: dict[str, Any] = app.openapi()
        components = made.setdefault("components", {})
        for one in described:
            components.setdefault("schemas", {}).update(one.schemas)
        components["securitySchemes"] = security_schemes(key_header)
        return orjson.dumps(made)

    async def openapi(request: Request) -> Response:
        nonlocal document
        exchange: Exchange = request.scope[EXCHANGE]
        body = document = document or written()
        return Through(lambda: exchange.respond(200, body, compress=True))

    app.add_route("/openapi.json", openapi, include_in_schema=False)
