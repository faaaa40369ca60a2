"""The composition root: the one place that sees every layer and wires it. Every part can be replaced by the caller."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from inference_engine.adapters import python_api
from inference_engine.core.settings import Settings
from inference_engine.domain.model import ModelRef
from inference_engine.domain.ports import ExecutorFactory, ModelRepository, RouteStore, Telemetry
from inference_engine.infra.executors.factory import Executors
from inference_engine.infra.executors.runner import Supervision
from inference_engine.infra.repository import FolderRepository
from inference_engine.infra.routes_file import RoutesFile
from inference_engine.infra.runtimes.catalog import EntryPointCatalog
from inference_engine.infra.telemetry import NullTelemetry
from inference_engine.services.inference import InferenceService
from inference_engine.services.models import ModelService

BUILTIN_MODELS = Path(__file__).parent / "infra" / "builtin_models"


class Application:
    """The wired services. Holds no state of its own."""

    def __init__(
        self,
        settings: Settings,
        *,
        repository: ModelRepository | None = None,
        executors: ExecutorFactory | None = None,
        routes: RouteStore | None = None,
        telemetry: Telemetry | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.catalog = EntryPointCatalog()
        self.repository = repository or FolderRepository(model_roots(settings))
        telemetry = telemetry or NullTelemetry()

        def restarted(ref: ModelRef) -> None:
            telemetry.restart(ref)

        self.models = ModelService(
            self.repository,
            executors or Executors(self.catalog.create, clock, restarted, Supervision()),
            routes or RoutesFile(settings.state_dir),
            telemetry,
            clock,
            settings.drain_s,
        )
        self.inference = InferenceService(self.models, telemetry, clock)


def model_roots(settings: Settings) -> tuple[Path, ...]:
    """The folders that are searched for models, the built-in ones last so that an operator's model wins."""
    return (*settings.models, BUILTIN_MODELS) if settings.builtin_models else settings.models


def read_settings(flags: Mapping[str, object] | None = None) -> Settings:
    """Settings from flags, the environment of this process and the configuration file."""
    settings, _ = Settings.load(flags or {}, os.environ, Path.cwd())
    return settings


def open_async_engine(settings: Settings) -> python_api.AsyncEngine:
    """A not yet entered `AsyncEngine` over the models of `settings`."""
    application = Application(settings)
    return python_api.AsyncEngine(application.models, application.inference)


class AsyncEngine(python_api.AsyncEngine):
    """`async with AsyncEngine(models="DIR") as engine`. Keyword arguments are settings; see docs/configuration.md."""

    def __init__(self, **settings: Any) -> None:
        application = Application(read_settings(_listed(settings)))
        super().__init__(application.models, application.inference)


class Engine(python_api.Engine):
    """`with Engine(models="DIR") as engine`. Keyword arguments are settings; see docs/configuration.md."""

    def __init__(self, **settings: Any) -> None:
        wanted = read_settings(_listed(settings))
        super().__init__(lambda: open_async_engine(wanted))


def _listed(settings: dict[str, Any]) -> dict[str, Any]:
    """One model folder may be given without a list around it."""
    models = settings.get("models")
    return settings | {"models": (models,)} if isinstance(models, str | Path) else settings
