"""Triton's own load generator against a live server: it reads statistics, streams, compresses and shares memory."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import LiveServer, free_port

PROGRAM = shutil.which("perf_analyzer")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="needs perf_analyzer, which wheels of tritonclient 2.45 hold for Linux"),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder: Path = tmp_path_factory.mktemp("perf")
    port = free_port()
    live = LiveServer(
        folder,
        *("--grpc-port", str(port)),
        INFERENCE_ENGINE_GRPC_SHARED_MEMORY="true",
        INFERENCE_ENGINE_HTTP_SHARED_MEMORY="true",
    )
    live.start()
    yield {"http": live.url.removeprefix("http://"), "grpc": f"127.0.0.1:{port}"}
    assert live.stop() == 0
    assert "unexpected error" not in live.log.read_text()


@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        ("http", ""),
        ("http", "--input-tensor-format json --output-tensor-format json"),
        ("http", "--shared-memory system"),
        ("http", "-a"),
        ("grpc", ""),
        ("grpc", "-a --streaming"),
        ("grpc", "--shared-memory system"),
        ("grpc", "--grpc-compression-algorithm gzip"),
    ],
)
def test_it_measures(served: dict[str, str], protocol: str, options: str) -> None:
    assert PROGRAM is not None
    command = [PROGRAM, "-m", "iris", "-i", protocol, "-u", served[protocol], "-b", "2", "--concurrency-range", "2"]
    command += ["-p", "600", "-r", "4", "-s", "999", *options.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"throughput: ([\d.]+) infer/sec", done.stdout)
    assert found is not None, done.stdout
    assert float(found[1]) > 0
