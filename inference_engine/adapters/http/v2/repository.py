"""Metadata, readiness and the model repository of v2: what is there, load it, unload it.

No answer of v2's tensor part is compressed unasked: Triton's aio client says that it takes gzip and then reads it raw.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from inference_engine.adapters.http.decoding import decode
from inference_engine.adapters.http.exchange import Exchange
from inference_engine.adapters.http.v2 import wire
from inference_engine.domain.datatypes import DATATYPES
from inference_engine.domain.errors import ModelNotReady, UnknownField
from inference_engine.domain.model import ModelRef, TensorSpec
from inference_engine.domain.routing import version_key
from inference_engine.services.health import HealthService
from inference_engine.services.models import ModelService, ModelStatus

EXTENSIONS = [
    *("binary_tensor_data", "classification", "generate", "logging", "model_configuration", "model_repository"),
    *("model_repository(unload_dependents)", "parameters", "schedule_policy", "sequence", "statistics"),
    *("system_shared_memory", "trace"),
]
_STATES = {"ready": "READY", "loading": "LOADING", "draining": "UNLOADING"}
_ENCODER = msgspec.json.Encoder()
_INDEX = msgspec.json.Decoder(wire.IndexRequest)
_LOAD = msgspec.json.Decoder(wire.LoadRequest)
_UNLOAD_DEPENDENTS = "unload_dependents"


class Repository:
    """The endpoints beside infer."""

    def __init__(self, models: ModelService, health: HealthService, version: str) -> None:
        self._models = models
        self._health = health
        self._server = _ENCODER.encode(wire.ServerMetadata("inference-engine", version, EXTENSIONS))

    async def server(self, exchange: Exchange) -> None:
        await exchange.respond(200, self._server)

    async def live(self, exchange: Exchange) -> None:
        await exchange.respond(200, b'{"live":true}')

    async def ready(self, exchange: Exchange) -> None:
        if self._health.ready:
            await exchange.respond(200, b'{"ready":true}')
        else:
            await exchange.respond(503, b'{"ready":false}')

    async def metadata(self, exchange: Exchange) -> None:
        ref = self._ref(exchange)
        status = self._models.status(ref)
        versions = {other.version for other in self._models.statuses() if other.name == ref.name}
        signature = status.signature
        await self._json(
            exchange,
            wire.ModelMetadata(
                name=ref.name,
                versions=sorted(versions, key=version_key),
                platform=status.runtime,
                inputs=[_tensor(spec) for spec in signature.inputs] if signature else [],
                outputs=[_tensor(spec) for spec in signature.outputs] if signature else [],
                parameters={"version": ref.version, "task": status.task, "state": status.state},
            ),
        )

    async def model_ready(self, exchange: Exchange) -> None:
        ref = self._ref(exchange)
        status = self._models.status(ref)
        if status.state != "ready":
            why = status.error.message if status.error else "it is loaded by its first request, or by a load call"
            raise ModelNotReady(f"model {ref} is not ready but {status.state}: {why}", param="model")
        await exchange.respond(200, _ENCODER.encode({"name": ref.name, "version": ref.version, "ready": True}))

    async def index(self, exchange: Exchange) -> None:
        body = await exchange.body()
        only_ready = decode(_INDEX, body).ready if body.strip() else False
        statuses = self._models.statuses()
        await self._json(exchange, [_entry(status) for status in statuses if status.state == "ready" or not only_ready])

    async def load(self, exchange: Exchange) -> None:
        await self._refuse_parameters(exchange, ())
        await self._models.load(self._ref(exchange))
        await exchange.respond(200, b"{}")

    async def unload(self, exchange: Exchange) -> None:
        parameters = await self._refuse_parameters(exchange, (_UNLOAD_DEPENDENTS,))
        await self._models.unload(self._ref(exchange), stages=parameters.get(_UNLOAD_DEPENDENTS) is True)
        await exchange.respond(200, b"{}")

    async def _refuse_parameters(self, exchange: Exchange, known: tuple[str, ...]) -> Mapping[str, object]:
        """Triton may change a model's configuration while loading it; here the manifest is the one truth."""
        body = await exchange.body()
        parameters = decode(_LOAD, body).parameters if body.strip() else {}
        for name in parameters:
            if name not in known:
                raise UnknownField(
                    f"the parameter {name[:80]!r} is not supported: change the model's manifest, then load it",
                    param=name[:80],
                )
        return parameters

    def _ref(self, exchange: Exchange) -> ModelRef:
        params = exchange.path_params
        target = f"{params['model']}:{params['version']}" if "version" in params else params["model"]
        return self._models.resolve(target).ref

    @staticmethod
    async def _json(exchange: Exchange, value: object) -> None:
        await exchange.respond(200, _ENCODER.encode(value))


def _tensor(spec: TensorSpec) -> wire.TensorMetadata:
    return wire.TensorMetadata(spec.name, DATATYPES.get(spec.dtype, spec.dtype.upper()), spec.shape)


def _entry(status: ModelStatus) -> wire.IndexEntry:
    reason = status.error.message if status.error else "" if status.state == "ready" else status.state
    return wire.IndexEntry(status.name, status.version, _STATES.get(status.state, "UNAVAILABLE"), reason)
