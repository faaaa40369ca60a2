"""The two use cases that matter most: one prediction, one generation. Admission, routing, lease, compute, account."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec
import numpy as np

from inference_engine.domain.errors import DeadlineExceeded, EngineError, InferenceFailed, InvalidTensor
from inference_engine.domain.ports import Telemetry
from inference_engine.domain.requests import Call, Embed, Generate, Kind, Predict, Rerank, check_generate
from inference_engine.domain.results import Delta, Done, Embeddings, Prediction, Ranking, Served
from inference_engine.domain.tensors import Array, Tensors
from inference_engine.domain.text_tensors import DOCUMENT, EMBEDDING, QUERY, SCORE, TEXT, TOKENS, text_tensor
from inference_engine.services.checks import check_generation, check_kind, checked_rows, kind_of
from inference_engine.services.models import LiveModel, ModelService
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


class InferenceService:
    """Answers requests with the models of a `ModelService`."""

    def __init__(self, models: ModelService, telemetry: Telemetry, clock: Callable[[], float]) -> None:
        self._models = models
        self._telemetry = telemetry
        self._clock = clock

    async def predict(self, target: str, request: Predict, call: Call) -> Prediction:
        """Compute one request, merged with others that wait.

        Raises:
            ModelNotFound; UnsupportedTask; InvalidTensor; Unavailable; DeadlineExceeded; ModelError.
        """
        served = self._models.resolve(target)
        started = self._clock()
        outcome = "cancelled"
        try:
            lease = self._models.lease(served.ref)
            if not lease.ready:
                await lease.make_ready()
            with lease as live:
                rows = checked_rows(live, request)
                outputs, queue_s, compute_s = await live.batches.submit(
                    request.inputs, rows, _deadline(live, call, started), call.priority
                )
                if request.outputs:
                    outputs = _wanted(outputs, request.outputs)
                outcome = "ok"
                return Prediction(outputs, served, queue_s, compute_s)
        except EngineError as error:
            outcome = error.code
            raise
        finally:
            self._telemetry.request(served.ref, "predict", outcome, self._clock() - started)

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
        return Generation(served, self._answer(served, request, call))

    async def embed(self, target: str, request: Embed, call: Call) -> Embeddings:
        """One vector for each text. The texts are merged with those of others that wait.

        Raises:
            ModelNotFound; InvalidRequest; UnsupportedTask; Unavailable; DeadlineExceeded; ModelError.
        """
        served = self._models.resolve(target)
        outputs = await self._texts(served, "embed", {TEXT: text_tensor(request.texts)}, call)
        vectors = np.asarray(outputs[EMBEDDING], np.float32)
        if request.dimensions is not None:
            vectors = shortened(vectors, request.dimensions)
        return Embeddings(vectors, int(outputs[TOKENS].sum()), served)

    async def rerank(self, target: str, request: Rerank, call: Call) -> Ranking:
        """A score for each document. Raises what `embed` raises."""
        served = self._models.resolve(target)
        inputs = {
            QUERY: text_tensor([request.query] * len(request.documents)),
            DOCUMENT: text_tensor(request.documents),
        }
        outputs = await self._texts(served, "rerank", inputs, call)
        return Ranking(np.asarray(outputs[SCORE], np.float32), int(outputs[TOKENS].sum()), served)

    async def _texts(self, served: Served, kind: Kind, inputs: Tensors, call: Call) -> dict[str, Array]:
        started = self._clock()
        outcome = "cancelled"
        try:
            async with self._models.lease(served.ref) as live:
                check_kind(live, kind)
                outputs = await compute_texts(live, inputs, _deadline(live, call, started), call.priority)
                outcome = "ok"
                return outputs
        except EngineError as error:
            outcome = error.code
            raise
        finally:
            self._telemetry.request(served.ref, kind, outcome, self._clock() - started)

    async def tokenize(self, target: str, request: Generate, call: Call) -> tuple[int, ...]:  # noqa: ARG002 - every use case is called so
        """The prompt of `request` as the model's own token ids; nothing is generated.

        Raises:
            ModelNotFound; InvalidRequest; UnsupportedTask; Unavailable; ModelError.
        """
        check_generate(request)
        served = self._models.resolve(target)
        async with self._models.lease(served.ref) as live:
            check_generation(live, request)
            return await live.executor.tokenize(request)

    async def _answer(self, served: Served, request: Generate, call: Call) -> AsyncGenerator[Delta]:
        kind = kind_of(request)
        started = self._clock()
        first_s: float | None = None
        outcome = "cancelled"
        try:
            async with self._models.lease(served.ref) as live:
                check_generation(live, request)
                async with aclosing(_choices(live, request, call, self._clock)) as deltas:
                    async for delta in deltas:
                        if first_s is None:
                            first_s = self._clock()
                            self._telemetry.first_token(served.ref, first_s - started)
                        if isinstance(delta, Done):
                            usage = delta.usage
                            self._telemetry.tokens(
                                served.ref, usage.prompt_tokens, usage.completion_tokens, self._clock() - first_s
                            )
                        yield delta
            outcome = "ok"
        except EngineError as error:
            outcome = error.code
            raise
        finally:
            self._telemetry.request(served.ref, kind, outcome, self._clock() - started)


def _wanted(outputs: dict[str, Array], names: tuple[str, ...]) -> dict[str, Array]:
    missing = [name for name in names if name not in outputs]
    if missing:
        raise InvalidTensor(f"output {missing[0]!r} is unknown; the model gives {sorted(outputs)}", param=missing[0])
    return {name: outputs[name] for name in names}


def _deadline(live: LiveModel, call: Call, started: float) -> float:
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
    await live.slots.acquire(_deadline(live, call, clock()), call.priority)
    try:
        async with aclosing(live.executor.generate(request)) as deltas:
            while True:
                delta = await _next_delta(deltas, call, clock, live)
                if delta is None:
                    raise InferenceFailed("the runtime ended without finishing the answer")
                yield delta
                if isinstance(delta, Done):
                    return
    finally:
        live.slots.release()


async def _next_delta(
    deltas: AsyncGenerator[Delta], call: Call, clock: Callable[[], float], live: LiveModel
) -> Delta | None:
    if call.deadline_s is None:
        return await anext(deltas, None)
    try:
        async with asyncio.timeout(max(0.0, call.deadline_s - clock())):
            return await anext(deltas, None)
    except TimeoutError:
        raise DeadlineExceeded(f"{live.manifest.ref} did not finish within the deadline of this request") from None
