"""A gRPC server over the fakes, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from inference_engine.adapters.grpc.server import GrpcServer, Options
from inference_engine.core.settings import Settings
from tests.http.support import VERSION, World

OPTIONS = Options("127.0.0.1", 0, VERSION, 1 << 20, 20.0, 1.0)


@contextlib.contextmanager
def serving(world: World, **options: Any) -> Iterator[str]:
    """The address of a gRPC server over a world's services."""
    ready = threading.Event()
    found: dict[str, Any] = {}

    async def run() -> None:
        await world.open()
        server = GrpcServer(
            msgspec.structs.replace(OPTIONS, **options),
            world.models,
            world.inference,
            world.access,
            world.health,
            time.monotonic,
        )
        found["port"] = await server.start()
        world.loop = found["loop"] = asyncio.get_running_loop()
        found["end"] = asyncio.Event()
        ready.set()
        await found["end"].wait()
        await server.close()
        await world.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert ready.wait(8)
    yield f"127.0.0.1:{found['port']}"
    found["loop"].call_soon_threadsafe(found["end"].set)
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def live() -> Iterator[tuple[World, str]]:
    world = World()
    with serving(world, shared_memory=True) as address:
        yield world, address


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    """A server that wants a key."""
    with serving(World(Settings(api_keys=("a-secret-key",)))) as address:
        yield address
