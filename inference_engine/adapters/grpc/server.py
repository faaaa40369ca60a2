"""The gRPC server: binds its port, hands calls to the services, and drains at the end. Imports grpc."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import msgspec
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from inference_engine.adapters.grpc.access_log import AccessLog, Unary
from inference_engine.adapters.grpc.admission import Admission, abort
from inference_engine.adapters.grpc.health import HEALTH, Health
from inference_engine.adapters.grpc.infer import Infer
from inference_engine.adapters.grpc.protocol import METHODS, POOL, SERVICE, message, read
from inference_engine.adapters.grpc.repository import Repository
from inference_engine.adapters.shared_memory import Regions
from inference_engine.core.settings import Compression, SettingsError
from inference_engine.services.access import AccessService
from inference_engine.services.health import HealthService
from inference_engine.services.inference import InferenceService
from inference_engine.services.models import ModelService

_ENVELOPE_BYTES = 1 << 20  # room for names, shapes and parameters around tensors of the size limit

_COMPRESSION = {
    "none": grpc.Compression.NoCompression,
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
}


class Options(msgspec.Struct, frozen=True):
    """What an operator can set of the gRPC side. `tls` is the certificate chain and the key, in PEM."""

    host: str
    port: int
    version: str
    max_message_bytes: int
    limit_s: float
    drain_s: float
    log_level: str = "info"
    access_log: bool = False
    shared_memory: bool = False
    tls: tuple[Path, Path] | None = None
    compression: Compression = "none"
    keepalive_s: float = 60.0


class GrpcServer:
    """Serves from `start` to `close`, in the event loop of its caller."""

    def __init__(
        self,
        options: Options,
        models: ModelService,
        inference: InferenceService,
        access: AccessService,
        health: HealthService,
        clock: Callable[[], float],
    ) -> None:
        self._options = options
        self._admission = Admission(access, clock, options.limit_s)
        self._health = Health(models, health, self._admission)
        self._regions = Regions(options.shared_memory, "grpc_shared_memory")
        self._infer = Infer(models, inference, self._admission, self._regions)
        self._repository = Repository(
            models, health, self._admission, self._regions, options.version, options.log_level
        )
        self._server: Any = None

    async def start(self) -> int:
        """Listen; gives the port.

        Raises:
            SettingsError: the address cannot be listened on, or the certificate cannot be read.
        """
        options = self._options
        limit = options.max_message_bytes + _ENVELOPE_BYTES
        server = grpc.aio.server(
            compression=_COMPRESSION[options.compression],
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
                ("grpc.keepalive_time_ms", int(options.keepalive_s * 1000)),
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.http2.max_ping_strikes", 0),
                ("grpc.max_metadata_size", 16 << 10),
            ),
        )
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(SERVICE, self._handlers()),
                grpc.method_handlers_generic_handler(HEALTH, self._health.handlers()),
            )
        )
        pool = _reflected()
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            _Reflection((SERVICE, HEALTH, reflection.SERVICE_NAME), pool, self._admission), server
        )
        port = self._bind(server)
        await server.start()
        self._server = server
        return port

    async def close(self) -> None:
        """Take no new calls, let running ones end within `drain_s`, cut the rest. Safe to call twice."""
        server, self._server = self._server, None
        if server is not None:
            self._infer.close()
            self._health.close()
            await server.stop(self._options.drain_s)
            self._regions.close()

    def _bind(self, server: Any) -> int:
        options = self._options
        host = f"[{options.host}]" if ":" in options.host else options.host
        address = f"{host}:{options.port}"
        try:
            if options.tls is None:
                return int(server.add_insecure_port(address))
            chain, key = (path.read_bytes() for path in options.tls)
            return int(server.add_secure_port(address, grpc.ssl_server_credentials(((key, chain),))))
        except OSError as error:
            raise SettingsError(f"grpc_tls_cert, grpc_tls_key: {error}") from None
        except RuntimeError as error:
            remedy = "check grpc_tls_cert and grpc_tls_key, or " if options.tls else ""
            raise SettingsError(
                f"cannot listen for gRPC on {address}: {error}: {remedy}choose another port with --grpc-port"
            ) from None

    def _handlers(self) -> dict[str, Any]:
        log = AccessLog(self._admission) if self._options.access_log else None
        handlers = {}
        for method in METHODS:
            taken, given = message(method.input_type.name), message(method.output_type.name)
            path = f"/{SERVICE}/{method.name}"
            if method.name == "ModelStreamInfer":
                stream = log.stream(path, self._infer.stream) if log else self._infer.stream
                handlers[method.name] = grpc.stream_stream_rpc_method_handler(
                    stream, response_serializer=given.SerializeToString
                )
                continue
            unary: Unary = partial(self._answer, method.name, taken)
            if method.name == "ModelInfer":
                unary = self._infer.unary
            handlers[method.name] = grpc.unary_unary_rpc_method_handler(log.unary(path, unary) if log else unary)
        return handlers

    async def _answer(self, method: str, kind: Any, encoded: bytes, context: Any) -> bytes:
        try:
            answer = await self._repository.answered(method, read(kind, encoded), context)
            answered: bytes = answer.SerializeToString()
            return answered
        except Exception as error:
            return await abort(context, error, method)


class _Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]  # it ships no types
    """The standard reflection, for those who may use the server."""

    def __init__(self, names: tuple[str, ...], pool: Any, admission: Admission) -> None:
        super().__init__(names, pool=pool)
        self._admission = admission

    async def ServerReflectionInfo(  # noqa: N802 - the protocol's name
        self, request_iterator: AsyncIterator[Any], unused_context: Any
    ) -> AsyncIterator[Any]:
        try:
            self._admission.admit(unused_context)
        except Exception as error:
            await abort(unused_context, error, "ServerReflectionInfo")
        async for answer in super().ServerReflectionInfo(request_iterator, unused_context):
            yield answer


def _reflected() -> Any:
    """Our descriptors and those of health and reflection in one pool."""
    for module in (health_pb2, reflection_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        POOL.Add(file)
    return POOL
