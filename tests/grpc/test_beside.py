"""Whether gRPC is on, and what the greeting says of it."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from typing import Any

import pytest

from inference_engine.adapters.grpc import beside
from inference_engine.adapters.grpc.beside import GrpcBeside
from inference_engine.core.settings import Settings, SettingsError
from tests.http.support import VERSION, World


def made(**settings: Any) -> GrpcBeside:
    world = World(Settings(**settings))
    return GrpcBeside(
        world.settings, world.models, world.inference, world.access, world.health, time.monotonic, VERSION
    )


async def test_it_is_off_where_the_port_is_0() -> None:
    off = made(grpc_port=0)
    await off.open()
    assert off.describe() == ("gRPC", "off: grpc_port is 0")
    await off.close()


def test_a_chosen_port_in_use_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SettingsError, match="--grpc-port"):
        made(grpc_port=taken.getsockname()[1])


def test_http_may_have_the_default_port() -> None:
    assert "HTTP listens there" in made(port=8001).describe()[1]
    with pytest.raises(SettingsError, match="HTTP listens there"):
        made(port=9000, grpc_port=9000)


def test_packages_that_are_not_there() -> None:
    assert beside._is_installed("grpc")
    assert not beside._is_installed("no_such_package")
    assert not beside._is_installed("no_such_package.inside")


def test_nothing_of_grpc_is_imported_before_it_is_opened() -> None:
    code = "import sys, inference_engine.bootstrap, inference_engine.adapters.grpc.beside; print('grpc' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False"]
