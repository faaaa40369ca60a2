"""Real servers for the tests: started once, in processes of their own, on free ports."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from inference_engine.core.logging import as_library

ROOT = Path(__file__).parents[1]
_START_LIMIT_S = 60


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(autouse=True)
def _log_lines_go_to_the_standard_library() -> Iterator[None]:
    """So that `caplog` sees them, and none lands on the output of a test. A level that a test sets ends with it."""
    as_library()
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


class LiveServer:
    """`inference-engine serve` as a user starts it."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"server-{self.port}.log"
        serve = ["serve", "--port", str(self.port), "--no-cache"]  # a test that asks twice wants two computations
        self._command = [sys.executable, "-m", "inference_engine", *serve, *arguments]
        self._environment = (
            os.environ
            | {
                "INFERENCE_ENGINE_STATE_DIR": str(folder / "state"),
                "INFERENCE_ENGINE_GRPC_PORT": "0",
            }
            | environment
        )
        self._folder = folder
        self._headers: dict[str, str] = {}

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=self._folder, env=self._environment, stdout=log, stderr=log
            )
        give_up = time.monotonic() + _START_LIMIT_S
        while time.monotonic() < give_up:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health/ready", timeout=2).status_code == 200:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"the server did not start:\n{self.log.read_text()[-3000:]}")

    def stop(self) -> int:
        """End it as an operator does; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def model(self, name: str, version: str = "1") -> dict[str, object]:
        """One model as the admin API shows it."""
        found: dict[str, object] = httpx.get(f"{self.url}/admin/models/{name}/{version}", timeout=10).json()
        return found

    def pid_of(self, name: str) -> int:
        pid = self.model(name)["pid"]
        assert isinstance(pid, int)
        return pid


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with the built-in models, shared by all tests that do not harm it."""
    live = LiveServer(tmp_path_factory.mktemp("server"))
    live.start()
    yield live
    assert live.stop() == 0


@pytest.fixture(scope="session")
def server_url(server: LiveServer) -> str:
    return server.url


@pytest.fixture(scope="session")
def secured_server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that asks for the key `test-key`."""
    live = LiveServer(tmp_path_factory.mktemp("secured"), INFERENCE_ENGINE_API_KEYS="test-key")
    live.start()
    yield live.url
    assert live.stop() == 0
