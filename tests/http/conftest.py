"""Worlds and clients for the HTTP tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.http.support import World, listening


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def http(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with world.client() as client:
        yield client


@pytest.fixture(scope="module")
def live() -> Iterator[tuple[World, str]]:
    """A server on a real socket, shared by the tests of one module: they leave it as they found it."""
    world = World()
    with listening(world) as url:
        yield world, url
