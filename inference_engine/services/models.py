"""The life of models on this server: adopt, load, lease, drain, unload. Knows no transport and no runtime."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from inference_engine.core.logging import get_logger
from inference_engine.domain.adapters import adapter_names
from inference_engine.domain.errors import (
    EngineError,
    ModelLoadFailed,
    ModelNotFound,
    ModelNotReady,
    ShuttingDown,
)
from inference_engine.domain.model import ModelRef, Signature
from inference_engine.domain.ports import (
    BrokenModel,
    ExecutorFactory,
    Loaded,
    ModelRepository,
    Restarting,
    RouteStore,
    StoredModel,
    Telemetry,
)
from inference_engine.domain.results import Served
from inference_engine.domain.routing import Route, Router
from inference_engine.domain.sequences import client_signature
from inference_engine.domain.statistics import ModelStatistics
from inference_engine.services.ensembles import Ensemble
from inference_engine.services.live import Composite, Entry, Lease, LiveModel, ModelState
from inference_engine.services.warmup import warm_up

_FAILURE_MEMORY_S = 10.0
_log = get_logger(__name__)


class Problem(msgspec.Struct, frozen=True):
    code: str
    message: str


class ModelStatus(msgspec.Struct, frozen=True):
    """One model as people and tools see it. Byte counts are measured; times are UTC.

    `adapters` and `details` are what the runtime says of a loaded one, `details` for people.
    """

    name: str
    version: str
    runtime: str
    task: str
    state: ModelState
    executor: str
    pid: int | None
    memory_bytes: int
    size_bytes: int
    in_flight: int
    queued: int
    restarts: int
    loaded_at: datetime | None
    last_used_at: datetime | None
    expires_at: datetime | None
    error: Problem | None
    description: str
    licence: str
    tags: tuple[str, ...]
    capabilities: tuple[str, ...]
    signature: Signature | None
    context_length: int | None
    routes: tuple[str, ...]
    adapters: tuple[str, ...] = ()
    gauges: Mapping[str, float] = {}
    details: dict[str, Any] = {}


class ModelService:
    """All models of this server by exact reference."""

    def __init__(
        self,
        repository: ModelRepository,
        executors: ExecutorFactory,
        routes: RouteStore,
        telemetry: Telemetry,
        clock: Callable[[], float],
        *,
        drain_s: float = 30.0,
    ) -> None:
        self._repository = repository
        self._executors = executors
        self._route_store = routes
        self._telemetry = telemetry
        self.clock = clock
        self._drain_s = drain_s
        self._router = Router(routes.read())
        self._entries: dict[ModelRef, Entry] = {}
        self._broken: list[BrokenModel] = []
        self._closing = False
        self._reaper: asyncio.Task[None] | None = None
        self._unloaded: list[Callable[[ModelRef], object]] = []
        self._unloading: set[asyncio.Task[None]] = set()

    # -- what exists ---------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Read the repository again: new models appear, changed manifests count from the next load."""
        found, self._broken = self._repository.scan()
        refs = {model.manifest.ref for model in found}
        for model in found:
            entry = self._entries.setdefault(model.manifest.ref, Entry(model))
            if entry.live is None:
                entry.stored = model
        for ref in [ref for ref, entry in self._entries.items() if ref not in refs and entry.live is None]:
            del self._entries[ref]
        self._router.adopt(self._entries)

    @property
    def broken(self) -> list[BrokenModel]:
        """Folders that look like models and could not be adopted."""
        return self._broken

    def resolve(self, target: str) -> Served:
        """See `Router.resolve`."""
        return self._router.resolve(target)

    def routes(self) -> list[Route]:
        return self._router.routes()

    def pin_route(self, name: str, ref: ModelRef) -> None:
        """Make a public name lead to one exact model; kept over restarts. Raises what `Router.pin` raises."""
        self._router.pin(name, ref)
        self._route_store.write(self._router.pinned)

    def unpin_route(self, name: str) -> None:
        """Undo `pin_route`. Raises what `Router.unpin` raises."""
        self._router.unpin(name)
        self._route_store.write(self._router.pinned)

    def stored(self, ref: ModelRef) -> StoredModel:
        """Manifest and folder.

        Raises:
            ModelNotFound: there is no such model.
        """
        return self._entry(ref).stored

    def signature(self, ref: ModelRef) -> Signature | None:
        """What is known of its tensors: from the loaded model, else from the manifest."""
        entry = self._entry(ref)
        manifest = entry.stored.manifest
        return (
            entry.live.signature if entry.live else client_signature(manifest.signature, manifest.execution.sequences)
        )

    def statistics(self, ref: ModelRef) -> ModelStatistics:
        """What the model has done since the server started. Raises `ModelNotFound`."""
        return self._entry(ref).statistics

    def is_ready(self, ref: ModelRef) -> bool:
        """True when a request for it would be computed without loading first."""
        return self.state(ref) == "ready"

    def state(self, ref: ModelRef) -> ModelState:
        """What `status` gives as its state, without the rest. Raises `ModelNotFound`."""
        return self._state(self._entry(ref))

    def statuses(self) -> list[ModelStatus]:
        return [self.status(ref) for ref in sorted(self._entries)]

    def status(self, ref: ModelRef) -> ModelStatus:
        """The state of one model at this moment.

        Raises:
            ModelNotFound: there is no such model.
        """
        entry = self._entry(ref)
        manifest = entry.stored.manifest
        running = entry.live.executor.status() if entry.live else None
        return ModelStatus(
            name=ref.name,
            version=ref.version,
            runtime=manifest.runtime,
            task=manifest.task,
            state=self._state(entry),
            executor=manifest.execution.executor if manifest.ensemble is None else manifest.runtime,
            pid=running.pid if running else None,
            memory_bytes=running.memory_bytes if running else 0,
            size_bytes=entry.stored.size_bytes,
            in_flight=entry.in_flight,
            queued=entry.live.waiting if entry.live else 0,
            restarts=running.restarts if running else 0,
            loaded_at=entry.loaded_at,
            last_used_at=datetime.now(UTC) - timedelta(seconds=self.clock() - entry.used_s) if entry.used else None,
            expires_at=self._expires_at(entry),
            error=_problem(entry),
            description=manifest.description,
            licence=manifest.licence,
            tags=manifest.tags,
            capabilities=manifest.capabilities,
            signature=self.signature(ref),
            context_length=entry.live.loaded.context_length if entry.live else None,
            routes=tuple(route.name for route in self._router.routes() if route.target == ref),
            adapters=entry.live.loaded.adapters if entry.live else adapter_names(manifest),
            gauges=running.gauges if running else {},
            details=_details(entry),
        )

    def own_state(self, ref: ModelRef) -> ModelState:
        """The state of one model; of an ensemble without its stages. Raises `ModelNotFound`."""
        return _own_state(self._entry(ref))

    def ensemble(self, ref: ModelRef) -> Composite | None:
        """The loaded ensemble `ref`; None if it is another model, or not loaded. Raises `ModelNotFound`."""
        live = self._entry(ref).live
        return live.ensemble if live else None

    def _state(self, entry: Entry) -> ModelState:
        own = _own_state(entry)
        return entry.live.ensemble.condition()[0] if own == "ready" and entry.live and entry.live.ensemble else own

    def _stages(self) -> set[ModelRef]:
        """The models that loaded ensembles need."""
        live = [entry.live for entry in self._entries.values() if entry.live is not None]
        return {ref for one in live if one.ensemble is not None for ref in one.ensemble.members}

    def _expires_at(self, entry: Entry) -> datetime | None:
        """When it will be unloaded if nobody asks again; None while it is not loaded, or stays for ever."""
        limit = entry.idle_limit_s
        if entry.live is None or limit is None:
            return None
        since = self.clock() if entry.in_flight else entry.used_s
        return datetime.now(UTC) + timedelta(seconds=since + limit - self.clock())

    def _entry(self, ref: ModelRef) -> Entry:
        entry = self._entries.get(ref)
        if entry is None:
            raise ModelNotFound(f"model {ref} does not exist", param="model")
        return entry

    # -- load and unload -----------------------------------------------------------------------------------------

    def lease(self, ref: ModelRef) -> Lease:
        """Hold the model for one request. Raises `ModelNotFound` now, load errors when entered."""
        return Lease(self, self._entry(ref))

    async def load(self, ref: ModelRef) -> ModelStatus:
        """Load now, even if an attempt has just failed; returns when it can answer.

        Raises:
            ModelNotFound; ModelError: why it cannot be loaded. ShuttingDown.
        """
        entry = self._entry(ref)
        entry.failure = None
        while entry.live is None or entry.draining:
            await self.make_ready(entry)
        return self.status(ref)

    async def ready(self, ref: ModelRef) -> Loaded:
        """Load it if it is not, and say what it can do. A load that has just failed is not tried again.

        Raises:
            ModelNotFound; ModelError: why it cannot be loaded. ShuttingDown.
        """
        entry = self._entry(ref)
        while entry.live is None or entry.draining:
            await self.make_ready(entry)
        return entry.live.loaded

    def loaded(self, ref: ModelRef) -> Loaded | None:
        """What the loaded model can do, None while it is not loaded. Raises `ModelNotFound`."""
        live = self._entry(ref).live
        return live.loaded if live else None

    def keep_alive(self, ref: ModelRef, seconds: float) -> None:
        """Replace the manifest's `keep_alive_s` until it is unloaded; below 0 for ever, 0 unloads after this use.

        A pinned model stays loaded all the same. Nothing happens for a model that has gone.
        """
        entry = self._entries.get(ref)
        if entry is None:
            return
        entry.keep_alive_s = seconds
        if seconds == 0 and entry.in_flight == 0:
            self.unload_when_idle(entry)

    def unload_when_idle(self, entry: Entry) -> None:
        """Unload in the background, unless somebody asks for it before."""
        if entry.live is not None and entry.idle_limit_s == 0 and not self._closing:
            task = asyncio.get_running_loop().create_task(self._unload_unused(entry))
            self._unloading.add(task)
            task.add_done_callback(self._unloading.discard)

    async def _unload_unused(self, entry: Entry) -> None:
        async with entry.changing:
            kept = entry.live is not None and entry.live.in_sequence
            needed = entry.stored.manifest.ref in self._stages()
            if entry.in_flight == 0 and entry.idle_limit_s == 0 and not (kept or needed):
                await self._end(entry)

    async def make_ready(self, entry: Entry) -> None:
        """Load once however many ask; the load goes on when the one who asked first has gone."""
        if self._closing:
            raise ShuttingDown("the server is shutting down: no model is loaded any more")
        if entry.failure is not None and self.clock() - entry.failure[1] < _FAILURE_MEMORY_S:
            raise entry.failure[0]
        if entry.loading is None:
            entry.loading = asyncio.get_running_loop().create_task(self._load(entry))
            entry.loading.add_done_callback(_retrieve)
        await asyncio.shield(entry.loading)

    async def _load(self, entry: Entry) -> LiveModel:
        try:
            async with entry.changing:
                if self._entries.get(entry.stored.manifest.ref) is not entry:
                    raise ModelNotFound(f"model {entry.stored.manifest.ref} was deleted", param="model")
                if entry.live is None:
                    entry.live = await self._start(entry)
                    entry.loaded_at = datetime.now(UTC)
                    entry.used_s = self.clock()
                    entry.failure = None
                return entry.live
        except EngineError as error:
            entry.failure = (error, self.clock())
            _log.warning("model failed to load", model=str(entry.stored.manifest.ref), error=error.message)
            raise
        finally:
            entry.loading = None

    async def _start(self, entry: Entry) -> LiveModel:
        started, stored = self.clock(), entry.stored
        await asyncio.to_thread(self._repository.verify, stored)
        spec = stored.manifest.ensemble
        executor = self._executors(stored) if spec is None else Ensemble(self, stored.manifest, spec)
        loaded = await executor.start()
        try:
            await warm_up(stored.manifest, loaded.signature or stored.manifest.signature, executor)
            live = LiveModel(stored.manifest, loaded, executor, self._telemetry, self.clock, entry.statistics)
        except BaseException:
            await executor.stop(grace_s=0.0)
            raise
        _log.info("model loaded", model=str(stored.manifest.ref), seconds=round(self.clock() - started, 3))
        for line in loaded.details.get("warnings", ()):
            _log.warning("the model's library warns", model=str(stored.manifest.ref), warning=str(line))
        return live

    def when_unloaded(self, act: Callable[[ModelRef], object]) -> None:
        """Call `act` each time a model has been unloaded, for whatever reason; files are read anew only after that."""
        self._unloaded.append(act)

    def touch(self, ref: ModelRef) -> None:
        """Count the model as used now, though it had nothing to do."""
        entry = self._entries.get(ref)
        if entry is not None:
            entry.used, entry.used_s = True, self.clock()

    async def unload(self, ref: ModelRef, *, stages: bool = False) -> int:
        """Let work in flight finish, end the executor; returns the bytes of memory that came back.

        With `stages` the models of an ensemble are unloaded as well, except those that another one needs.

        Raises:
            ModelNotFound: there is no such model.
        """
        entry = self._entry(ref)
        ensemble = self.ensemble(ref)
        async with entry.changing:
            returned = await self._end(entry)
        if stages and ensemble is not None:
            for member in sorted(set(ensemble.members)):
                if member in self._entries and member not in self._stages():
                    returned += await self.unload(member, stages=True)
        return returned

    @asynccontextmanager
    async def replacing(self, ref: ModelRef) -> AsyncGenerator[None]:
        """Hold a model unloaded while its files change, then read the repository again.

        Work in flight is finished first; requests that come meanwhile wait, and get what is there afterwards.
        """
        while True:
            entry = self._entries.get(ref)
            if entry is None:
                yield
                self.refresh()
                return
            async with entry.changing:
                if self._entries.get(ref) is entry:
                    await self._end(entry)
                    try:
                        yield
                    finally:
                        self.refresh()
                    return

    async def _end(self, entry: Entry) -> int:
        live = entry.live
        entry.failure = None
        if live is None:
            return 0
        entry.draining = True
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._drain_s):
                    await entry.idle.wait()
            before = live.executor.status().memory_bytes
            entry.live = None
            await live.close()
            await live.executor.stop(grace_s=1.0 + live.loaded.closing_s)
        finally:
            entry.draining = False
            entry.loaded_at = None
            for act in self._unloaded:
                act(entry.stored.manifest.ref)
            entry.keep_alive_s = None
        _log.info("model unloaded", model=str(entry.stored.manifest.ref), memory_returned_bytes=before)
        return before

    # -- the server's own life ------------------------------------------------------------------------------------

    async def open(self, preload: Iterable[str] = ()) -> None:
        """Adopt the repository, load what is to be preloaded, start unloading what has been idle too long."""
        self.refresh()
        wanted = {self.resolve(target).ref for target in preload}
        wanted |= {ref for ref, entry in self._entries.items() if entry.stored.manifest.execution.preload}
        self._reaper = asyncio.get_running_loop().create_task(self._unload_idle())
        results = await asyncio.gather(*(self.load(ref) for ref in sorted(wanted)), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, EngineError):
                raise result

    async def close(self) -> None:
        """End every model; work in flight gets the drain time."""
        self._closing = True
        if self._reaper:
            self._reaper.cancel()
        loading = [entry.loading for entry in self._entries.values() if entry.loading]
        await asyncio.gather(*loading, *self._unloading, return_exceptions=True)
        await asyncio.gather(*(self.unload(ref) for ref in list(self._entries)))

    async def _unload_idle(self) -> None:
        while True:
            await asyncio.sleep(5)
            needed = self._stages()
            for ref, entry in list(self._entries.items()):
                limit = entry.idle_limit_s
                kept = ref in needed or (entry.live is not None and entry.live.in_sequence)
                idle = entry.live is not None and entry.in_flight == 0 and not kept
                if idle and limit is not None and self.clock() - entry.used_s > limit:
                    await self.unload(ref)


def _retrieve(task: asyncio.Task[LiveModel]) -> None:
    """A failed load is remembered in its entry; nobody else may be waiting for the task."""
    if not task.cancelled():
        task.exception()


def _own_state(entry: Entry) -> ModelState:
    if entry.draining:
        return "draining"
    if entry.live is not None:
        executor = entry.live.executor  # most tell their state without measuring anything
        state = executor.state if isinstance(executor, Restarting) else executor.status().state
        return "ready" if state == "ready" else "failed" if state == "failed" else "restarting"
    if entry.loading is not None:
        return "loading"
    return "failed" if entry.failure else "unloaded"


def _problem(entry: Entry) -> Problem | None:
    if entry.failure is not None:
        return Problem(entry.failure[0].code, entry.failure[0].message)
    if entry.live is not None and entry.live.ensemble is not None:
        missing = entry.live.ensemble.condition()[1]
        return Problem(ModelNotReady.code, missing) if missing else None
    error = entry.live.executor.status().error if entry.live else None
    return Problem(ModelLoadFailed.code, error) if error else None


def _details(entry: Entry) -> dict[str, Any]:
    spec = entry.stored.manifest.ensemble
    if entry.live is None:
        return {} if spec is None else {"stages": [stage.model for stage in spec.stages]}
    ensemble = entry.live.ensemble
    return entry.live.loaded.details if ensemble is None else {"stages": list(map(str, ensemble.members))}
