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
        found: list[Model] = []
        for route in self._models.routes():
            status = statuses.get((route.target.name, route.target.version))
            if status is not None:
                found += _with_adapters(route.name, route.rule, status)
        for status in statuses.values():
            found += _with_adapters(f"{status.name}:{status.version}", "exact", status)
        await exchange.respond(200, _ENCODER.encode(ModelList("list", found)), compress=True)

    async def get(self, exchange: Exchange) -> None:
        served = self._models.resolve(exchange.path_params["model"])
        status = self._models.status(served.ref)
        if served.adapter is not None and served.adapter not in status.adapters:
            known = ", ".join(status.adapters) or "none"
            raise ModelNotFound(
                f"{served.ref} has no adapter {served.adapter!r}; known adapters: {known}", param="model"
            )
        parent = served.route.partition("@")[0] if served.adapter else None
        model = _model(served.route, served.rule, status, parent)
        await exchange.respond(200, _ENCODER.encode(model), compress=True)


def _with_adapters(public: str, rule: str, status: ModelStatus) -> list[Model]:
    adapters = [_model(f"{public}@{adapter}", rule, status, public) for adapter in status.adapters]
    return [_model(public, rule, status), *adapters]


def _model(public: str, rule: str, status: ModelStatus, parent: str | None = None) -> Model:
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
        parent=parent,
    )
