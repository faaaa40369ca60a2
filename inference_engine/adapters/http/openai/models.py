"""GET /v1/models: the names that can be asked for."""

from __future__ import annotations

import msgspec

from inference_engine.adapters.http.exchange import Exchange
from inference_engine.adapters.http.openai.wire import Model, ModelList
from inference_engine.services.models import ModelService, ModelStatus

_ENCODER = msgspec.json.Encoder()


class Models:
    """Routes first, then every exact `name:version`."""

    def __init__(self, models: ModelService) -> None:
        self._models = models

    async def list(self, exchange: Exchange) -> None:
        statuses = {(status.name, status.version): status for status in self._models.statuses()}
        found = [
            _model(route.name, route.rule, statuses[route.target.name, route.target.version])
            for route in self._models.routes()
            if (route.target.name, route.target.version) in statuses
        ]
        found += [_model(f"{status.name}:{status.version}", "exact", status) for status in statuses.values()]
        await exchange.respond(200, _ENCODER.encode(ModelList("list", found)), compress=True)

    async def get(self, exchange: Exchange) -> None:
        served = self._models.resolve(exchange.path_params["model"])
        model = _model(served.route, served.rule, self._models.status(served.ref))
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
