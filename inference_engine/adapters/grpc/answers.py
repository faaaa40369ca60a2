"""Predictions as the bytes of a `ModelInferResponse`. A hot path: measured.

The bytes of two messages one after the other are the bytes of both merged, says the encoding of protobuf. So what
repeats from answer to answer (who served, names, datatypes and shapes) is encoded once and kept.
"""

from __future__ import annotations

from inference_engine.adapters.grpc.protocol import InferResponse
from inference_engine.adapters.grpc.tensors import Place, add_output
from inference_engine.adapters.shared_memory import Regions
from inference_engine.domain.datatypes import datatype_of, to_raw
from inference_engine.domain.results import Prediction, Served
from inference_engine.domain.tensors import Array

_REMEMBERED = 1024
_RAW_OUTPUT_CONTENTS = b"\x32"  # field 6, which has a length


class Answers:
    """Encodes predictions; outputs that are wanted in shared memory are written there."""

    def __init__(self, regions: Regions) -> None:
        self._regions = regions
        self._heads: dict[str, tuple[Served, bytes]] = {}
        self._outputs: dict[tuple[str, str, tuple[int, ...]], bytes] = {}

    def encoded(self, request_id: str, prediction: Prediction, places: dict[str, Place]) -> bytes:
        """The answer with the id of its request. `places` are the outputs that go into shared memory.

        Raises:
            InferenceFailed: the protocol has no such datatype. InvalidTensor: an output does not fit its place.
        """
        parts = [self._head(prediction.served)]
        if request_id:
            parts.append(InferResponse(id=request_id).SerializeToString())
        for name, array in prediction.outputs.items():
            if name in places:
                placed = InferResponse()
                add_output(placed, name, array, places[name], self._regions)
                parts.append(placed.SerializeToString())
                continue
            raw = to_raw(array)
            parts += (self._output(name, array), _RAW_OUTPUT_CONTENTS, _varint(len(raw)), raw)
        return b"".join(parts)

    def _head(self, served: Served) -> bytes:
        """Remembered: routes give the same object."""
        known = self._heads.get(served.route)
        if known is not None and known[0] is served:
            return known[1]
        if len(self._heads) >= _REMEMBERED:
            self._heads.clear()
        head: bytes = head_of(served).SerializeToString()
        self._heads[served.route] = (served, head)
        return head

    def _output(self, name: str, array: Array) -> bytes:
        key = (name, array.dtype.char, array.shape)
        known = self._outputs.get(key)
        if known is not None:
            return known
        if len(self._outputs) >= _REMEMBERED:
            self._outputs.clear()
        answer = InferResponse()
        answer.outputs.add(name=name, datatype=datatype_of(name, array), shape=array.shape)
        output: bytes = answer.SerializeToString()
        self._outputs[key] = output
        return output


def head_of(served: Served) -> InferResponse:
    """An answer that says who gives it, and no more."""
    answer = InferResponse(model_name=served.ref.name, model_version=served.ref.version)
    answer.parameters["route"].string_param = served.route
    answer.parameters["rule"].string_param = served.rule
    return answer


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the highest bit says that more follow."""
    if number < 0x80:
        return bytes((number,))
    groups = bytearray()
    while number >= 0x80:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)
