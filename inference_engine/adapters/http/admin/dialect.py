"""The admin endpoints: models, routes, refresh, system; with what the documentation says of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from inference_engine.adapters.http.admin import errors, wire
from inference_engine.adapters.http.decoding import decode
from inference_engine.adapters.http.endpoints import Dialect, Doc, Endpoint
from inference_engine.adapters.http.exchange import Exchange
from inference_engine.domain.model import ModelRef, check_name
from inference_engine.domain.routing import Route, parse_exact
from inference_engine.services.models import ModelService, ModelStatus
from inference_engine.services.reuse import CacheStats, ReuseService

_PIN = msgspec.json.Decoder(wire.PinRequest)
_ENCODER = msgspec.json.Encoder()


class Admin:
    """What an operator can see and do. `system` describes machine and server as plain values."""

    def __init__(self, models: ModelService, reuse: ReuseService, system: Callable[[], Any]) -> None:
        self._models = models
        self._reuse = reuse
        self._system = system

    async def models(self, exchange: Exchange) -> None:
        broken = [wire.Broken(str(model.folder), model.message) for model in self._models.broken]
        await _json(exchange, wire.Models(self._models.statuses(), broken))

    async def model(self, exchange: Exchange) -> None:
        ref = _ref(exchange)
        stored = self._models.stored(ref)
        manifest = msgspec.to_builtins(stored.manifest)
        details = wire.ModelDetails(manifest, str(stored.folder), stored.assumed)
        await _json(exchange, _with_fields(self._models.status(ref), details))

    async def load(self, exchange: Exchange) -> None:
        ref = _ref(exchange)
        await self._models.load(ref)
        await _json(exchange, self._models.status(ref))

    async def unload(self, exchange: Exchange) -> None:
        ref = _ref(exchange)
        returned = await self._models.unload(ref)
        await _json(exchange, _with_fields(self._models.status(ref), wire.Unloaded(returned)))

    async def routes(self, exchange: Exchange) -> None:
        await _json(exchange, wire.Routes(self._models.routes()))

    async def pin(self, exchange: Exchange) -> None:
        name = check_name(exchange.path_params["name"], "route")
        body = decode(_PIN, await exchange.body())
        self._models.pin_route(name, parse_exact(body.target))
        await _json(exchange, self._route(name))

    async def unpin(self, exchange: Exchange) -> None:
        self._models.unpin_route(exchange.path_params["name"])
        await _json(exchange, wire.Routes(self._models.routes()))

    async def refresh(self, exchange: Exchange) -> None:
        self._models.refresh()
        await self.models(exchange)

    async def cache(self, exchange: Exchange) -> None:
        await _json(exchange, self._reuse.stats())

    async def clear_cache(self, exchange: Exchange) -> None:
        ref = _ref(exchange) if exchange.path_params else None
        if ref is not None:
            self._models.stored(ref)
        cleared = self._reuse.clear(ref)
        await _json(exchange, _with_fields(self._reuse.stats(), wire.Cleared(cleared)))

    async def system(self, exchange: Exchange) -> None:
        await _json(exchange, self._system())

    def _route(self, name: str) -> Route:
        return next(route for route in self._models.routes() if route.name == name)


def _ref(exchange: Exchange) -> ModelRef:
    params = exchange.path_params
    return ModelRef(check_name(params["name"]), check_name(params["version"], "version"))


def _with_fields(status: msgspec.Struct, more: msgspec.Struct) -> dict[str, Any]:
    """A status and what one endpoint adds to it, as one object."""
    return msgspec.structs.asdict(status) | msgspec.structs.asdict(more)


async def _json(exchange: Exchange, value: object) -> None:
    await exchange.respond(200, _ENCODER.encode(value), compress=True)


def dialect(models: ModelService, reuse: ReuseService, system: Callable[[], Any]) -> Dialect:
    """The admin API."""
    admin = Admin(models, reuse, system)
    model = "/admin/models/{name}/{version}"
    route = "/admin/routes/{name}"
    fields = "The fields of the cache's statistics, and these."
    cleared = Doc("Forget all answers", fields, response=wire.Cleared)
    cleared_of_model = Doc("Forget the answers of one model", fields, response=wire.Cleared, errors=(404,))
    return Dialect(
        "admin",
        "Administration",
        ("/admin/",),
        errors.render,
        (
            Endpoint("GET", "/admin/models", admin.models, Doc("All models and their states", response=wire.Models)),
            Endpoint(
                "GET",
                model,
                admin.model,
                Doc(
                    "One model with its manifest",
                    "The fields of the model's status, and these.",
                    response=wire.ModelDetails,
                    errors=(404,),
                ),
            ),
            Endpoint(
                "POST", model + "/load", admin.load, Doc("Load a model", response=ModelStatus, errors=(404, 422, 503))
            ),
            Endpoint(
                "POST",
                model + "/unload",
                admin.unload,
                Doc(
                    "Unload a model",
                    "Work in flight is finished first. The fields of the model's status, and these.",
                    response=wire.Unloaded,
                    errors=(404,),
                ),
            ),
            Endpoint("GET", "/admin/routes", admin.routes, Doc("All public names", response=wire.Routes)),
            Endpoint(
                "PUT",
                route,
                admin.pin,
                Doc(
                    "Make a name lead to one exact model",
                    request=wire.PinRequest,
                    request_examples={"pin": {"target": "iris:1"}},
                    response=Route,
                    errors=(400, 404),
                ),
            ),
            Endpoint("DELETE", route, admin.unpin, Doc("Take the pin away", response=wire.Routes, errors=(404,))),
            Endpoint(
                "POST", "/admin/refresh", admin.refresh, Doc("Read the model repository again", response=wire.Models)
            ),
            Endpoint("GET", "/admin/cache", admin.cache, Doc("Answers that are kept", response=CacheStats)),
            Endpoint("DELETE", "/admin/cache", admin.clear_cache, cleared),
            Endpoint("DELETE", "/admin/cache/{name}/{version}", admin.clear_cache, cleared_of_model),
            Endpoint("GET", "/admin/system", admin.system, Doc("The machine and this server", response=dict[str, Any])),
        ),
    )
