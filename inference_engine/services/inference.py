"""The two use cases that matter most: one prediction, one generation. Admission, routing, lease, compute, account."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, closing
from functools import partial

import msgspec
import numpy as np

from inference_engine.core.deadline import Deadline
from inference_engine.domain.errors import (
    DeadlineExceeded,
    EngineError,
    InferenceFailed,
    InvalidTensor,
    UnsupportedTask,
)
from inference_engine.domain.jobs import PRIORITY
from inference_engine.domain.ports import Telemetry
from inference_engine.domain.requests import Call, Embed, Generate, Kind, Predict, Rerank, check_generate
from inference_engine.domain.results import Delta, Done, Embeddings, Prediction, Ranking, Served
from inference_engine.domain.tensors import Array, Tensors
from inference_engine.domain.text_tensors import DOCUMENT, EMBEDDING, QUERY, SCORE, TEXT, TOKENS, text_tensor
from inference_engine.services.checks import check_generation, check_kind, checked_rows, checked_step, kind_of
from inference_engine.services.conversation import opened
from inference_engine.services.equality import (
    DELTAS,
    OUTPUTS,
    key_of,
    reuses_generation,
    reuses_prediction,
    reuses_texts,
)
from inference_engine.services.live import Composite, HeldStage, Hold, Lease, LiveModel, StagesAnswer
from inference_engine.services.models import ModelService
from inference_engine.services.reuse import Key, ReuseService
from inference_engine.services.streams import interleaved
from inference_engine.services.texts import compute_texts, shortened


class Generation:
    """An answer that is about to be streamed. `deltas` is owned by the caller, who closes it (`aclosing`).

    Nothing is computed before the first delta is asked for; closing stops the compute.
    """

    __slots__ = ("deltas", "served")

    def __init__(self, served: Served, deltas: AsyncGenerator[Delta]) -> None:
        self.served = served
        self.deltas = deltas


class PredictionStream:
    """The responses of a model to one prediction, about to be computed. `responses` is owned by the caller, who closes
    it (`aclosing`); closing ends the computation before its next response."""

    __slots__ = ("responses", "served")

    def __init__(self, served: Served, responses: AsyncGenerator[Prediction]) -> None:
        self.served = served
        self.responses = responses


class InferenceService:
    """Answers requests with the models of a `ModelService`. Without `reuse` every request is computed for itself."""

    def __init__(
        self,
        models: ModelService,
        telemetry: Telemetry,
        clock: Callable[[], float],
        reuse: ReuseService | None = None,
    ) -> None:
        self.reuse = reuse or ReuseService(telemetry, clock, enabled=False)
        self._models = models
        self._telemetry = telemetry
        self._clock = clock
        models.when_unloaded(self.reuse.clear)

    async def predict(self, target: str, request: Predict, call: Call) -> Prediction:
        """Compute one request, merged with others that wait.

        Raises:
            ModelNotFound; UnsupportedTask; InvalidTensor; Unavailable; DeadlineExceeded; ModelError.
        """
        served = self._models.resolve(target)
        return await self._predicted(served, self._models.lease(served.ref), request, call)

    async def _predicted(
        self, served: Served, lease: Lease | HeldStage, request: Predict, call: Call, inner: Hold | None = None
    ) -> Prediction:
        """`inner` are the stages, where the model is an ensemble whose stages are held already."""
        started = in_line = self._clock()
        outcome = "cancelled"
        try:
            if not lease.ready:
                await lease.make_ready()
                in_line = self._clock()  # loading does not count against the model's own limit
            with lease as live:
                if not live.predicts:
                    prediction = await self._only_response(live, request, served, call)
                    outcome = "ok"
                    return prediction
                rows = checked_rows(live, request)
                if live.ensemble is not None:
                    outputs, queue_s, compute_s = await self._through_stages(
                        live, live.ensemble, request, rows, call, inner
                    )
                elif live.sequences is not None:
                    outputs, queue_s, compute_s = await live.sequences.submit(
                        request.inputs,
                        checked_step(live, request, rows),
                        call.principal,
                        _deadline(live, call, in_line),
                        call.priority,
                    )
                elif (live.reuses_predictions or call.reuse == "always") and self._reuses_prediction(live, call):
                    outputs, served = await self._predicted_once(live, request, rows, served, call)
                    queue_s = compute_s = 0.0
                else:
                    outputs, queue_s, compute_s = await live.batches.submit(
                        request.inputs, rows, _deadline(live, call, in_line), call.priority
                    )
                if request.outputs:
                    outputs = _wanted(outputs, request.outputs)
                outcome = "ok"
                return Prediction(outputs, served, queue_s, compute_s)
        except EngineError as error:
            outcome = error.code
            raise
        finally:
            seconds = self._clock() - started
            lease.statistics.request(outcome == "ok", seconds)
            self._telemetry.request(served.ref, "predict", outcome, seconds)

    def predict_stream(self, target: str, request: Predict, call: Call) -> PredictionStream:
        """Any number of responses to one request, each as soon as it is there. A model that gives one gives one.

        Raises:
            ModelNotFound. What `predict` raises comes from the responses. A model that fails, or whose runner dies,
            after the first response ends the stream with the error: nothing is continued.
        """
        served = self._models.resolve(target)
        return PredictionStream(served, self._responses(target, served, request, call))

    async def _responses(self, target: str, served: Served, request: Predict, call: Call) -> AsyncGenerator[Prediction]:
        if "predict_stream" not in (await self._models.ready(served.ref)).kinds:
            yield await self.predict(target, request, call)
            return
        started = self._clock()
        outcome = "cancelled"
        lease = self._models.lease(served.ref)
        try:
            async with lease as live:
                async with aclosing(self._streamed(live, request, served, call)) as responses:
                    async for response in responses:
                        yield response
                outcome = "ok"
        except EngineError as error:
            outcome = error.code
            raise
        finally:
            seconds = self._clock() - started
            lease.statistics.request(outcome == "ok", seconds)
            self._telemetry.request(served.ref, "predict_stream", outcome, seconds)

    async def _streamed(
        self, live: LiveModel, request: Predict, served: Served, call: Call
    ) -> AsyncGenerator[Prediction]:
        """The responses of a model that is loaded; at most `Loaded.concurrency` such streams run together."""
        rows = checked_rows(live, request, "predict_stream")
        tenant, asked = call.principal.tenant, self._clock()
        await live.slots.acquire(_deadline(live, call, asked), call.priority, tenant)
        started = self._clock()
        try:
            with closing(Deadline(None if call.deadline_s is None else call.deadline_s - started)) as deadline:
                async with aclosing(live.executor.run_stream(request.inputs)) as responses:
                    while (outputs := await _next_response(responses, deadline, live)) is not None:
                        found = _wanted(outputs, request.outputs) if request.outputs else outputs
                        yield Prediction(found, served, started - asked, self._clock() - started)
            now = self._clock()
            live.statistics.batch(1, rows, started - asked, now - started, now - started, 0.0, now)
        finally:
            live.slots.release(tenant)

    async def _only_response(self, live: LiveModel, request: Predict, served: Served, call: Call) -> Prediction:
        """What a model that gives any number of responses answers where there is room for one.

        Raises:
            UnsupportedTask: it gives more. InferenceFailed: it gives none.
        """
        only: Prediction | None = None
        async with aclosing(self._streamed(live, request, served, call)) as responses:
            async for response in responses:
                if only is not None:
                    raise UnsupportedTask(
                        f"{served.ref} gives several responses to one request, and here is room for one: ask "
                        "infer_stream over HTTP, or ModelStreamInfer over gRPC",
                        param="model",
                    )
                only = response
        if only is None:
            raise InferenceFailed(f"{served.ref} gave no response to this request")
        return only

    async def _through_stages(
        self, live: LiveModel, ensemble: Composite, request: Predict, rows: int, call: Call, inner: Hold | None
    ) -> StagesAnswer:
        """The answer of an ensemble: its stages' models with the deadline of the whole, then counted as one batch."""
        hold = inner or await ensemble.hold()
        try:
            started = self._clock()
            call = msgspec.structs.replace(call, deadline_s=_deadline(live, call, started))
            outputs, queue_s, compute_s = await ensemble.answer(hold, request.inputs, call, self._of_stage)
        finally:
            if inner is None:
                hold.release()
        now = self._clock()
        live.statistics.batch(1, rows, queue_s, max(0.0, now - started - queue_s), compute_s, 0.0, now)
        return outputs, queue_s, compute_s

    async def _of_stage(self, stage: HeldStage, request: Predict, call: Call) -> Prediction:
        return await self._predicted(stage.served, stage, request, call, stage.inner)

    async def generate(self, target: str, request: Generate, call: Call) -> Generation:
        """Check and route a generation; it runs while its deltas are read.

        Raises:
            ModelNotFound; InvalidRequest. The first delta may raise UnsupportedTask, Unavailable, ModelError,
            ContextLengthExceeded; later deltas ModelError or DeadlineExceeded.
        """
        check_generate(request)
        served = self._models.resolve(target)
        if served.adapter is not None:
            request = msgspec.structs.replace(request, adapter=served.adapter)
        kind = kind_of(request)
        if not (self.reuse.enabled and reuses_generation(self._models.stored(served.ref).manifest, request, call)):
            return Generation(served, self._observed(served, kind, self._computed(served, request, call)))
        plan = self.reuse.plan(key_of(kind, served.ref, request, call), call.reuse)
        served = msgspec.structs.replace(served, cache=plan.outcome)
        if plan.outcome == "hit":
            self._models.touch(served.ref)
        compute = partial(self._computed, served, request, msgspec.structs.replace(call, deadline_s=None))
        return Generation(
            served, self._observed(served, kind, self.reuse.follow(plan, compute, DELTAS, call.deadline_s))
        )

    async def embed(self, target: str, request: Embed, call: Call) -> Embeddings:
        """One vector for each text. The texts are merged with those of others that wait.

        Raises:
            ModelNotFound; InvalidRequest; UnsupportedTask; Unavailable; DeadlineExceeded; ModelError.
        """
        outputs, served = await self._texts(target, "embed", {TEXT: text_tensor(request.texts)}, call)
        vectors = np.asarray(outputs[EMBEDDING], np.float32)
        if request.dimensions is not None:
            vectors = shortened(vectors, request.dimensions)
        return Embeddings(vectors, int(outputs[TOKENS].sum()), served)

    async def rerank(self, target: str, request: Rerank, call: Call) -> Ranking:
        """A score for each document. Raises what `embed` raises."""
        inputs = {
            QUERY: text_tensor([request.query] * len(request.documents)),
            DOCUMENT: text_tensor(request.documents),
        }
        outputs, served = await self._texts(target, "rerank", inputs, call)
        return Ranking(np.asarray(outputs[SCORE], np.float32), int(outputs[TOKENS].sum()), served)

    async def _texts(self, target: str, kind: Kind, inputs: Tensors, call: Call) -> tuple[dict[str, Array], Served]:
        served = self._models.resolve(target)
        started = self._clock()
        outcome = "cancelled"
        lease = self._models.lease(served.ref)
        try:
            async with lease as live:
                check_kind(live, kind)
                compute = partial(compute_texts, live, inputs, priority=call.priority)
                if self.reuse.enabled and reuses_texts(live.manifest, call):
                    key = key_of(kind, served.ref, inputs, call)
                    outputs, served = await self._once(live, key, served, call, compute)
                else:
                    outputs = await compute(_deadline(live, call, self._clock()))
                outcome = "ok"
                return outputs, served
        except EngineError as error:
            outcome = error.code
            raise
        finally:
            seconds = self._clock() - started
            lease.statistics.request(outcome == "ok", seconds)
            self._telemetry.request(served.ref, kind, outcome, seconds)

    def _reuses_prediction(self, live: LiveModel, call: Call) -> bool:
        return self.reuse.enabled and reuses_prediction(live.manifest, call)

    async def _predicted_once(
        self, live: LiveModel, request: Predict, rows: int, served: Served, call: Call
    ) -> tuple[dict[str, Array], Served]:
        async def compute(deadline_s: float) -> dict[str, Array]:
            return (await live.batches.submit(request.inputs, rows, deadline_s, call.priority))[0]

        return await self._once(live, key_of("predict", served.ref, request.inputs, call), served, call, compute)

    async def _once(
        self,
        live: LiveModel,
        key: Key,
        served: Served,
        call: Call,
        compute: Callable[[float], Awaitable[dict[str, Array]]],
    ) -> tuple[dict[str, Array], Served]:
        """Outputs that were kept, of an equal request in flight, or computed now. `compute` gets a deadline."""

        async def source() -> AsyncGenerator[dict[str, Array]]:
            outputs = await compute(self._clock() + live.timeout_s)
            for array in outputs.values():  # several callers may get them
                array.flags.writeable = False
            yield outputs

        plan = self.reuse.plan(key, call.reuse)
        deadline_s = _deadline(live, call, self._clock())
        started = self._clock()
        async with aclosing(self.reuse.follow(plan, source, OUTPUTS, deadline_s)) as found:
            outputs: dict[str, Array] = await anext(found)
        spent = live.statistics.cache_miss if plan.outcome == "miss" else live.statistics.cache_hit
        spent.add(self._clock() - started)
        return dict(outputs), msgspec.structs.replace(served, cache=plan.outcome)

    async def tokenize(self, target: str, request: Generate, call: Call) -> tuple[int, ...]:  # noqa: ARG002 - every use case is called so
        """The prompt of `request` as the model's own token ids; nothing is generated.

        Raises:
            ModelNotFound; InvalidRequest; UnsupportedTask; Unavailable; ModelError.
        """
        check_generate(request)
        served = self._models.resolve(target)
        async with self._models.lease(served.ref) as live:
            request = opened(request, live.manifest.conversation)
            check_generation(live, request)
            return await live.executor.tokenize(request)

    async def _observed(self, served: Served, kind: Kind, deltas: AsyncGenerator[Delta]) -> AsyncGenerator[Delta]:
        """The deltas of one request, whoever computes them, with its first token and its outcome counted."""
        started = self._clock()
        first = True
        outcome = "cancelled"
        statistics = self._models.statistics(served.ref)
        try:
            async with aclosing(deltas):
                async for delta in deltas:
                    if first:
                        first = False
                        self._telemetry.first_token(served.ref, self._clock() - started)
                    yield delta
            outcome = "ok"
        except EngineError as error:
            outcome = error.code
            raise
        finally:
            seconds = self._clock() - started
            statistics.request(outcome == "ok", seconds)
            self._telemetry.request(served.ref, kind, outcome, seconds)

    async def _computed(self, served: Served, request: Generate, call: Call) -> AsyncGenerator[Delta]:
        """What the model answers, with its tokens counted."""
        first_s: float | None = None
        async with self._models.lease(served.ref) as live:
            request = opened(request, live.manifest.conversation)
            check_generation(live, request)
            async with aclosing(_choices(live, request, call, self._clock)) as deltas:
                async for delta in deltas:
                    if first_s is None:
                        first_s = self._clock()
                    if isinstance(delta, Done):
                        usage = delta.usage
                        self._telemetry.tokens(
                            served.ref, usage.prompt_tokens, usage.completion_tokens, self._clock() - first_s
                        )
                    yield delta


def _wanted(outputs: dict[str, Array], names: tuple[str, ...]) -> dict[str, Array]:
    missing = [name for name in names if name not in outputs]
    if missing:
        raise InvalidTensor(f"output {missing[0]!r} is unknown; the model gives {sorted(outputs)}", param=missing[0])
    return {name: outputs[name] for name in names}


def _deadline(live: LiveModel, call: Call, started: float) -> float:
    """Until when it is worth waiting: within the model's own limit, which work in the background does not have."""
    if call.deadline_s is not None and call.priority >= PRIORITY:
        return call.deadline_s
    own = started + live.timeout_s
    return own if call.deadline_s is None else min(own, call.deadline_s)


def _choices(live: LiveModel, request: Generate, call: Call, clock: Callable[[], float]) -> AsyncGenerator[Delta]:
    """All choices of a request, interleaved as they come; each is one generation of its own in the executor."""
    if request.choices == 1:
        return _one(live, request, call, clock)
    wanted = [_choice(request, index) for index in range(request.choices)]
    return interleaved([_one(live, choice, call, clock) for choice in wanted])


def _choice(request: Generate, index: int) -> Generate:
    """The request for one of several choices: with a seed, each choice has its own."""
    sampling = request.sampling
    if sampling.seed is not None:
        sampling = msgspec.structs.replace(sampling, seed=sampling.seed + index)
    return msgspec.structs.replace(request, choices=1, sampling=sampling)


async def _one(live: LiveModel, request: Generate, call: Call, clock: Callable[[], float]) -> AsyncGenerator[Delta]:
    """One choice: waits for a slot (at most the manifest's timeout), then streams until the call's deadline."""
    tenant = call.principal.tenant
    asked = clock()
    await live.slots.acquire(_deadline(live, call, asked), call.priority, tenant)
    started = clock()
    try:
        left_s = None if call.deadline_s is None else call.deadline_s - started
        with closing(Deadline(left_s)) as deadline:
            async with aclosing(live.executor.generate(request)) as deltas:
                while True:
                    delta = await _next_delta(deltas, deadline, live)
                    if isinstance(delta, Done):
                        now = clock()
                        live.statistics.batch(1, 1, started - asked, now - started, now - started, 0.0, now)
                        yield delta
                        return
                    yield delta
    finally:
        live.slots.release(tenant)


async def _next_response(
    responses: AsyncGenerator[dict[str, Array]], deadline: Deadline, live: LiveModel
) -> dict[str, Array] | None:
    """The next response, None after the last."""
    try:
        return await deadline.wait(anext(responses))
    except StopAsyncIteration:
        return None
    except TimeoutError:
        raise DeadlineExceeded(f"{live.manifest.ref} did not finish within the deadline of this request") from None


async def _next_delta(deltas: AsyncGenerator[Delta], deadline: Deadline, live: LiveModel) -> Delta:
    try:
        return await deadline.wait(anext(deltas))
    except StopAsyncIteration:
        raise InferenceFailed("the runtime ended without finishing the answer") from None
    except TimeoutError:
        raise DeadlineExceeded(f"{live.manifest.ref} did not finish within the deadline of this request") from None
