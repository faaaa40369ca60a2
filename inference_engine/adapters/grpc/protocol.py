"""The messages and the service of the protocol, made at run time from the compiled `proto/inference.binpb`.

They live in a descriptor pool of their own: an official client in the same process brings messages of the same names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from inference_engine.domain.errors import InvalidRequest

SERVICE = "inference.GRPCInferenceService"
_COMPILED = Path(__file__).parent / "proto" / "inference.binpb"


def _pool() -> Any:
    files = descriptor_pb2.FileDescriptorSet.FromString(_COMPILED.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool


POOL: Any = _pool()
METHODS: Any = POOL.FindServiceByName(SERVICE).methods
"""The descriptors of the service's methods."""


def message(name: str) -> Any:
    """The class of a message of the protocol."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"inference.{name}"))


def read(kind: Any, encoded: bytes) -> Any:
    """A message of the class `kind`.

    Raises:
        InvalidRequest: the bytes are none. gRPC's own reader would call that an internal error.
    """
    try:
        return kind.FromString(encoded)
    except DecodeError:
        raise InvalidRequest(f"the request is no {kind.DESCRIPTOR.full_name}: send its protobuf encoding") from None


InferRequest: Any = message("ModelInferRequest")
InferResponse: Any = message("ModelInferResponse")
StreamResponse: Any = message("ModelStreamInferResponse")
