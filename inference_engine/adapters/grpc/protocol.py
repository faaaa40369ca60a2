"""The messages and the service of the protocol, made at run time from the compiled `proto/inference.binpb`.

They live in a descriptor pool of their own: an official client in the same process brings messages of the same names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

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


InferRequest: Any = message("ModelInferRequest")
InferResponse: Any = message("ModelInferResponse")
StreamResponse: Any = message("ModelStreamInferResponse")
