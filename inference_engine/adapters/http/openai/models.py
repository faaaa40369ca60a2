"""GET /v1/models: the names that can be asked for."""

from __future__ import annotations

import msgspec

from inference_engine.adapters.http.exchange import Exchange
from inference_engine.adapters.http.openai.wire import Model, ModelList
from inference_engine.domain.errors import ModelNotFound
from inference_engine.services.models import ModelService, ModelStatus

_ENCODER = msgspec.json.Encoder()


class Models:
    """Routes first, then every exact `name:version`; behind each its LoRA adapters as `name@adapter`."""

    def __init__(self, models: ModelService) -> None:
        self._models = models

    async def list(self, exchange: Exchange) -> None:
        statuses = {(status.name, status.version): status for status in self._models.statuses()}
        named: list[tuple[str, str, ModelStatus]] = [
            (route.name, route.rule, statuses[route.target.name, route.target.version])
            for route in self._models.routes()
            if (route.target.name, route.target.version) in statuses
        ]
        named += [(f"{status.name}:{status.version}", "exact", status) for status in statuses.values()]
        found = [
            _model(public, rule, status)
            for name, rule, status in named
            for public in (name, *(f"{name}@{adapter}" for adapter in status.adapters))
        ]
        await exchange.respond(200, _ENCODER.encode(ModelList("list", found)), compress=True)

    async def get(self, exchange: Exchange) -> None:
        served = self._models.resolve(exchange.path_params["model"])
        status = self._models.status(served.ref)
        if served.adapter is not None and served.adapter not in status.adapters:
            known = ", ".join(status.adapters) or "none"
            raise ModelNotFound(
                f"{served.ref} has no adapter {served.adapter!r}; known adapters: {known}", param="model"
            )
        model = _model(served.route, served.rule, status)
        await exchange.respond(200, _ENCODER.encode(model), compress=True)


def _model(public: str, rule: str, status: ModelStatus) -> Model:
    return Model(
        id=public,
        object="model",
        created=int(status.loaded_at.timestamp()) if status.loaded_at else 0,
        owned_by="inference-engine",
        name=status.name,
        version=status.version,
        rule=rule,
        task=status.task,
        state=status.state,
        description=status.description,
        context_length=status.context_length,
        capabilities=status.capabilities,
    )
