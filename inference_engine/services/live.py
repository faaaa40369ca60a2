"""A model that is loaded, and what keeps it so: leases, and those of all models that an ensemble is made of.

Knows the waiting lines of a model, not how it came to be loaded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from inference_engine.domain.errors import EngineError, InvalidManifest
from inference_engine.domain.model import EnsembleSpec, Manifest, ModelRef
from inference_engine.domain.ports import Executor, Loaded, StoredModel, Telemetry
from inference_engine.domain.requests import Call, Predict
from inference_engine.domain.results import Prediction, Served
from inference_engine.domain.sequences import client_signature
from inference_engine.domain.statistics import ModelStatistics
from inference_engine.domain.tensors import Array, InputCheck, Tensors
from inference_engine.services.queues import BatchQueue
from inference_engine.services.slots import SlotQueue

if TYPE_CHECKING:
    from inference_engine.services.sequences import SequenceQueue

ModelState = Literal["unloaded", "loading", "ready", "restarting", "draining", "failed"]


class LiveModel:
    """A loaded model with its waiting lines. Held through a `Lease`."""

    __slots__ = (
        *("batches", "check", "ensemble", "executor", "loaded", "manifest", "outputs"),
        *("predicts", "reuses_predictions", "sequences", "signature", "slots", "statistics", "timeout_s"),
    )

    def __init__(
        self,
        manifest: Manifest,
        loaded: Loaded,
        executor: Executor,
        telemetry: Telemetry,
        clock: Callable[[], float],
        statistics: ModelStatistics | None = None,
    ) -> None:
        self.manifest = manifest
        self.loaded = loaded
        self.executor = executor
        self.ensemble = executor if isinstance(executor, Composite) else None
        own = loaded.signature or manifest.signature
        sequences = manifest.execution.sequences
        self.signature = client_signature(own, sequences)
        self.check = InputCheck(self.signature) if self.signature else None
        self.outputs = frozenset(spec.name for spec in self.signature.outputs) if self.signature else frozenset()
        self.timeout_s = manifest.execution.timeout_s
        batched = self.signature is not None and self.signature.batched
        shapes_differ = self.check is not None and self.check.leaves_shapes_open
        self.statistics = statistics or ModelStatistics()
        self.batches = BatchQueue(
            manifest, executor, batched, telemetry, clock, shapes_differ=shapes_differ, statistics=self.statistics
        )
        self.slots = SlotQueue(manifest, loaded.concurrency, clock)
        self.reuses_predictions = manifest.execution.cache is True
        self.sequences: SequenceQueue | None = None
        if sequences is not None:
            if "predict" not in loaded.kinds:
                raise InvalidManifest(
                    f"{manifest.ref}: execution.sequences is for models that predict, this one answers: "
                    + ", ".join(loaded.kinds),
                    param="execution.sequences",
                )
            from inference_engine.services.sequences import SequenceQueue  # few models need it: not at the start

            self.sequences = SequenceQueue(manifest, sequences, executor, own, telemetry, clock, self.statistics)
        self.predicts = "predict" in loaded.kinds or "predict_stream" not in loaded.kinds

    @property
    def waiting(self) -> int:
        """Requests in its lines."""
        return self.batches.waiting + self.slots.waiting + (self.sequences.waiting if self.sequences else 0)

    @property
    def in_sequence(self) -> bool:
        """True while a sequence has begun and not ended: unloading the model would lose what it knows."""
        return self.sequences is not None and self.sequences.active > 0

    async def close(self) -> None:
        """Cancel what runs and waits in the lines of predictions."""
        await self.batches.close()
        if self.sequences is not None:
            await self.sequences.close()


class Entry:
    """What the service remembers of one model."""

    def __init__(self, stored: StoredModel) -> None:
        self.stored = stored
        self.live: LiveModel | None = None
        self.loading: asyncio.Task[LiveModel] | None = None
        self.draining = False
        self.in_flight = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.changing = asyncio.Lock()
        self.failure: tuple[EngineError, float] | None = None
        self.loaded_at: datetime | None = None
        self.used = False
        self.used_s = 0.0
        self.keep_alive_s: float | None = None
        self.statistics = ModelStatistics()

    @property
    def idle_limit_s(self) -> float | None:
        """How long it stays loaded without a request; None for ever. A pinned model stays whatever is asked."""
        execution = self.stored.manifest.execution
        limit = execution.keep_alive_s if self.keep_alive_s is None else self.keep_alive_s
        return None if execution.pin or limit < 0 else limit


class Models(Protocol):
    """What a lease needs of the one who gave it."""

    @property
    def clock(self) -> Callable[[], float]: ...

    async def make_ready(self, entry: Entry) -> None: ...

    def unload_when_idle(self, entry: Entry) -> None: ...


class Lease:
    """`async with lease as live:` keeps the model loaded for the time of one request, loading it first if need be.

    A lease that is `ready` can be entered without `async`, which costs half.
    """

    __slots__ = ("_entry", "_models")

    def __init__(self, models: Models, entry: Entry) -> None:
        self._models = models
        self._entry = entry

    @property
    def ready(self) -> bool:
        """True when the model is loaded, until the next `await`."""
        return self._entry.live is not None and not self._entry.draining

    @property
    def statistics(self) -> ModelStatistics:
        """The model's counts; they outlive its unloading."""
        return self._entry.statistics

    async def make_ready(self) -> None:
        """Load the model if need be."""
        while not self.ready:
            await self._models.make_ready(self._entry)

    def __enter__(self) -> LiveModel:
        entry = self._entry
        if entry.live is None:
            raise RuntimeError("the lease was entered before it was ready")
        if entry.in_flight == 0:
            entry.idle.clear()
        entry.in_flight += 1
        return entry.live

    def __exit__(self, *_: object) -> None:
        entry = self._entry
        entry.in_flight -= 1
        if entry.in_flight == 0:
            entry.used_s = self._models.clock()
            entry.used = True
            entry.idle.set()
            if entry.keep_alive_s == 0:
                self._models.unload_when_idle(entry)

    async def __aenter__(self) -> LiveModel:
        await self.make_ready()
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()


class HeldStage:
    """The model of a stage, leased for as long as the ensemble's request takes; stands for a `Lease` of that model.

    `inner` are the stages below it, where it is an ensemble itself.
    """

    __slots__ = ("inner", "lease", "live", "served")

    ready = True

    def __init__(self, served: Served, lease: Lease) -> None:
        self.served = served
        self.lease = lease
        self.live: LiveModel = lease.__enter__()
        self.inner: Hold | None = None

    @property
    def statistics(self) -> ModelStatistics:
        return self.lease.statistics

    async def make_ready(self) -> None:
        """It is, until it is released."""

    def __enter__(self) -> LiveModel:
        return self.live

    def __exit__(self, *_: object) -> None: ...


class Hold:
    """All models that one request to an ensemble needs.

    From the first stage to the last they are the same ones: no unloading, deletion or moved route comes between.
    """

    __slots__ = ("stages",)

    def __init__(self) -> None:
        self.stages: list[HeldStage] = []

    def release(self) -> None:
        for stage in self.stages:
            if stage.inner is not None:
                stage.inner.release()
            stage.lease.__exit__()
        self.stages.clear()


StagePredict = Callable[[HeldStage, Predict, Call], Awaitable[Prediction]]
"""Answers a request with the model of a stage."""
StagesAnswer = tuple[dict[str, Array], float, float]
"""Outputs, and the seconds that the stages waited and computed, each added up."""


@runtime_checkable
class Composite(Executor, Protocol):
    """An executor that is made of other models: an ensemble."""

    @property
    def spec(self) -> EnsembleSpec: ...

    @property
    def members(self) -> tuple[ModelRef, ...]:
        """The exact models that it had when they were last checked."""

    def condition(self) -> tuple[ModelState, str | None]:
        """`ready` if all of them are, else the state of the first that is not, and which that is."""

    async def hold(self) -> Hold:
        """Lease them all together. Raises `ModelError`, `ShuttingDown`."""

    def enter(self, hold: Hold, depth: int) -> Coroutine[Any, Any, None] | None:
        """Lease them all without waiting, or give what must be waited for first."""

    async def answer(self, hold: Hold, inputs: Tensors, call: Call, predict: StagePredict) -> StagesAnswer:
        """Compute them all. Raises what one of them raised."""
