"""What a class written for Triton's Python backend finds when it imports `triton_python_backend_utils`.

The names are Triton's, so that such a file runs unchanged. Source: the interface that Triton's documentation of the
Python backend describes. Knows no runtime: requests and senders get what they need from the adapter.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from inference_engine.core.logging import get_logger
from inference_engine.domain.tensors import Array

_log = get_logger("model")

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 2

_NUMPY: dict[str, type[Any]] = {
    "BOOL": np.bool_,
    "STRING": np.object_,
    **{f"{sign}INT{bits}": getattr(np, f"{sign.lower()}int{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": getattr(np, f"float{bits}") for bits in (16, 32, 64)},
}
_TRITON = {np.dtype(kind): "TYPE_" + name for name, kind in _NUMPY.items() if name != "STRING"}


class TritonModelException(Exception):
    """What a model raises to say that it failed."""


class TritonError:
    """The error of one response. Of the codes, INVALID_ARG says that the request is at fault."""

    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message: str, code: int = 1) -> None:
        self._message = message
        self._code = code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


class Tensor:
    """A named array."""

    def __init__(self, name: str, array: Array) -> None:
        self._name = name
        self._array = np.asarray(array)

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Array:
        return self._array

    def shape(self) -> list[int]:
        return list(self._array.shape)

    def triton_dtype(self) -> str:
        return numpy_to_triton_type(self._array.dtype)

    def is_cpu(self) -> bool:
        return True

    def to_dlpack(self) -> Any:
        return self._array.__dlpack__()

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()

    @staticmethod
    def from_dlpack(name: str, tensor: Any) -> Tensor:
        """From a tensor of another library in the memory of this machine, or its capsule."""
        return Tensor(name, np.from_dlpack(tensor if hasattr(tensor, "__dlpack__") else _Capsule(tensor)))


class _Capsule:
    """A DLPack capsule as numpy wants it."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)  # the memory of this machine


class InferenceResponse:
    """The outputs for one request, or its error."""

    def __init__(
        self,
        output_tensors: Sequence[Tensor] = (),
        error: TritonError | str | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self._tensors = list(output_tensors)
        self._error = TritonError(error) if isinstance(error, str) else error
        self._parameters = dict(parameters or {})

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error

    def parameters(self) -> str:
        return json.dumps(self._parameters)


class InferenceResponseSender:
    """Where a model puts responses, in any thread, until one carries the final flag."""

    def __init__(
        self, send: Callable[[InferenceResponse], None], end: Callable[[], None], cancelled: Callable[[], bool]
    ) -> None:
        self._send = send
        self._end = end
        self._cancelled = cancelled

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        if response is not None:
            self._send(response)
        if flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL:
            self._end()

    def is_cancelled(self) -> bool:
        return self._cancelled()


class InferenceRequest:
    """One request as a model gets it. A model cannot ask other models here: `exec` says so."""

    def __init__(
        self,
        inputs: Sequence[Tensor] = (),
        requested_output_names: Sequence[str] = (),
        *,
        request_id: str = "",
        correlation_id: int | str = 0,
        flags: int = 0,
        sender: InferenceResponseSender | None = None,
        **_: Any,
    ) -> None:
        self._inputs = list(inputs)
        self._outputs = list(requested_output_names)
        self._id = request_id
        self._correlation_id = correlation_id
        self._flags = flags
        self._sender = sender

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def requested_output_names(self) -> list[str]:
        return self._outputs

    def request_id(self) -> str:
        return self._id

    def correlation_id(self) -> int | str:
        return self._correlation_id

    def flags(self) -> int:
        return self._flags

    def parameters(self) -> str:
        return "{}"

    def priority(self) -> int:
        return 0

    def timeout(self) -> int:
        return 0

    def is_cancelled(self) -> bool:
        return self._sender is not None and self._sender.is_cancelled()

    def get_response_sender(self) -> InferenceResponseSender:
        if self._sender is None:
            raise TritonModelException("this request has no response sender: return the responses from execute")
        return self._sender

    def exec(self, *_: Any, **__: Any) -> Any:
        raise TritonModelException("asking another model from within a model is not served")

    async_exec = exec


class ModelConfig:
    """What `auto_complete_config` fills in."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config

    def as_dict(self) -> dict[str, Any]:
        return self._config

    def set_max_batch_size(self, size: int) -> None:
        self._config["max_batch_size"] = size

    def set_dynamic_batching(self) -> None:
        self._config.setdefault("dynamic_batching", {})

    def set_model_transaction_policy(self, policy: dict[str, Any]) -> None:
        self._config["model_transaction_policy"] = policy

    def add_input(self, tensor: dict[str, Any]) -> None:
        self._add("input", tensor)

    def add_output(self, tensor: dict[str, Any]) -> None:
        self._add("output", tensor)

    def _add(self, side: str, tensor: dict[str, Any]) -> None:
        for field in ("name", "data_type", "dims"):
            if field not in tensor:
                raise ValueError(f"{side} {tensor.get('name', '')!r} lacks {field}")
        if not any(one["name"] == tensor["name"] for one in self._config[side]):
            self._config[side].append(tensor)


class Logger:
    """Lines of a model in the log of its runner."""

    log = log_info = staticmethod(lambda text, *_: _log.info(str(text)))
    log_verbose = staticmethod(lambda text: _log.debug(str(text)))
    log_warn = staticmethod(lambda text: _log.warning(str(text)))
    log_error = staticmethod(lambda text: _log.error(str(text)))


def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor | None:
    return next((tensor for tensor in request.inputs() if tensor.name() == name), None)


def get_output_tensor_by_name(response: InferenceResponse, name: str) -> Tensor | None:
    return next((tensor for tensor in response.output_tensors() if tensor.name() == name), None)


def get_input_config_by_name(model_config: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    return next((tensor for tensor in model_config.get("input", ()) if tensor["name"] == name), None)


def get_output_config_by_name(model_config: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    return next((tensor for tensor in model_config.get("output", ()) if tensor["name"] == name), None)


def using_decoupled_model_transaction_policy(model_config: Mapping[str, Any]) -> bool:
    return bool(model_config.get("model_transaction_policy", {}).get("decoupled", False))


def triton_string_to_numpy(triton_type_string: str) -> type[Any]:
    """The numpy type for `TYPE_FP32` and its like."""
    name = triton_type_string.removeprefix("TYPE_")
    if name not in _NUMPY:
        raise TritonModelException(f"{triton_type_string!r} has no numpy type")
    return _NUMPY[name]


def triton_to_numpy_type(data_type: str) -> type[Any]:
    return triton_string_to_numpy(data_type)


def numpy_to_triton_type(data_type: Any) -> str:
    dtype = np.dtype(data_type)
    if dtype.kind in "OSU":
        return "TYPE_STRING"
    if dtype not in _TRITON:
        raise TritonModelException(f"{dtype} has no type of Triton")
    return _TRITON[dtype]


def serialize_byte_tensor(tensor: Array) -> bytes | None:
    """Texts as they go over the wire: each after its length."""
    if tensor.size == 0:
        return None
    texts = [item if isinstance(item, bytes) else str(item).encode() for item in tensor.ravel().tolist()]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def deserialize_bytes_tensor(encoded: bytes) -> Array:
    texts, at = [], 0
    while at < len(encoded):
        (size,) = struct.unpack_from("<I", encoded, at)
        texts.append(bytes(encoded[at + 4 : at + 4 + size]))
        at += 4 + size
    array = np.empty(len(texts), object)
    array[:] = texts
    return array
