"""KServe's own inference clients, REST and gRPC, in an environment of their own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, LiveServer, free_port

PYTHON = ROOT / "build" / "kserve" / "bin" / "python"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="make build/kserve/test.stamp installs KServe's clients"),
]


def test_kserve_clients(tmp_path: Path) -> None:
    port = free_port()
    live = LiveServer(tmp_path, "--grpc-port", str(port))
    live.start()
    try:
        session = [PYTHON, Path(__file__).with_name("kserve_session.py"), live.url, f"127.0.0.1:{port}"]
        done = subprocess.run(session, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "served KServe's clients" in done.stdout
    finally:
        assert live.stop() == 0
    assert "unexpected error" not in live.log.read_text()
