"""The standard health service: the server as a whole (the empty name), our service, and each model by its name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from inference_engine.adapters.grpc.admission import Admission, abort
from inference_engine.adapters.grpc.protocol import SERVICE
from inference_engine.domain.errors import EngineError, InvalidRequest, NotFound
from inference_engine.services.health import HealthService
from inference_engine.services.models import ModelService

HEALTH = "grpc.health.v1.Health"
MAX_WATCHERS = 256
_LOOK_S = 0.25
_Response = health_pb2.HealthCheckResponse


class Health:
    """`Check` and `Watch`. What concerns the whole server is open to everybody, models to those who may use them."""

    def __init__(self, models: ModelService, health: HealthService, admission: Admission) -> None:
        self._models = models
        self._health = health
        self._admission = admission
        self._closing = asyncio.Event()
        self._watchers = 0

    def close(self) -> None:
        """End the streams of those who watch."""
        self._closing.set()

    def handlers(self) -> dict[str, Any]:
        read, write = health_pb2.HealthCheckRequest.FromString, _Response.SerializeToString
        return {
            "Check": grpc.unary_unary_rpc_method_handler(self._check, read, write),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch, read, write),
        }

    def _status(self, service: str) -> Any:
        """
        Raises:
            NotFound; InvalidRequest: there is no such model.
        """
        if service in ("", SERVICE):
            ready = self._health.ready
        else:
            ready = self._health.ready and self._models.is_ready(self._models.resolve(service).ref)
        return _Response.SERVING if ready and not self._closing.is_set() else _Response.NOT_SERVING

    def _admit(self, service: str, context: Any) -> None:
        if service not in ("", SERVICE):
            self._admission.admit(context)

    async def _check(self, request: Any, context: Any) -> Any:
        try:
            self._admit(request.service, context)
            return _Response(status=self._status(request.service))
        except (NotFound, InvalidRequest):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service and no model {request.service[:80]!r}")
        except EngineError as error:
            await abort(context, error, "Check")

    async def _watch(self, request: Any, context: Any) -> AsyncGenerator[Any]:
        """The status now, and again each time it changes; a model that is not there yet may come."""
        try:
            self._admit(request.service, context)
        except EngineError as error:
            await abort(context, error, "Watch")
        if self._watchers >= MAX_WATCHERS:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_WATCHERS} watch already: close other streams, or use Check"
            )
        self._watchers += 1
        try:
            told = None
            while True:
                ended = self._closing.is_set()
                status = self._known(request.service)
                if status != told:
                    told = status
                    yield _Response(status=status)
                if ended:
                    return
                await self._pause()
        finally:
            self._watchers -= 1

    def _known(self, service: str) -> Any:
        try:
            return self._status(service)
        except (NotFound, InvalidRequest):
            return _Response.SERVICE_UNKNOWN

    async def _pause(self) -> None:
        waiting = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait((waiting,), timeout=_LOOK_S)
        finally:
            waiting.cancel()
