"""The JSON of the Open Inference Protocol v2 and its binary tensor extension, as types. Knows no service.

Source: Open Inference Protocol, REST; Triton's binary tensor data extension.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Union, cast

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType

from inference_engine.domain.datatypes import NUMPY

_FP16_MAX = 65519.99  # the largest that still rounds to a finite half
_FP32_MAX = 3.4028235677973362e38
_BF16_MAX = 3.3961775292304957e38  # the largest that still rounds to a finite bfloat16
_MAX_RANK = 32

Dim = Annotated[int, Meta(ge=0, le=2**48)]
Shape = Annotated[tuple[Dim, ...], Meta(max_length=_MAX_RANK)]
Parameters = dict[str, Any]


class InferInput(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An input tensor. Each datatype has a subclass with typed `data`, so that decoding checks every element."""

    datatype: ClassVar[str]
    dtype: ClassVar[np.dtype[Any]]

    name: str
    shape: Shape
    parameters: Parameters | UnsetType = UNSET
    data: Any = UNSET


class OutputRequest(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    parameters: Parameters | UnsetType = UNSET


ELEMENTS: dict[str, Any] = {
    "BOOL": bool,
    "UINT8": Annotated[int, Meta(ge=0, le=2**8 - 1)],
    "UINT16": Annotated[int, Meta(ge=0, le=2**16 - 1)],
    "UINT32": Annotated[int, Meta(ge=0, le=2**32 - 1)],
    "UINT64": Annotated[int, Meta(ge=0)],
    "INT8": Annotated[int, Meta(ge=-(2**7), le=2**7 - 1)],
    "INT16": Annotated[int, Meta(ge=-(2**15), le=2**15 - 1)],
    "INT32": Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)],
    "INT64": int,
    "FP16": Annotated[float, Meta(ge=-_FP16_MAX, le=_FP16_MAX)],
    "FP32": Annotated[float, Meta(ge=-_FP32_MAX, le=_FP32_MAX)],
    "FP64": float,
    "BF16": Annotated[float, Meta(ge=-_BF16_MAX, le=_BF16_MAX)],
    "BYTES": str,
}
"""What one element of each datatype is in JSON."""

BF16_BITS = np.dtype("<u2")
"""How BF16, which numpy has no dtype for, lies on the wire: the upper half of a float32."""


def _input_type(datatype: str, element: Any) -> type[InferInput]:
    data: Any = list[element | list[Any]] | UnsetType
    made: Any = msgspec.defstruct(
        datatype,
        [("data", data, UNSET)],
        bases=(InferInput,),
        namespace={"datatype": datatype, "dtype": NUMPY.get(datatype, BF16_BITS)},
        tag_field="datatype",
        tag=datatype,
        forbid_unknown_fields=True,
        kw_only=True,
    )
    return cast("type[InferInput]", made)


_INPUTS: Any = tuple(_input_type(datatype, element) for datatype, element in ELEMENTS.items())


class InferRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A request as it is decoded; `inputs` are subclasses of `InferInput`.

    `model_name` is what KServe's client says beside the path; it has to be the same.
    """

    if TYPE_CHECKING:
        inputs: list[InferInput]
    else:
        inputs: list[Union[_INPUTS]]  # noqa: UP007 - a union that is made at import
    id: str | UnsetType = UNSET
    outputs: list[OutputRequest] | UnsetType = UNSET
    parameters: Parameters | UnsetType = UNSET
    model_name: str | UnsetType = UNSET


class TensorMetadata(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(msgspec.Struct, omit_defaults=True):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: Parameters = {}


class ServerMetadata(msgspec.Struct):
    name: str
    version: str
    extensions: list[str]


class IndexEntry(msgspec.Struct):
    name: str
    version: str
    state: str
    reason: str


class IndexRequest(msgspec.Struct, forbid_unknown_fields=True):
    ready: bool = False


class LoadRequest(msgspec.Struct, forbid_unknown_fields=True):
    parameters: Parameters = {}


class InferOutput(msgspec.Struct, omit_defaults=True):
    """An output tensor, for the documentation; answers are written by `tensors.encode`."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] = []
    parameters: Parameters = {}


class InferResponse(msgspec.Struct, omit_defaults=True):
    """An answer, for the documentation."""

    model_name: str
    model_version: str
    outputs: list[InferOutput]
    id: str = ""
    parameters: Parameters = {}
