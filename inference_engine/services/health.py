"""Whether the server and each model can answer, told truthfully. Knows no transport."""

from __future__ import annotations

import msgspec

from inference_engine.services.live import ModelState
from inference_engine.services.models import ModelService, ModelStatus


class ModelHealth(msgspec.Struct, frozen=True):
    """One model: `ready` means that a request would be computed without loading first."""

    name: str
    version: str
    state: ModelState
    ready: bool
    error: str | None = None


class ServerHealth(msgspec.Struct, frozen=True):
    ready: bool
    reason: str
    models: list[ModelHealth]


class HealthService:
    """Readiness of the server. Whoever runs it calls `opened` when models are open, `closing` before they close."""

    def __init__(self, models: ModelService) -> None:
        self._models = models
        self._reason = "starting"

    def opened(self) -> None:
        """The repository is adopted and what is to be preloaded was loaded: requests are welcome."""
        self._reason = ""

    def closing(self) -> None:
        """The server ends: no new requests, please."""
        self._reason = "shutting down"

    @property
    def ready(self) -> bool:
        return not self._reason

    def server(self) -> ServerHealth:
        """Ready or why not, and every model. A model that is not loaded does not make the server unready."""
        return ServerHealth(self.ready, self._reason, [_health(status) for status in self._models.statuses()])

    def model(self, target: str) -> ModelHealth:
        """One model by route name or `name:version`.

        Raises:
            ModelNotFound; InvalidRequest.
        """
        return _health(self._models.status(self._models.resolve(target).ref))


def _health(status: ModelStatus) -> ModelHealth:
    return ModelHealth(
        status.name,
        status.version,
        status.state,
        status.state == "ready",
        status.error.message if status.error else None,
    )
