"""Tensors between the messages of the protocol and numpy. Knows shared memory regions, no service.

Nothing is allocated for what a request only declares: counts are compared before arrays are made.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from inference_engine.adapters.shared_memory import Regions
from inference_engine.domain.datatypes import BF16, NUMPY, datatype_of, from_raw, objects, to_raw, wrong_count
from inference_engine.domain.errors import InvalidRequest, InvalidTensor, UnknownField
from inference_engine.domain.tensors import Array

_MAX_RANK = 32
_MAX_DIM = 2**48
_REGION, _SIZE, _OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"
_BINARY_SIZE = "binary_data_size"
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
}


class Place(NamedTuple):
    """A part of a shared memory region that a tensor is in."""

    region: str
    offset: int
    size_bytes: int


def parameters(given: Any) -> dict[str, Any]:
    """A map of `InferParameter` as plain values.

    Raises:
        InvalidRequest: a parameter holds nothing.
    """
    values = {}
    for name, parameter in given.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidRequest(f"parameter {name[:80]!r} holds no value", param=name[:80])
        values[name] = getattr(parameter, kind)
    return values


def decoded(request: Any, regions: Regions) -> dict[str, Array]:
    """The inputs of a `ModelInferRequest` by name. Raw numbers are views of the message's bytes.

    Raises:
        InvalidTensor; InvalidRequest; Forbidden: shared memory is switched off.
    """
    raws = request.raw_input_contents
    inputs: dict[str, Array] = {}
    taken = 0
    for tensor in request.inputs:
        name = tensor.name
        if name in inputs:
            raise InvalidTensor(f"input {name!r} is given twice", param=name)
        shape = _shape(name, tensor.shape)
        place, size = _placed(name, tensor.parameters) if tensor.parameters else (None, None)
        if place is not None:
            if tensor.HasField("contents"):
                raise InvalidTensor(f"input {name!r} has both contents and shared memory", param=name)
            inputs[name] = from_raw(
                name, tensor.datatype, shape, regions.read(place.region, place.offset, place.size_bytes, name)
            )
        elif raws:
            if tensor.HasField("contents"):
                raise InvalidTensor(
                    f"input {name!r} has contents, and raw_input_contents came too: use one of them for all inputs",
                    param=name,
                )
            if taken >= len(raws):
                raise InvalidTensor(f"input {name!r} has no entry in raw_input_contents", param=name)
            raw = raws[taken]
            _check_size(name, size, len(raw))
            inputs[name] = from_raw(name, tensor.datatype, shape, raw)
            taken += 1
        else:
            _check_size(name, size, 0)
            inputs[name] = _typed(name, tensor.datatype, shape, tensor.contents)
    if taken != len(raws):
        raise InvalidRequest(
            f"raw_input_contents has {len(raws)} entries for {taken} inputs", param="raw_input_contents"
        )
    if not inputs:
        raise InvalidRequest("inputs is empty: send at least one tensor", param="inputs")
    return inputs


def _placed(name: str, given: Any) -> tuple[Place | None, Any]:
    """Where an input is in shared memory, and its `binary_data_size`; None for what is not said."""
    values = parameters(given)
    size = values.pop(_BINARY_SIZE, None)
    return place_of(name, values, "input"), size


def _check_size(name: str, declared: Any, size_bytes: int) -> None:
    """KServe's client declares over gRPC, too, how long a raw input is."""
    if declared is not None and declared != size_bytes:
        raise InvalidTensor(
            f"input {name!r} declares {_BINARY_SIZE} {str(declared)[:40]}, its entry in raw_input_contents has "
            f"{size_bytes} bytes",
            param=name,
        )


def _shape(name: str, given: Any) -> tuple[int, ...]:
    shape = tuple(given)
    if shape and (len(shape) > _MAX_RANK or min(shape) < 0 or max(shape) > _MAX_DIM):
        raise InvalidTensor(
            f"input {name!r} has the shape {list(shape[:_MAX_RANK])}: at most {_MAX_RANK} dimensions from 0 to 2^48",
            param=name,
        )
    return shape


def place_of(name: str, given: dict[str, Any], role: str) -> Place | None:
    """Where in shared memory a tensor is; None where its parameters say nothing of it.

    Raises:
        UnknownField; InvalidTensor: a parameter is not one of shared memory, or no number.
    """
    if _REGION not in given and role == "output":
        given = {key: value for key, value in given.items() if not (key == "binary_data" and value is True)}
    for parameter in given:
        if parameter not in (_REGION, _SIZE, _OFFSET):
            raise UnknownField(
                f"{role} {name!r} has the parameter {parameter[:80]!r}, which is not supported: leave it out",
                param=name,
            )
    if not given:
        return None
    region, size, offset = given.get(_REGION), given.get(_SIZE), given.get(_OFFSET, 0)
    if not isinstance(region, str) or type(size) is not int or type(offset) is not int:
        raise InvalidTensor(
            f"{role} {name!r}: {_REGION} is the name of a region, {_SIZE} and {_OFFSET} are numbers of bytes",
            param=name,
        )
    return Place(region, offset, size)


def _typed(name: str, datatype: str, shape: tuple[int, ...], contents: Any) -> Array:
    field = _CONTENTS.get(datatype)
    if field is None:
        if datatype in ("FP16", BF16):
            raise InvalidTensor(f"input {name!r}: {datatype} has no typed contents, use raw_input_contents", param=name)
        raise InvalidTensor(
            f"input {name!r} has the datatype {datatype[:40]!r}, supported are: {', '.join((*NUMPY, BF16))}", param=name
        )
    for other, _ in contents.ListFields():
        if other.name != field:
            raise InvalidTensor(f"input {name!r}: {datatype} belongs into {field}, not {other.name}", param=name)
    values = getattr(contents, field)
    if len(values) != math.prod(shape):
        raise wrong_count(name, len(values), shape)
    if datatype == "BYTES":
        return objects(list(values), shape)
    try:
        return np.fromiter(values, NUMPY[datatype], len(values)).reshape(shape)
    except OverflowError as error:
        raise InvalidTensor(f"input {name!r} does not fit {datatype}: {error}", param=name) from None


def add_output(response: Any, name: str, array: Array, place: Place | None, regions: Regions) -> None:
    """Append an output to a `ModelInferResponse`, as raw contents or into shared memory.

    One in shared memory has an empty entry in the raw contents, as in Triton: clients find raw contents by the place of
    an output among all.

    Raises:
        InferenceFailed: the protocol has no such datatype. InvalidTensor: it does not fit its place.
    """
    output = response.outputs.add()
    output.name = name
    output.datatype = datatype_of(name, array)
    output.shape.extend(array.shape)
    raw = to_raw(array)
    if place is None:
        response.raw_output_contents.append(raw)
        return
    response.raw_output_contents.append(b"")
    regions.write(place.region, place.offset, place.size_bytes, raw, name)
    output.parameters[_REGION].string_param = place.region
    output.parameters[_SIZE].int64_param = len(raw)
    if place.offset:
        output.parameters[_OFFSET].int64_param = place.offset
