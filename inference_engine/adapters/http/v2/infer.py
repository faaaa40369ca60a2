"""POST .../infer: JSON and binary tensors in, a prediction, JSON and binary tensors out. A hot path: measured."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, NamedTuple

import msgspec
import orjson
from msgspec import UNSET

from inference_engine.adapters.http.calls import Calls, served_headers
from inference_engine.adapters.http.decoding import decode, shown
from inference_engine.adapters.http.exchange import Exchange
from inference_engine.adapters.http.v2 import tensors
from inference_engine.adapters.http.v2.errors import broken_off
from inference_engine.adapters.http.v2.shared_memory import REGION, Place, read_input, write_output
from inference_engine.adapters.http.v2.wire import ELEMENTS, InferInput, InferRequest, OutputRequest, Parameters
from inference_engine.adapters.sequences import SEQUENCE, sequence_step
from inference_engine.adapters.shared_memory import Regions
from inference_engine.domain.classification import classified
from inference_engine.domain.datatypes import datatype_of, to_raw
from inference_engine.domain.errors import InvalidRequest, InvalidTensor, UnknownField
from inference_engine.domain.requests import Predict, SequenceStep
from inference_engine.domain.results import Prediction
from inference_engine.domain.tensors import Array
from inference_engine.services.inference import InferenceService
from inference_engine.services.models import ModelService

HEADER_LENGTH = b"inference-header-content-length"
OCTETS = b"application/octet-stream"
_DECODER = msgspec.json.Decoder(InferRequest)
_KNOWN = frozenset({"binary_data_output", "timeout", "priority", *SEQUENCE})
_OUTPUT_KNOWN = frozenset({"binary_data", "classification"})
_TIMEOUT_UNIT_S = 1e-6
_MAX_ID = 256
_MAX_DIGITS = 19
_NOTHING = memoryview(b"")


class Wanted(NamedTuple):
    """Which outputs are wanted (empty: all), and which of them after the JSON. `default` is for those not named.

    `timeout_s` is the client's own limit; a lower `priority` is served first. Of the outputs in `classes` only that
    many best classes are wanted; those in `places` go into shared memory.
    """

    names: tuple[str, ...] = ()
    binary: frozenset[str] = frozenset()
    default: bool = False
    timeout_s: float | None = None
    priority: int = 0
    classes: Mapping[str, int] = {}
    places: Mapping[str, Place] = {}
    sequence: SequenceStep | None = None


_ALL_JSON = Wanted()
_ALL_BINARY = Wanted(default=True)


class Infer:
    """The infer endpoints, with and without a version."""

    def __init__(self, inference: InferenceService, models: ModelService, calls: Calls, regions: Regions) -> None:
        self._inference = inference
        self._regions = regions
        self._models = models
        self._calls = calls

    async def __call__(self, exchange: Exchange) -> None:
        request, inputs = _decoded(await exchange.body(), exchange.headers.get(HEADER_LENGTH), self._regions)
        wanted = _ALL_JSON
        if request.outputs is not UNSET or request.parameters is not UNSET:
            wanted = _ALL_BINARY if _is_all_binary(request) else _wanted(request)
        params = exchange.path_params
        if request.model_name is not UNSET and request.model_name != params["model"]:
            raise InvalidRequest(
                f"model_name is {shown(request.model_name)}, the path says {params['model']!r}: leave it out",
                param="model_name",
            )
        target = f"{params['model']}:{params['version']}" if "version" in params else params["model"]
        call = self._calls.of(exchange, wanted.timeout_s, wanted.priority)
        exchange.cancel_when_gone()
        prediction = await self._inference.predict(target, Predict(inputs, wanted.names, wanted.sequence), call)
        if wanted.classes:
            prediction = self._classified(prediction, wanted.classes)
        if wanted.default or wanted.binary or wanted.places:
            await self._answer_binary(exchange, prediction, request, wanted)
            return
        await exchange.respond(200, _json_body(prediction, request), headers=served_headers(prediction.served))

    async def stream(self, exchange: Exchange) -> None:
        """Every response as a server-sent event. A failure before the first is an HTTP error, else the last event."""
        request, inputs = _decoded(await exchange.body(), exchange.headers.get(HEADER_LENGTH), self._regions)
        wanted = _wanted(request)
        if wanted.default or wanted.binary or wanted.places:
            raise InvalidRequest(
                "infer_stream answers in JSON: leave out binary_data_output, binary_data and shared memory of outputs",
                param="outputs",
            )
        params = exchange.path_params
        target = f"{params['model']}:{params['version']}" if "version" in params else params["model"]
        call = self._calls.of(exchange, wanted.timeout_s, wanted.priority)
        exchange.cancel_when_gone()
        stream = self._inference.predict_stream(target, Predict(inputs, wanted.names, wanted.sequence), call)
        async with aclosing(stream.responses) as responses:
            response = await anext(responses, None)
            await exchange.start_events(served_headers(stream.served))
            try:
                while response is not None:
                    if wanted.classes:
                        response = self._classified(response, wanted.classes)
                    await exchange.send_events(_event(_json_body(response, request)))
                    response = await anext(responses, None)
            except Exception as error:  # whatever it was, the client must not take the part for the whole
                await exchange.end_events(_event(orjson.dumps({"error": broken_off(exchange, error)})))
                return
            await exchange.end_events()

    async def _answer_binary(
        self, exchange: Exchange, prediction: Prediction, request: InferRequest, wanted: Wanted
    ) -> None:
        outputs: list[dict[str, Any]] = []
        chunks: list[bytes] = []
        for name, array in prediction.outputs.items():
            output: dict[str, Any] = {"name": name, "datatype": datatype_of(name, array), "shape": array.shape}
            if name in wanted.places:
                write_output(self._regions, name, array, wanted.places[name])
            elif name in wanted.binary or (wanted.default and name not in wanted.names):
                chunks.append(to_raw(array))
                output["parameters"] = {tensors.BINARY_SIZE: len(chunks[-1])}
            else:
                output["data"] = tensors.to_json(name, array)
            outputs.append(output)
        head = orjson.dumps(_head(prediction, request, outputs), option=orjson.OPT_SERIALIZE_NUMPY)
        headers = (*served_headers(prediction.served), (HEADER_LENGTH, b"%d" % len(head)))
        await exchange.respond(200, b"".join((head, *chunks)), OCTETS, headers)

    def _classified(self, prediction: Prediction, classes: Mapping[str, int]) -> Prediction:
        signature = self._models.signature(prediction.served.ref)
        outputs = {
            name: classified(name, array, classes[name], signature) if name in classes else array
            for name, array in prediction.outputs.items()
        }
        return msgspec.structs.replace(prediction, outputs=outputs)


def _json_body(prediction: Prediction, request: InferRequest) -> bytes:
    outputs = [
        {
            "name": name,
            "datatype": datatype_of(name, array),
            "shape": array.shape,
            "data": tensors.to_json(name, array),
        }
        for name, array in prediction.outputs.items()
    ]
    return orjson.dumps(_head(prediction, request, outputs), option=orjson.OPT_SERIALIZE_NUMPY)


def _event(body: bytes) -> bytes:
    return b"data: %b\n\n" % body


def _head(prediction: Prediction, request: InferRequest, outputs: list[dict[str, Any]]) -> dict[str, Any]:
    served = prediction.served
    head: dict[str, Any] = {"model_name": served.ref.name, "model_version": served.ref.version}
    if request.id:
        head["id"] = request.id
    head["parameters"] = {"route": served.route, "rule": served.rule}
    head["outputs"] = outputs
    return head


# -- decoding ------------------------------------------------------------------------------------------------------


def _decoded(body: bytes, header_length: bytes | None, regions: Regions) -> tuple[InferRequest, dict[str, Array]]:
    if header_length is None:
        request, tail = _request(body), _NOTHING
    else:
        head, tail = _split(body, header_length)
        request = _request(head)
    inputs: dict[str, Array] = {}
    at = 0
    for tensor in request.inputs:
        parameters = tensor.parameters
        if parameters is not UNSET and REGION in parameters:
            inputs[tensor.name] = read_input(regions, tensor, parameters)
            continue
        size = None if parameters is UNSET else _binary_size(tensor)
        if size is None:
            inputs[tensor.name] = tensors.from_json(tensor)
        else:
            inputs[tensor.name] = tensors.from_binary(tensor, _part(tensor, tail, at, size))
            at += size
    if at != len(tail):
        raise InvalidRequest(f"{len(tail) - at} bytes follow the last tensor: every byte must belong to an input")
    if len(inputs) != len(request.inputs) or not inputs:
        raise _repeated(request)
    if request.id is not UNSET and len(request.id) > _MAX_ID:
        raise InvalidRequest(f"id is longer than {_MAX_ID} characters", param="id")
    return request, inputs


def _part(tensor: InferInput, tail: memoryview, at: int, size: int) -> memoryview:
    if size > len(tail) - at:
        raise InvalidTensor(
            f"input {tensor.name!r} declares {size} bytes, {len(tail) - at} are left of the body", param=tensor.name
        )
    return tail[at : at + size]


def _repeated(request: InferRequest) -> InvalidRequest:
    names = [tensor.name for tensor in request.inputs]
    for name in names:
        if names.count(name) > 1:
            return InvalidTensor(f"input {name!r} is given twice", param=name)
    return InvalidRequest("inputs is empty: send at least one tensor", param="inputs")


def _split(body: bytes, header_length: bytes) -> tuple[memoryview, memoryview]:
    if not header_length.isdigit() or len(header_length) > _MAX_DIGITS or int(header_length) > len(body):
        raise InvalidRequest(
            f"Inference-Header-Content-Length must be the size of the JSON part, at most {len(body)} bytes here",
            param="Inference-Header-Content-Length",
        )
    view = memoryview(body)
    return view[: int(header_length)], view[int(header_length) :]


def _request(body: bytes | memoryview) -> InferRequest:
    try:
        return decode(_DECODER, body)
    except InvalidRequest as error:
        raise _explained(error, body) from None


def _explained(error: InvalidRequest, body: bytes | memoryview) -> InvalidRequest:
    """The same error in terms of tensors: names instead of positions, NaN and datatypes called by their name."""
    document: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(bytes(body))  # unlike msgspec it reads NaN, which is what we look for
    entries = document.get("inputs") if isinstance(document, dict) else None
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        if not isinstance(entry, dict):
            continue
        name = shown(entry.get("name"))
        if _not_finite(entry.get("data")):
            return InvalidTensor(
                f"input {name} holds NaN or an infinity, which JSON has no words for: send finite numbers, "
                "or send the tensor as binary data",
                param=str(entry.get("name")),
            )
        place = f"inputs[{index}]"
        if (error.param or "").startswith(place):
            if error.param == f"{place}.datatype":
                return InvalidTensor(
                    f"input {name} has the datatype {shown(entry.get('datatype'))}, supported are: "
                    + ", ".join(ELEMENTS),
                    param=str(entry.get("name")),
                )
            if isinstance(error, UnknownField):
                return error
            return InvalidTensor(f"input {name}: {error.message}", param=str(entry.get("name")))
    return error


def _not_finite(data: object) -> bool:
    """True when NaN or an infinity is in `data`, at any depth."""
    waiting = [data]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, float) and not math.isfinite(item):
            return True
    return False


def _binary_size(tensor: InferInput) -> int | None:
    """The declared size of a binary input, None for a JSON one."""
    parameters: Parameters = tensor.parameters  # type: ignore[assignment]  # UNSET was asked for before
    size = parameters.get(tensors.BINARY_SIZE)
    for name in parameters:
        if name != tensors.BINARY_SIZE:
            raise UnknownField(
                f"input {tensor.name!r} has the parameter {shown(name)}, which is not supported: leave it out",
                param=tensor.name,
            )
    if size is None:
        return None
    if type(size) is not int or size < 0:
        raise InvalidTensor(f"input {tensor.name!r}: binary_data_size must be a number of bytes", param=tensor.name)
    if tensor.data is not UNSET:
        raise InvalidTensor(f"input {tensor.name!r} has both data and binary_data_size", param=tensor.name)
    return size


def _is_all_binary(request: InferRequest) -> bool:
    """True for what clients of the binary extension usually say: only that everything is wanted so."""
    parameters = request.parameters
    if request.outputs is not UNSET or parameters is UNSET:
        return False
    return len(parameters) == 1 and parameters.get("binary_data_output") is True


def _wanted(request: InferRequest) -> Wanted:
    default = timeout_s = sequence = None
    priority = 0
    if request.parameters is not UNSET:
        _refuse_others(request.parameters, _KNOWN, "parameters")
        default = _flag(request.parameters, "binary_data_output", "parameters")
        timeout_s = _timeout_s(request.parameters)
        priority = _priority(request.parameters)
        sequence = sequence_step(request.parameters)
    names: list[str] = []
    binary: set[str] = set()
    classes: dict[str, int] = {}
    places: dict[str, Place] = {}
    for output in request.outputs if request.outputs is not UNSET else ():
        if output.name in names:
            raise InvalidRequest(f"output {output.name!r} is asked for twice", param="outputs")
        names.append(output.name)
        if output.parameters is not UNSET and REGION in output.parameters:
            places[output.name] = Place.of(output.parameters, output.name)
            continue
        own = _output_flag(output)
        if count := _class_count(output):
            classes[output.name] = count
        if own if own is not None else default:
            binary.add(output.name)
    return Wanted(tuple(names), frozenset(binary), bool(default), timeout_s, priority, classes, places, sequence)


def _timeout_s(parameters: Parameters) -> float | None:
    """Triton's `timeout` counts microseconds; 0 is none."""
    value = parameters.get("timeout")
    if value is not None and (type(value) is not int or value < 0):
        raise InvalidRequest("parameters: timeout must be a number of microseconds", param="timeout")
    return value * _TIMEOUT_UNIT_S if value else None


def _priority(parameters: Parameters) -> int:
    """As in Triton: 1 is served first, 0 is the model's default, which here comes before every other number."""
    value = parameters.get("priority", 0)
    if type(value) is not int or not 0 <= value < 2**32:
        raise InvalidRequest("parameters: priority must be a whole number from 0", param="priority")
    return value


def _output_flag(output: OutputRequest) -> bool | None:
    if output.parameters is UNSET:
        return None
    _refuse_others(output.parameters, _OUTPUT_KNOWN, f"output {output.name!r}")
    return _flag(output.parameters, "binary_data", f"output {output.name!r}")


def _class_count(output: OutputRequest) -> int:
    """How many of the best classes are wanted instead of the output, 0 for the output itself."""
    value = output.parameters.get("classification", 0) if output.parameters is not UNSET else 0
    if type(value) is not int or value < 0:
        raise InvalidRequest(f"output {output.name!r}: classification must be a number of classes", param=output.name)
    return value


def _flag(parameters: Parameters, name: str, place: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"{place}: {name} must be true or false", param=name)
    return value


def _refuse_others(parameters: Parameters, known: frozenset[str], place: str) -> None:
    for name in parameters:
        if name not in known:
            raise UnknownField(f"{place}: the parameter {shown(name)} is not supported here: leave it out", param=name)
