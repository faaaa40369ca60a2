"""The composition root: the one place that sees every layer and wires it. Every part can be replaced by the caller."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import psutil

from inference_engine.adapters import python_api
from inference_engine.core import logging
from inference_engine.core.settings import Origins, Settings
from inference_engine.core.version import __version__
from inference_engine.domain.choices import ChoiceStore
from inference_engine.domain.hardware import Hardware
from inference_engine.domain.model import Manifest
from inference_engine.domain.model_store import ModelSource, RemoteFile, RemoteModel, RemoteName
from inference_engine.domain.ports import ExecutorFactory, ModelRepository, RouteStore, RuntimeInfo
from inference_engine.domain.video import VideoLimits
from inference_engine.infra.choices_file import ChoicesFile
from inference_engine.infra.executors.environment import RunnerEnvironment
from inference_engine.infra.executors.factory import Executors
from inference_engine.infra.executors.interpreters import ModelInterpreters
from inference_engine.infra.executors.resources import ResourcePool
from inference_engine.infra.executors.runner import Supervision
from inference_engine.infra.hardware import detect
from inference_engine.infra.manifest_files import manifest_yaml
from inference_engine.infra.media.reader import ProcessVideoReader
from inference_engine.infra.memory import MemoryReturn, one_arena
from inference_engine.infra.model_facts import FileFacts
from inference_engine.infra.model_store.depot import FolderDepot
from inference_engine.infra.native_build import NativeBuild
from inference_engine.infra.pipeline.runtime import create_runtime
from inference_engine.infra.repository import FolderRepository
from inference_engine.infra.routes_file import RoutesFile
from inference_engine.infra.runtimes.catalog import EntryPointCatalog
from inference_engine.infra.telemetry import PrometheusTelemetry
from inference_engine.services.access import AccessService
from inference_engine.services.analysis import Analysis
from inference_engine.services.analysis.answering import Writers
from inference_engine.services.analysis.images import ImageAnalyzer, ImageLimits
from inference_engine.services.analysis.multimodal import MultimodalAnswerer
from inference_engine.services.analysis.video import VideoAnalyzer
from inference_engine.services.inference import InferenceService
from inference_engine.services.model_store import ModelStore
from inference_engine.services.models import ModelService
from inference_engine.services.reuse import ReuseService

if TYPE_CHECKING:
    from inference_engine.adapters.grpc.beside import GrpcBeside
    from inference_engine.adapters.http.edge import Edge
    from inference_engine.adapters.http.openai import Stateful
    from inference_engine.services.health import HealthService
    from inference_engine.services.jobs import JobService

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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.telemetry = PrometheusTelemetry(__version__)
        self.catalog = EntryPointCatalog()
        self.repository = repository or FolderRepository(model_roots(settings), settings.pulled_models)
        self.models = ModelService(
            self.repository,
            executors
            or Executors(
                partial(create_runtime, runtimes=self.catalog),
                clock,
                self.telemetry.restart,
                Supervision(),
                self.catalog,
                ChoicesFile(settings.state_dir),
                RunnerEnvironment(settings.state_dir, native_build(settings).active_folder, settings.trusted_digests),
                ModelInterpreters(settings.state_dir, install=settings.install_requirements),
                ResourcePool(settings.resources),
            ),
            routes or RoutesFile(settings.state_dir),
            self.telemetry,
            clock,
            drain_s=settings.drain_s,
        )
        self.telemetry.watch(self.models.statuses)
        reuse = ReuseService(
            self.telemetry,
            clock,
            enabled=settings.cache,
            max_bytes=int(settings.cache_mb * (1 << 20)),
            ttl_s=settings.cache_ttl_s,
        )
        self.telemetry.watch_cache(reuse.stats)
        self.inference = InferenceService(self.models, self.telemetry, clock, reuse)
        self.models.when_unloaded(MemoryReturn())
        self.analysis = analysis_of(settings, self.models, self.inference, clock)
        self.access = AccessService(settings.api_keys, settings.api_key_header, model_changes=settings.model_changes)

        depot = FolderDepot(settings.pulled_models)
        self.store = ModelStore(self.models, depot, _LaterSources(settings, depot), self.access.permit_model_changes)

    def system(self) -> dict[str, Any]:
        """This machine and this process as plain values, measured now."""
        hardware = detect()
        runtimes = [self.catalog.describe(name) for name in self.catalog.names()]
        return {
            "version": __version__,
            "python": platform.python_version(),
            "cpu": {**msgspec.to_builtins(hardware.cpu), "cores": hardware.cpu.logical},
            "gpus": msgspec.to_builtins(hardware.gpus),
            "memory_total_bytes": hardware.memory.total_bytes,
            "memory_available_bytes": hardware.memory.available_bytes,
            "server_memory_bytes": psutil.Process().memory_info().rss,
            "runtimes": msgspec.to_builtins(runtimes),
        }


def analysis_of(
    settings: Settings, models: ModelService, inference: InferenceService, clock: Callable[[], float]
) -> Analysis:
    """The use cases that understand what models give, within the limits of `settings`."""
    limits = ImageLimits(
        settings.image_max_count, int(settings.image_max_mb * (1 << 20)), int(settings.image_max_megapixels * 1e6)
    )
    images = ImageAnalyzer(models, inference, clock, limits)
    writers = Writers(models, settings.default_model)
    sound_bytes = int(settings.sound_max_mb * (1 << 20))
    videos = VideoAnalyzer(models, inference, images, video_reader(settings), clock)
    return Analysis(
        images, videos, MultimodalAnswerer(models, inference, images, videos, writers, sound_bytes), writers
    )


def video_reader(settings: Settings) -> ProcessVideoReader:
    """Decodes videos within the limits of `settings`; no process is started before the first video."""
    limits = VideoLimits(
        int(settings.video_max_mb * (1 << 20)),
        settings.video_max_s,
        int(settings.video_max_megapixels * 1e6),
        settings.video_max_frames,
        settings.video_decode_s,
    )
    return ProcessVideoReader(limits, settings.video_concurrency)


class _LaterSources:
    """A `ModelSource`, imported when the first model is pulled: a server starts without an HTTP client."""

    def __init__(self, settings: Settings, depot: FolderDepot) -> None:
        self._settings = settings
        self._depot = depot

    @cached_property
    def _now(self) -> ModelSource:
        from inference_engine.infra.model_store.sources import Sources

        return Sources(
            self._depot,
            __version__,
            registry=self._settings.ollama_registry,
            hub=self._settings.hf_endpoint,
            hub_token=self._settings.hf_token,
            others=self._settings.pull_origins,
        )

    async def find(self, name: RemoteName) -> RemoteModel:
        return await self._now.find(name)

    def fetch(self, file: RemoteFile) -> AsyncGenerator[int]:
        return self._now.fetch(file)


def http_app(application: Application) -> tuple[Edge, HealthService, JobService]:
    """The ASGI application over the services, the health it reports, and the jobs it takes."""
    from inference_engine.adapters.http.app import create_app
    from inference_engine.services.health import HealthService

    settings = application.settings
    health = HealthService(application.models)
    state = stateful(settings)
    app = create_app(
        settings,
        application.models,
        application.inference,
        application.store,
        FileFacts(),
        application.access,
        health,
        application.telemetry.exposition,
        application.system,
        __version__,
        state,
        application.analysis,
        application.clock,
    )
    return app, health, state.jobs


def stateful(settings: Settings) -> Stateful:
    """What is remembered for tenants, in folders under `state_dir`."""
    from inference_engine.adapters.http.openai import Stateful
    from inference_engine.infra.document_store import FolderDocumentStore
    from inference_engine.infra.file_store import FolderFileStore
    from inference_engine.infra.job_store import FolderJobStore
    from inference_engine.services.files import FileLimits, FileService
    from inference_engine.services.job_lines import LineLimits
    from inference_engine.services.jobs import JobLimits, JobService

    mb = 1 << 20
    files = FileService(
        FolderFileStore(settings.state_dir),
        FileLimits(int(settings.file_max_mb * mb), int(settings.files_total_mb * mb)),
        time.time,
    )
    lines = LineLimits(settings.batch_max_lines, int(settings.max_body_mb * mb))
    jobs = JobService(
        FolderJobStore(settings.state_dir), files, JobLimits(lines, settings.batch_concurrency), time.time
    )
    answers = FolderDocumentStore(
        settings.state_dir,
        "responses",
        int(settings.responses_total_mb * mb),
        settings.responses_keep_h * 3600,
        time.time,
    )
    return Stateful(files, jobs, answers)


def serve(settings: Settings) -> None:
    """Serve over HTTP until SIGINT or SIGTERM, then finish what is in flight. Blocking.

    Raises:
        SettingsError: the address cannot be listened on.
    """
    from inference_engine.adapters.http.serving import run_server

    logging.configure(settings.log_level, settings.log_format, _secrets(settings))
    one_arena()
    application = Application(settings)
    app, health, jobs = http_app(application)
    run_server(app, settings, application.models, health, jobs, __version__, grpc_beside(application, health))


def grpc_beside(application: Application, health: HealthService) -> GrpcBeside:
    """The gRPC side of a server; nothing of gRPC is imported before it is opened."""
    from inference_engine.adapters.grpc.beside import GrpcBeside

    return GrpcBeside(
        application.settings,
        application.models,
        application.inference,
        application.access,
        health,
        application.clock,
        __version__,
    )


def _secrets(settings: Settings) -> tuple[str, ...]:
    return (*settings.api_keys, settings.hf_token) if settings.hf_token else settings.api_keys


def model_roots(settings: Settings) -> tuple[Path, ...]:
    """The folders that are searched for models, the built-in ones last so that an operator's model wins."""
    roots = settings.models or (settings.pulled_models,)
    return (*roots, BUILTIN_MODELS) if settings.builtin_models else roots


def native_build(settings: Settings) -> NativeBuild:
    """The llama.cpp built for this machine, if there is one."""
    return NativeBuild(settings.state_dir, BUILTIN_MODELS / "guide" / "1" / "guide.gguf", lambda: detect().cpu.features)


class CommandComposition:
    """What the command line needs; see `adapters/cli/client.py`."""

    version = __version__

    def settings(self, flags: Mapping[str, object]) -> tuple[Settings, Origins]:
        return Settings.load(flags, os.environ, Path.cwd())

    def serve(self, settings: Settings) -> None:
        serve(settings)

    def engine(self, settings: Settings) -> python_api.Engine:
        logging.configure("error", settings.log_format, _secrets(settings))
        return python_api.Engine(lambda: open_async_engine(settings))

    def async_engine(self, settings: Settings) -> python_api.AsyncEngine:
        logging.configure("error", settings.log_format, _secrets(settings))
        return open_async_engine(settings)

    def repository(self, settings: Settings) -> ModelRepository:
        return FolderRepository(model_roots(settings), settings.pulled_models)

    def runtimes(self) -> Sequence[RuntimeInfo]:
        catalog = EntryPointCatalog()
        return [catalog.describe(name) for name in catalog.names()]

    def choices(self, settings: Settings) -> ChoiceStore:
        return ChoicesFile(settings.state_dir)

    def native_build(self, settings: Settings) -> NativeBuild:
        return native_build(settings)

    def hardware(self) -> Hardware:
        return detect()

    def manifest_yaml(self, manifest: Manifest) -> str:
        return manifest_yaml(manifest)


def read_settings(flags: Mapping[str, object] | None = None) -> Settings:
    """Settings from flags, the environment of this process and the configuration file."""
    settings, _ = Settings.load(flags or {}, os.environ, Path.cwd())
    return settings


def open_async_engine(settings: Settings) -> python_api.AsyncEngine:
    """A not yet entered `AsyncEngine` over the models of `settings`."""
    application = Application(settings)
    return python_api.AsyncEngine(application.models, application.inference, application.store, application.analysis)


class AsyncEngine(python_api.AsyncEngine):
    """`async with AsyncEngine(models="DIR") as engine`. Keyword arguments are settings; see docs/configuration.md."""

    def __init__(self, **settings: Any) -> None:
        logging.as_library()
        application = Application(read_settings(_listed(settings)))
        super().__init__(application.models, application.inference, application.store, application.analysis)


class Engine(python_api.Engine):
    """`with Engine(models="DIR") as engine`. Keyword arguments are settings; see docs/configuration.md."""

    def __init__(self, **settings: Any) -> None:
        logging.as_library()
        wanted = read_settings(_listed(settings))
        super().__init__(lambda: open_async_engine(wanted))


def _listed(settings: dict[str, Any]) -> dict[str, Any]:
    """One model folder may be given without a list around it."""
    models = settings.get("models")
    return settings | {"models": (models,)} if isinstance(models, str | Path) else settings
