"""ModelInfer and ModelStreamInfer: tensors to a prediction, text to a generation, and their answers as messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple

import msgspec

from inference_engine.adapters.grpc import generation, tensors
from inference_engine.adapters.grpc.admission import Admission, Caller, abort, told
from inference_engine.adapters.grpc.answers import Answers, head_of
from inference_engine.adapters.grpc.protocol import InferRequest, InferResponse, StreamResponse, read
from inference_engine.adapters.grpc.tensors import Place
from inference_engine.adapters.sequences import SEQUENCE, sequence_step
from inference_engine.adapters.shared_memory import Regions
from inference_engine.domain.classification import classified
from inference_engine.domain.errors import EngineError, InvalidRequest, ShuttingDown, UnknownField, UnsupportedTask
from inference_engine.domain.requests import Call, Predict, SequenceStep
from inference_engine.domain.results import Prediction
from inference_engine.domain.tensors import Array
from inference_engine.services.inference import InferenceService
from inference_engine.services.models import ModelService

FINAL = "triton_final_response"
_CLASSES = "classification"
_EMPTY_FINAL = "triton_enable_empty_final_response"
_TIMEOUT_UNIT_S = 1e-6
_MAX_ID = 256


class Asked(NamedTuple):
    """A request without its tensors. `places` are outputs wanted in shared memory, `rest` is for a generation.

    Of the outputs in `classes` only that many best classes are wanted. `empty_final` asks for an empty response after
    the last of several.
    """

    target: str
    outputs: tuple[str, ...]
    places: dict[str, Place]
    timeout_s: float | None
    priority: int
    rest: dict[str, Any]
    classes: Mapping[str, int] = {}
    empty_final: bool = False
    sequence: SequenceStep | None = None


class Infer:
    """The two infer methods."""

    def __init__(
        self, models: ModelService, inference: InferenceService, admission: Admission, regions: Regions
    ) -> None:
        self._models = models
        self._inference = inference
        self._admission = admission
        self._regions = regions
        self._encode = Answers(regions).encoded
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End the streams that wait for their client's next request; what is being answered goes on."""
        self._closing.set()

    async def unary(self, encoded: bytes, context: Any) -> bytes:
        """ModelInfer: one answer, encoded; a generation is answered whole. A hot path: measured."""
        try:
            caller = self._admission.admit(context)
            request = read(InferRequest, encoded)
            asked = _asked(request)
            inputs = tensors.decoded(request, self._regions)
            if generation.TEXT_INPUT in inputs and (wanted := await self._generation(asked, inputs)) is not None:
                return await self._whole(request, asked, wanted, caller, context)
            return await self._predicted(request, asked, inputs, caller, context)
        except Exception as error:
            return await abort(context, error, "ModelInfer")

    async def stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncGenerator[Any]:
        """ModelStreamInfer: requests are answered in their order. A bad one gets its error; the stream goes on.

        What is no request at all ends it.
        """
        try:
            caller = self._admission.admit(context)
            async with aclosing(self._requests(requests)) as taken:
                async for encoded in taken:
                    request = read(InferRequest, encoded)
                    async with aclosing(self._told(request, caller, context)) as answers:
                        async for answer in answers:
                            yield answer
        except EngineError as error:
            await abort(context, error, "ModelStreamInfer")

    async def _whole(
        self, request: Any, asked: Asked, wanted: generation.Wanted, caller: Caller, context: Any
    ) -> bytes:
        """A generation as one answer."""
        if wanted.stream:
            raise UnsupportedTask("stream is true: call ModelStreamInfer, which can answer in parts", param="stream")
        async with aclosing(self._generated(request, asked, wanted, caller, context)) as answers:
            encoded: bytes = (await anext(answers)).SerializeToString()
            return encoded

    async def _requests(self, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        """The encoded requests of a stream, until its client ends it.

        Raises:
            ShuttingDown: the server ends first.
        """
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            while not closing.done():
                reading = asyncio.ensure_future(_next(requests))
                try:
                    await asyncio.wait((reading, closing), return_when=asyncio.FIRST_COMPLETED)
                    if reading.done():
                        request = reading.result()
                        if request is None:
                            return
                        yield request
                finally:
                    reading.cancel()
        finally:
            closing.cancel()
        raise ShuttingDown("the server is shutting down: open the stream again when it is back")

    async def _told(self, request: Any, caller: Caller, context: Any) -> AsyncGenerator[Any]:
        """The answers to one request, with its error as the last where it fails."""
        try:
            async with aclosing(self._answers(request, caller, context)) as answers:
                async for answer in answers:
                    yield StreamResponse(infer_response=answer)
        except Exception as error:
            _, text = told(error, "ModelStreamInfer")
            yield StreamResponse(
                error_message=text,
                infer_response=InferResponse(
                    id=request.id, model_name=request.model_name, model_version=request.model_version
                ),
            )

    async def _answers(self, request: Any, caller: Caller, context: Any) -> AsyncGenerator[Any]:
        asked = _asked(request)
        inputs = tensors.decoded(request, self._regions)
        wanted = await self._generation(asked, inputs)
        if wanted is not None:
            async with aclosing(self._generated(request, asked, wanted, caller, context)) as answers:
                async for answer in answers:
                    yield answer
            return
        if "predict_stream" in (await self._models.ready(self._models.resolve(asked.target).ref)).kinds:
            async with aclosing(self._responses(request, asked, inputs, caller, context)) as answers:
                async for answer in answers:
                    yield answer
            return
        answer = InferResponse.FromString(await self._predicted(request, asked, inputs, caller, context))
        answer.parameters[FINAL].bool_param = True
        yield answer

    async def _responses(
        self, request: Any, asked: Asked, inputs: dict[str, Array], caller: Caller, context: Any
    ) -> AsyncGenerator[Any]:
        """The responses of a model that gives any number; which is the last is known only once there is none."""
        for name in asked.places:
            raise InvalidRequest(
                f"output {name!r}: a model of several responses cannot write them into one place of shared memory",
                param=name,
            )
        stream = self._inference.predict_stream(*self._prediction(asked, inputs, caller, context))
        async with aclosing(stream.responses) as predictions:
            async for prediction in predictions:
                answer = InferResponse.FromString(self._encoded(request, asked, prediction))
                answer.parameters[FINAL].bool_param = False
                yield answer
        if asked.empty_final:
            answer = head_of(stream.served)
            answer.id = request.id
            answer.parameters[FINAL].bool_param = True
            yield answer

    async def _generation(self, asked: Asked, inputs: dict[str, Array]) -> generation.Wanted | None:
        """The text to be continued; None for tensors, also for one that happens to have its name."""
        if generation.TEXT_INPUT not in inputs:
            return None
        ref = self._models.resolve(asked.target).ref
        loaded = await self._models.ready(ref)
        if "predict" in loaded.kinds:
            signature = self._models.signature(ref)
            if signature is None or any(spec.name == generation.TEXT_INPUT for spec in signature.inputs):
                return None
        if "chat" not in loaded.kinds and "complete" not in loaded.kinds:
            return None
        return generation.decoded(inputs, asked.rest, as_chat="complete" not in loaded.kinds)

    async def _predicted(
        self, request: Any, asked: Asked, inputs: dict[str, Array], caller: Caller, context: Any
    ) -> bytes:
        prediction = await self._inference.predict(*self._prediction(asked, inputs, caller, context))
        return self._encoded(request, asked, prediction)

    def _prediction(
        self, asked: Asked, inputs: dict[str, Array], caller: Caller, context: Any
    ) -> tuple[str, Predict, Call]:
        for name in asked.rest:
            raise UnknownField(f"parameters: {name[:80]!r} is not supported here: leave it out", param=name[:80])
        call = self._admission.call(caller, context, asked.timeout_s, asked.priority)
        return asked.target, Predict(inputs, asked.outputs, asked.sequence), call

    def _encoded(self, request: Any, asked: Asked, prediction: Prediction) -> bytes:
        if asked.classes:
            prediction = self._classified(prediction, asked.classes)
        return self._encode(request.id, prediction, asked.places)

    def _classified(self, prediction: Prediction, classes: Mapping[str, int]) -> Prediction:
        signature = self._models.signature(prediction.served.ref)
        outputs = {
            name: classified(name, array, classes[name], signature) if name in classes else array
            for name, array in prediction.outputs.items()
        }
        return msgspec.structs.replace(prediction, outputs=outputs)

    async def _generated(
        self, request: Any, asked: Asked, wanted: generation.Wanted, caller: Caller, context: Any
    ) -> AsyncGenerator[Any]:
        for name in asked.outputs:
            if name != generation.TEXT_OUTPUT or asked.places or asked.classes:
                raise InvalidRequest(
                    f"output {name!r} is not given by a generation: ask for {generation.TEXT_OUTPUT}, outside of "
                    "shared memory and without classes",
                    param="outputs",
                )
        call = self._admission.call(caller, context, asked.timeout_s, asked.priority)
        answer = await self._inference.generate(asked.target, wanted.request, call)
        async with aclosing(generation.parts(answer.deltas, whole=not wanted.stream)) as parts:
            async for part in parts:
                response = head_of(answer.served)
                response.id = request.id
                tensors.add_output(response, generation.TEXT_OUTPUT, part.tensor, None, self._regions)
                if part.done is not None:
                    response.parameters[FINAL].bool_param = True
                    response.parameters["finish_reason"].string_param = part.done.reason
                    response.parameters["prompt_tokens"].int64_param = part.done.usage.prompt_tokens
                    response.parameters["completion_tokens"].int64_param = part.done.usage.completion_tokens
                yield response


async def _next(requests: AsyncIterator[Any]) -> Any:
    """The next request, None after the last."""
    try:
        return await requests.__anext__()
    except StopAsyncIteration:
        return None


def target_of(name: str, version: str) -> str:
    """The service's word for a model.

    Raises:
        InvalidRequest: no name came.
    """
    if not name:
        raise InvalidRequest("the model's name is empty: say which model", param="model_name")
    return f"{name}:{version}" if version else name


def _asked(request: Any) -> Asked:
    if len(request.id) > _MAX_ID:
        raise InvalidRequest(f"id is longer than {_MAX_ID} characters", param="id")
    target = target_of(request.model_name, request.model_version)
    if not request.parameters and not request.outputs:
        return Asked(target, (), {}, None, 0, {})
    rest = tensors.parameters(request.parameters)
    empty_final = rest.pop(_EMPTY_FINAL, False) is True  # generations end with one that is flagged in any case
    sequence = sequence_step(rest)
    for name in SEQUENCE:
        rest.pop(name, None)
    if rest.pop("binary_data_output", True) is not True:
        raise UnknownField("parameters: binary_data_output can only be true over gRPC", param="binary_data_output")
    timeout_s, priority = _timeout_s(rest.pop("timeout", None)), _priority(rest.pop("priority", 0))
    names: list[str] = []
    places: dict[str, Place] = {}
    classes: dict[str, int] = {}
    for output in request.outputs:
        if output.name in names:
            raise InvalidRequest(f"output {output.name!r} is asked for twice", param="outputs")
        names.append(output.name)
        given = tensors.parameters(output.parameters)
        if count := _class_count(output.name, given.pop(_CLASSES, 0)):
            classes[output.name] = count
        place = tensors.place_of(output.name, given, "output")
        if place is not None:
            places[output.name] = place
            if count:
                raise InvalidRequest(
                    f"output {output.name!r}: classes cannot go into shared memory: leave one out", param=output.name
                )
    return Asked(target, tuple(names), places, timeout_s, priority, rest, classes, empty_final, sequence)


def _class_count(name: str, value: Any) -> int:
    """How many of the best classes are wanted instead of the output, 0 for the output itself."""
    if type(value) is not int or value < 0:
        raise InvalidRequest(f"output {name!r}: {_CLASSES} must be a number of classes", param=name)
    return value


def _timeout_s(value: Any) -> float | None:
    """Triton's `timeout` counts microseconds; 0 is none."""
    if value is not None and (type(value) is not int or value < 0):
        raise InvalidRequest("parameters: timeout must be a number of microseconds", param="timeout")
    return value * _TIMEOUT_UNIT_S if value else None


def _priority(value: Any) -> int:
    """As in Triton: 1 is served first, 0 is the model's default, which here comes before every other number."""
    if type(value) is not int or not 0 <= value < 2**32:
        raise InvalidRequest("parameters: priority must be a whole number from 0", param="priority")
    return value
