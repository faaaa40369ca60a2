"""Models that are made of other models: their stages leased for a request, and computed as their inputs come.

An `Ensemble` stands where another model has an executor. It has no process and no queue: each stage is answered by the
same service path as any request, in the queue of its own model. Knows no runtime and no transport.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from inference_engine.core.deadline import have_task
from inference_engine.core.yaml_source import dotted
from inference_engine.domain.ensembles import (
    MAX_DEPTH,
    EnsembleProblem,
    Member,
    at_stage,
    check_nesting,
    fitted,
    graph_of,
)
from inference_engine.domain.errors import (
    EngineError,
    InferenceFailed,
    InvalidManifest,
    InvalidRequest,
    ModelNotReady,
    NotFound,
    UnsupportedTask,
)
from inference_engine.domain.model import EnsembleSpec, Manifest, ModelRef, Signature
from inference_engine.domain.ports import BatchResult, ExecutorStatus, Loaded, StoredModel
from inference_engine.domain.requests import Call, Generate, Predict
from inference_engine.domain.results import Delta, Served
from inference_engine.domain.tensors import Array, Tensors
from inference_engine.services.live import (
    Composite,
    HeldStage,
    Hold,
    Lease,
    ModelState,
    StagePredict,
    StagesAnswer,
)


class Stages(Protocol):
    """What an ensemble needs of the models of this server."""

    def resolve(self, target: str) -> Served: ...

    def stored(self, ref: ModelRef) -> StoredModel: ...

    def own_state(self, ref: ModelRef) -> ModelState: ...

    def ensemble(self, ref: ModelRef) -> Composite | None: ...

    async def load(self, ref: ModelRef) -> object: ...

    async def ready(self, ref: ModelRef) -> Loaded: ...

    def lease(self, ref: ModelRef) -> Lease: ...


class Ensemble:
    """`Executor` of an ensemble. Starting it loads the models of its stages and checks that they fit.

    These go by their routes: when a route has moved, or a model was loaded anew, the fit is checked again.
    """

    batches_in_flight = 1

    def __init__(self, models: Stages, manifest: Manifest, spec: EnsembleSpec) -> None:
        """Raises `InvalidManifest` for what the manifest alone tells."""
        self.ref = manifest.ref
        self.spec = spec
        self._models = models
        self._declared = manifest.signature
        self._members: tuple[Member, ...] = ()
        self._signature: Signature | None = None
        self._stopped = False
        try:
            self.graph = graph_of(spec, manifest.signature)
        except EnsembleProblem as problem:
            raise problem.of(self.ref) from None

    # -- as an executor ------------------------------------------------------------------------------------------

    async def start(self) -> Loaded:
        await self._fit(anew=True)
        return Loaded(("predict",), self._signature)

    def run(self, parts: Sequence[Tensors], rows: Sequence[int]) -> Awaitable[BatchResult]:  # noqa: ARG002
        raise UnsupportedTask(f"{self.ref} is an ensemble: batches are formed by the models of its stages")

    async def run_stream(self, inputs: Tensors) -> AsyncGenerator[dict[str, Any]]:  # noqa: ARG002
        raise UnsupportedTask(f"{self.ref} is an ensemble: it gives one response to each prediction", param="model")
        yield

    async def generate(self, request: Generate) -> AsyncGenerator[Delta]:  # noqa: ARG002
        raise UnsupportedTask(f"{self.ref} is an ensemble: it computes tensors, ask it for a prediction", param="model")
        yield

    async def tokenize(self, request: Generate) -> tuple[int, ...]:  # noqa: ARG002
        raise UnsupportedTask(f"{self.ref} is an ensemble: ask the model of a stage for tokens", param="model")

    async def stop(self, grace_s: float) -> None:  # noqa: ARG002 - work in flight belongs to the stages
        self._stopped = True

    def status(self) -> ExecutorStatus:
        """Of the ensemble without its stages: see `condition`."""
        return ExecutorStatus("ensemble", "stopped" if self._stopped else "ready")

    # -- its stages ----------------------------------------------------------------------------------------------

    @property
    def members(self) -> tuple[ModelRef, ...]:
        """The exact models that the stages had when they were last checked."""
        return tuple(member.ref for member in self._members)

    def condition(self) -> tuple[ModelState, str | None]:
        """`ready` if all models of the stages are, else the state of the first that is not, and which that is."""
        seen = {self.ref}
        ensembles: list[Composite] = [self]
        for ensemble in ensembles:
            for index, stage in enumerate(ensemble.spec.stages):
                try:
                    ref = self._models.resolve(stage.model).ref
                    state = self._models.own_state(ref)
                except NotFound as error:
                    return "failed", f"{dotted(at_stage(index))}: {error.message}"
                if state != "ready":
                    return state, f"{dotted(at_stage(index))} ({ref}) is {state}"
                inner = self._models.ensemble(ref)
                if inner is not None and ref not in seen:
                    seen.add(ref)
                    ensembles.append(inner)
        return "ready", None

    async def _fit(self, *, anew: bool = False) -> None:
        """Load what the stages lead to now, and check that it fits; `anew` also what has just failed to load."""
        refs = self._checked_refs()
        tells = [self._signature_of(index, ref, anew=anew) for index, ref in enumerate(refs)]
        members = tuple(map(Member, refs, await asyncio.gather(*tells)))
        try:
            signature = fitted(self.spec, self.graph, members, self._declared)
        except EnsembleProblem as problem:
            raise problem.of(self.ref) from None
        except InvalidManifest as error:
            raise InvalidManifest(f"{self.ref}: {error.message}", param=error.param) from None
        if self._signature is not None and signature != self._signature:
            raise ModelNotReady(
                f"{self.ref}: with {', '.join(map(str, refs))} as its stages it takes or gives other tensors than when "
                "it was loaded: unload it and load it again",
                param="model",
            )
        self._signature = signature
        self._members = members

    def _checked_refs(self) -> tuple[ModelRef, ...]:
        """What the stages lead to now, looked through to the last ensemble inside."""
        members: dict[ModelRef, tuple[ModelRef, ...]] = {}
        left = {self.ref: self.spec}
        while left:
            owner, spec = left.popitem()
            members[owner] = self._refs(owner, spec)
            for ref in members[owner]:
                inner = self._models.stored(ref).manifest.ensemble
                if inner is not None and ref not in members:
                    left[ref] = inner
        try:
            check_nesting(self.ref, members)
        except EnsembleProblem as problem:
            raise problem.of(self.ref) from None
        return members[self.ref]

    def _refs(self, owner: ModelRef, spec: EnsembleSpec) -> tuple[ModelRef, ...]:
        refs = []
        for index, stage in enumerate(spec.stages):
            try:
                refs.append(self._models.resolve(stage.model).ref)
            except (NotFound, InvalidRequest) as error:
                raise EnsembleProblem(at_stage(index, "model"), error.message).of(owner) from None
        return tuple(refs)

    async def _signature_of(self, index: int, ref: ModelRef, *, anew: bool) -> Signature:
        """What the model of a stage takes and gives, once it is loaded."""
        try:
            if anew:
                await self._models.load(ref)
            loaded = await self._models.ready(ref)
            if "predict" not in loaded.kinds:
                raise UnsupportedTask(f"it answers {', '.join(loaded.kinds)}, a stage must answer predict")
            signature = loaded.signature or self._models.stored(ref).manifest.signature
            if signature is None or not signature.outputs:
                raise InvalidManifest("it does not tell its inputs and outputs: give its manifest a `signature`")
        except EngineError as error:
            raise self.named(index, ref, error) from error
        return signature

    # -- for one request -----------------------------------------------------------------------------------------

    async def hold(self) -> Hold:
        """Lease the models of all stages together; what is not loaded is loaded before.

        Nothing is held while one of them is waited for: else two requests could wait for each other.

        Raises:
            ModelError: a model is gone, cannot be loaded, or does not fit any more. ShuttingDown.
        """
        while True:
            hold = Hold()
            try:
                missing = self.enter(hold, 0)
            except BaseException:
                hold.release()
                raise
            if missing is None:
                return hold
            hold.release()
            await missing

    def enter(self, hold: Hold, depth: int) -> Coroutine[Any, Any, None] | None:
        """Lease everything without waiting, or give what must be waited for first."""
        if depth >= MAX_DEPTH:
            raise InvalidManifest(f"{self.ref}: more than {MAX_DEPTH} ensembles stand inside each other")
        for index, (stage, member) in enumerate(zip(self.spec.stages, self._members, strict=True)):
            try:
                served = self._models.resolve(stage.model)
                lease = self._models.lease(served.ref)
            except NotFound as error:
                raise self.named(index, stage.model, error) from error
            if served.ref != member.ref:
                return self._fit()
            if not lease.ready:
                return self._made_ready(index, member.ref, lease)
            held = HeldStage(served, lease)
            hold.stages.append(held)
            signature = held.live.signature
            if signature is not member.signature and signature != member.signature:
                return self._fit()
            if held.live.ensemble is not None:
                held.inner = Hold()
                missing = held.live.ensemble.enter(held.inner, depth + 1)
                if missing is not None:
                    return missing
        return None

    async def _made_ready(self, index: int, ref: ModelRef, lease: Lease) -> None:
        try:
            await lease.make_ready()
        except EngineError as error:
            raise self.named(index, ref, error) from error

    async def answer(self, hold: Hold, inputs: Tensors, call: Call, predict: StagePredict) -> StagesAnswer:
        """Compute all stages, each as soon as its inputs are there; when one fails, the others are cancelled.

        Raises:
            EngineError: what a stage raised; the message names it and its model.
        """
        run = _Run(self, hold, inputs, call, predict)
        if self.graph.linear:
            for index in self.graph.order:
                await run.stage(index)
        else:
            await run.branches()
        return {name: run.pool[name] for name in self.graph.outputs}, run.queue_s, run.compute_s

    def named(self, index: int, model: object, error: EngineError) -> EngineError:
        """The same error with the stage and its model in front. That a stage is gone is no fault of the request."""
        kind = InvalidManifest if isinstance(error, NotFound) else type(error)
        text = f"{dotted(at_stage(index))} ({model}): {error.message}"
        return kind(text, param=error.param, retry_after_s=error.retry_after_s)


class _Run:
    """One request on its way through the stages. Names leave the `pool` when no stage will take them any more."""

    def __init__(self, ensemble: Ensemble, hold: Hold, inputs: Tensors, call: Call, predict: StagePredict) -> None:
        graph = ensemble.graph
        self.pool: dict[str, Array] = dict(inputs)
        self.queue_s = self.compute_s = 0.0
        self._ensemble = ensemble
        self._hold = hold
        self._call = call
        self._predict = predict
        self._given = inputs.keys()
        self._waits = list(graph.waits)
        self._left = {name: len(takers) + (name in graph.outputs) for name, takers in graph.takers.items()}

    async def branches(self) -> None:
        roots = [index for index, count in enumerate(self._waits) if count == 0]
        await have_task()
        try:
            async with asyncio.TaskGroup() as group:
                for index in roots:
                    group.create_task(self._follow(index, group))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None  # the first one; the others came after it or were cancelled

    async def _follow(self, index: int, group: asyncio.TaskGroup) -> None:
        """Compute a stage and then those that waited for it: the first here, the others beside."""
        while True:
            await self.stage(index)
            free = self._freed_by(index)
            if not free:
                return
            index = free[0]
            for other in free[1:]:
                group.create_task(self._follow(other, group))

    def _freed_by(self, index: int) -> list[int]:
        free = []
        for name in self._ensemble.spec.stages[index].outputs.values():
            for taker in self._ensemble.graph.takers.get(name, ()):
                self._waits[taker] -= 1
                if self._waits[taker] == 0:
                    free.append(taker)
        return free

    async def stage(self, index: int) -> None:
        stage, held = self._ensemble.spec.stages[index], self._hold.stages[index]
        inputs = {tensor: self.pool[name] for tensor, name in stage.inputs.items()}
        self._let_go(stage.inputs)
        try:
            prediction = await self._predict(held, Predict(inputs), self._call)
            self._put(held, stage.outputs, prediction.outputs, inputs)
        except EngineError as error:
            raise self._ensemble.named(index, held.served.ref, self._fault(stage.inputs, error)) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise  # the client has left
            gone = ModelNotReady("it was unloaded before it had answered")  # a task group would pass this over
            raise self._ensemble.named(index, held.served.ref, gone) from None
        self.queue_s += prediction.queue_s
        self.compute_s += prediction.compute_s

    def _let_go(self, taken: Mapping[str, str]) -> None:
        for name in set(taken.values()):
            self._left[name] -= 1
            if self._left[name] == 0:
                del self.pool[name]

    def _put(self, held: HeldStage, outputs: Mapping[str, str], made: Tensors, inputs: Tensors) -> None:
        signature = held.live.signature
        rows = next(iter(inputs.values())).shape[:1] if signature is not None and signature.batched else None
        for tensor, name in outputs.items():
            array = made.get(tensor)
            if array is None:
                raise InferenceFailed(f"it gave no {tensor!r}, only {sorted(made)}", param=tensor)
            if rows is not None and array.shape[:1] != rows:
                raise InferenceFailed(
                    f"it gave {tensor!r} with shape {list(array.shape)} for {rows[0]} rows", param=tensor
                )
            self.pool[name] = array

    def _fault(self, taken: Mapping[str, str], error: EngineError) -> EngineError:
        """Whose fault it is: only of what the client itself has sent can a bad request be made."""
        if not isinstance(error, InvalidRequest):
            return error
        name = taken.get(error.param or "")
        if name is None and not self._given.isdisjoint(taken.values()):
            return error
        if name in self._given:
            return type(error)(error.message, param=name)
        return InferenceFailed(error.message, param=error.param)
