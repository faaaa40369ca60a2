"""gRPC beside the HTTP server: whether it is on, and its start and end. Imports grpc only when it is opened."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from inference_engine.core.logging import get_logger
from inference_engine.core.settings import Settings, SettingsError
from inference_engine.services.access import AccessService
from inference_engine.services.health import HealthService
from inference_engine.services.inference import InferenceService
from inference_engine.services.models import ModelService

if TYPE_CHECKING:
    from inference_engine.adapters.grpc.server import GrpcServer

_PACKAGES = ("grpc", "grpc_health", "grpc_reflection", "google.protobuf")
_INSTALL = "off: pip install 'inference-engine[grpc]' to have it"
_DEFAULT_PORT = Settings().grpc_port
_log = get_logger(__name__)


class GrpcBeside:
    """Decides at once whether gRPC can be served, so that the greeting tells the truth.

    Raises:
        SettingsError: a port that was chosen is in use. The default port may be: then gRPC is off.
    """

    def __init__(
        self,
        settings: Settings,
        models: ModelService,
        inference: InferenceService,
        access: AccessService,
        health: HealthService,
        clock: Callable[[], float],
        version: str,
    ) -> None:
        self._settings = settings
        self._models = models
        self._inference = inference
        self._access = access
        self._health = health
        self._clock = clock
        self._version = version
        self._off = _why_off(settings)
        self._server: GrpcServer | None = None

    def describe(self) -> tuple[str, str]:
        """A line of the greeting."""
        return "gRPC", self._off or f"{_shown_host(self._settings)}:{self._settings.grpc_port}"

    async def open(self) -> None:
        """Import what is needed in a thread, while HTTP is being served, then listen."""
        if self._off:
            return
        server = await asyncio.to_thread(self._made)
        try:
            await server.start()
        except SettingsError as error:
            _log.error("gRPC is off", problem=str(error))
            return
        self._server = server

    async def close(self) -> None:
        """Let running calls end within `drain_s`, then stop."""
        server, self._server = self._server, None
        if server is not None:
            await server.close()

    def _made(self) -> GrpcServer:
        from inference_engine.adapters.grpc.server import GrpcServer, Options

        settings = self._settings
        cert, key = settings.grpc_tls_cert, settings.grpc_tls_key
        options = Options(
            host=settings.host,
            port=settings.grpc_port,
            version=self._version,
            max_message_bytes=int(settings.max_body_mb * (1 << 20)),
            limit_s=settings.request_timeout_s,
            drain_s=settings.drain_s,
            log_level=settings.log_level,
            access_log=settings.access_log,
            shared_memory=settings.grpc_shared_memory,
            compression=settings.grpc_compression,
            keepalive_s=settings.grpc_keepalive_s,
            tls=(cert, key) if cert and key else None,
        )
        return GrpcServer(options, self._models, self._inference, self._access, self._health, self._clock)


def _shown_host(settings: Settings) -> str:
    return f"[{settings.host}]" if ":" in settings.host else settings.host


def _why_off(settings: Settings) -> str:
    """Why gRPC is not served, empty where it is."""
    if settings.grpc_port == 0:
        return "off: grpc_port is 0"
    if not all(_is_installed(package) for package in _PACKAGES):
        return _INSTALL
    problem = _taken(settings)
    if problem is None:
        return ""
    if settings.grpc_port == _DEFAULT_PORT:
        return f"off: cannot listen on port {settings.grpc_port}: {problem}: choose another with --grpc-port"
    raise SettingsError(
        f"cannot listen for gRPC on {_shown_host(settings)}:{settings.grpc_port}: {problem}: stop what uses the port, "
        "or choose another with --grpc-port"
    )


def _taken(settings: Settings) -> str | None:
    """Why nobody can listen on the port now, None where one can."""
    if settings.grpc_port == settings.port:
        return "HTTP listens there"
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        socket.create_server((settings.host, settings.grpc_port), family=family).close()
    except OSError as error:
        return os.strerror(error.errno or 0)
    return None


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # `google` is there or not
        return False
