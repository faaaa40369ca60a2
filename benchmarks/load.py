"""Sends requests and counts answers: over many connections (wrk, or the loop below where it is missing), or one.

`python -m benchmarks.load PORT CONNECTIONS SECONDS REQUEST_FILE` is the loop; it prints what `Load` holds, as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import shutil
import socket
import statistics
import sys
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.processes import HOST, BenchmarkError, Process

_SPARE_S = 20.0
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_WRK = """
local body = io.open("%s", "rb")
wrk.method = "POST"
wrk.body = body:read("*a")
body:close()
%s
done = function(summary, latency, requests)
  local e = summary.errors
  local lost = e.connect + e.read + e.write + e.timeout
  io.write(string.format('\\n{"answers": %%d, "seconds": %%f, "refused": %%d, "lost": %%d, "p99_ms": %%f}\\n',
    summary.requests, summary.duration / 1e6, e.status, lost, latency:percentile(99) / 1000))
end
"""


@dataclass(frozen=True)
class Post:
    """One request, sent again and again."""

    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)

    def wire(self) -> bytes:
        lines = [f"POST {self.path} HTTP/1.1", f"Host: {HOST}", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


@dataclass(frozen=True)
class Load:
    """What came of a load."""

    answers: int
    seconds: float
    refused: int
    lost: int
    p99_ms: float

    @property
    def per_s(self) -> float:
        return self.answers / self.seconds


def infer_post(model: str, inputs: int, rows: int = 1, *, binary: bool = False) -> Post:
    """A v2 infer request with one float32 tensor, as JSON or with the binary extension both ways."""
    array = np.random.default_rng(1).standard_normal((rows, inputs)).astype(np.float32)
    path = f"/v2/models/{model}/infer"
    tensor: dict[str, object] = {"name": "x", "shape": [rows, inputs], "datatype": "FP32"}
    if not binary:
        tensor["data"] = [round(float(value), 6) for value in array.ravel()]
        return Post(path, json.dumps({"inputs": [tensor]}).encode())
    tensor["parameters"] = {"binary_data_size": array.nbytes}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = (("Content-Type", "application/octet-stream"), ("Inference-Header-Content-Length", str(len(head))))
    return Post(path, head + array.tobytes(), headers)


def generator() -> str:
    """Which load generator this machine has."""
    return "wrk" if shutil.which("wrk") else "the asyncio loop of benchmarks/load.py"


def load(
    folder: Path, port: int, post: Post, connections: int, seconds: float, *, core_ids: Collection[int] = ()
) -> Load:
    """Keep `connections` busy with `post` for a time, from a process of its own.

    Raises:
        BenchmarkError: any answer was not 200, or was lost.
    """
    found = _run(_command(folder, port, post, connections, seconds), folder, seconds, core_ids)
    if found.refused or found.lost or not found.answers:
        raise BenchmarkError(f"{post.path}: {found}")
    return found


def _command(folder: Path, port: int, post: Post, connections: int, seconds: float) -> list[str]:
    wrk = shutil.which("wrk")
    if wrk is None:
        request = folder / "request"
        request.write_bytes(post.wire())
        return [sys.executable, "-m", "benchmarks.load", str(port), str(connections), str(seconds), str(request)]
    body, script = folder / "body", folder / "load.lua"
    body.write_bytes(post.body)
    headers = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in post.headers)
    script.write_text(_WRK % (body, headers))
    duration = f"-d{max(1, math.ceil(seconds))}s"
    url = f"http://{HOST}:{port}{post.path}"
    return [wrk, "-t1", f"-c{connections}", duration, "--timeout=10s", "-s", str(script), url]


def _run(command: list[str], folder: Path, seconds: float, core_ids: Collection[int]) -> Load:
    with Process(command, folder / "load.log", core_ids, answers=True) as process:
        output, _ = process.popen.communicate(timeout=seconds + _SPARE_S)
        if process.popen.returncode:
            process.check_alive()
    return Load(**json.loads(output.splitlines()[-1]))


# -- one connection ------------------------------------------------------------------------------------------------


class Caller:
    """One connection that sends a request and waits for its answer, as fast as Python can."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST, port), timeout=_SPARE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self._socket.close()

    def median_s(self, post: Post, seconds: float) -> float:
        """The median of the times from sending to having the whole answer."""
        request, times = post.wire(), []
        give_up = time.perf_counter() + seconds
        while time.perf_counter() < give_up:
            started = time.perf_counter()
            answer = self._answer(request)
            times.append(time.perf_counter() - started)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise BenchmarkError(f"{post.path}: {answer[:500]!r}")
        return statistics.median(times)

    def answer(self, post: Post) -> bytes:
        """The whole answer to one request. Raises: BenchmarkError: it is not 200."""
        answer = self._answer(post.wire())
        if not answer.startswith(b"HTTP/1.1 200"):
            raise BenchmarkError(f"{post.path}: {answer[:500]!r}")
        return answer

    def values(self, post: Post) -> list[float]:
        """The elements of the first output tensor of an answer in JSON."""
        answer = self.answer(post)
        values: list[float] = json.loads(answer.partition(b"\r\n\r\n")[2])["outputs"][0]["data"]
        return values

    def _answer(self, request: bytes) -> bytes:
        self._socket.sendall(request)
        answer = self._socket.recv(65536)
        while not _complete(answer):
            more = self._socket.recv(65536)
            if not more:
                raise BenchmarkError(f"the connection was closed after {answer[:200]!r}")
            answer += more
        return answer


def _complete(answer: bytes | bytearray) -> bool:
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return False
    length = _LENGTH.search(answer, 0, end)
    return length is not None and len(answer) >= end + 4 + int(length[1])


def check_equal(ports: Collection[int], post: Post) -> None:
    """Hold the servers to the same answer: two that do not do the same work cannot be compared.

    Raises:
        BenchmarkError: an answer is not 200, or they differ.
    """
    answers = []
    for port in ports:
        with contextlib.closing(Caller(port)) as caller:
            answers.append(caller.values(post))
    if not all(np.allclose(answer, answers[0], rtol=1e-4, atol=1e-5) for answer in answers):
        raise BenchmarkError(f"{post.path}: the answers differ: {answers}")


# -- many connections, without wrk -----------------------------------------------------------------------------------


class _Connection(asyncio.Protocol):
    """Sends the request again as soon as its answer is whole."""

    def __init__(self, request: bytes, times: list[float]) -> None:
        self.refused = self.lost = 0
        self._request = request
        self._times = times
        self._answer = bytearray()
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if _complete(self._answer):
            self._times.append(time.perf_counter() - self._sent)
            self.refused += not self._answer.startswith(b"HTTP/1.1 200")
            self._answer.clear()
            self._send()

    def eof_received(self) -> None:
        self.lost += 1


async def _keep_busy(port: int, connections: int, seconds: float, request: bytes) -> Load:
    loop = asyncio.get_running_loop()
    times: list[float] = []
    started = time.perf_counter()
    opened = [await loop.create_connection(lambda: _Connection(request, times), HOST, port) for _ in range(connections)]
    await asyncio.sleep(seconds)
    elapsed = time.perf_counter() - started
    for transport, _ in opened:
        transport.abort()
    refused, lost = sum(each.refused for _, each in opened), sum(each.lost for _, each in opened)
    p99_ms = sorted(times)[int(len(times) * 0.99)] * 1000 if times else 0.0
    return Load(len(times), elapsed, refused, lost, p99_ms)


def main() -> None:
    port, connections, seconds, file = sys.argv[1:]
    work = _keep_busy(int(port), int(connections), float(seconds), Path(file).read_bytes())
    print(json.dumps(asdict(asyncio.run(work))))


if __name__ == "__main__":
    main()
