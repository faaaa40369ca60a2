"""Runs the HTTP server process: binds, says where it listens, opens the models, drains and closes at the end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Protocol

import uvicorn

from inference_engine.adapters.http.exchange import App
from inference_engine.adapters.http.protocol import ShortWayProtocol
from inference_engine.core.logging import get_logger
from inference_engine.core.settings import Settings, SettingsError
from inference_engine.services.health import HealthService
from inference_engine.services.jobs import JobService
from inference_engine.services.models import ModelService

_BACKLOG = 2048
_KEEP_ALIVE_S = 75
_log = get_logger(__name__)


class Companion(Protocol):
    """Another way in that lives beside HTTP, in the same event loop."""

    def describe(self) -> tuple[str, str]:
        """What it is and where it listens, or why it is off: a line of the greeting."""

    async def open(self) -> None:
        """Begin to serve. Never raises: what is wrong is logged."""

    async def close(self) -> None:
        """Let running calls end, then stop. Safe to call twice."""


def run_server(
    app: App,
    settings: Settings,
    models: ModelService,
    health: HealthService,
    jobs: JobService,
    version: str,
    companion: Companion,
) -> None:
    """Serve until SIGINT or SIGTERM. Blocking.

    Raises:
        SettingsError: the address cannot be listened on; a pinned route cannot be read.
    """
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # that it has started is said in our own words
    listener = _listen(settings)
    config = uvicorn.Config(
        app,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http=ShortWayProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, int(settings.drain_s)),
    )
    server = _Server(config, lambda: _greet(listener, settings, version, companion), health.closing, companion)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve(server, listener, models, health, jobs, companion))


async def _serve(
    server: _Server,
    listener: socket.socket,
    models: ModelService,
    health: HealthService,
    jobs: JobService,
    companion: Companion,
) -> None:
    models.refresh()
    _settle_garbage_collector()
    opening = asyncio.create_task(_open(models, health, jobs, companion))
    try:
        await server.serve(sockets=[listener])
    finally:
        opening.cancel()
        await asyncio.wait([opening])
        await companion.close()
        await jobs.close()
        await models.close()


async def _open(models: ModelService, health: HealthService, jobs: JobService, companion: Companion) -> None:
    """Preload while the server is already live, then take up jobs; it is ready afterwards."""
    await models.open()
    await jobs.open()
    await companion.open()
    for broken in models.broken:
        _log.warning("model cannot be adopted", folder=str(broken.folder), problem=broken.message)
    health.opened()


class _Server(uvicorn.Server):
    """uvicorn's server, which also says when it listens and when it begins to end."""

    def __init__(
        self, config: uvicorn.Config, started: Callable[[], None], ending: Callable[[], None], companion: Companion
    ) -> None:
        super().__init__(config)
        self._companion = companion
        self._said_started = started
        self._said_ending = ending

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Unlike uvicorn's own: a signal is not raised again afterwards, the models are still to be closed then."""
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signal_number, self.handle_exit, signal_number, None)
        try:
            yield
        finally:
            for signal_number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(signal_number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._said_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._said_ending()
        await asyncio.gather(super().shutdown(sockets), self._companion.close())


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise SettingsError(
            f"cannot listen on {settings.host}:{settings.port}: {reason}: stop what uses the port, "
            "or choose another with --port"
        ) from None


def _greet(listener: socket.socket, settings: Settings, version: str, companion: Companion) -> None:
    host, port = listener.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    address = f"http://{host}:{port}{settings.root_path}"
    name, where = companion.describe()
    print(
        f"Inference Engine {version} listens on {address}\n"
        f"  console   {address}/console/\n"
        f"  API docs  {address}/docs\n"
        f"  OpenAI    {address}/v1\n"
        f"  {name:<9} {where}\n"
        "Press Ctrl-C to stop.",
        flush=True,
    )


def _settle_garbage_collector() -> None:
    """What was imported stays for good: take it out of the collector's sight, and look less often for the rest."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
