"""Starts what is measured, each in a process of its own, and ends all of it. Everything listens on 127.0.0.1."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Self

HOST = "127.0.0.1"
ROOT = Path(__file__).parents[1]
_START_LIMIT_S = 90.0
_ANSWER_LIMIT_S = 10.0
_END_LIMIT_S = 10.0
_PR_SET_PDEATHSIG = 1


class BenchmarkError(Exception):
    """The measurement cannot be made; the message says why."""


def cores() -> list[int]:
    """The logical processors this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Process:
    """A child that is ended on leaving `with`, and by the kernel should this process die. What it prints goes to `log`.

    `core_ids` are the processors it is pinned to, with everything it starts; none: it may use all. With `answers`, its
    standard output is a pipe that the caller reads.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        core_ids: Collection[int] = (),
        *,
        answers: bool = False,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.log = log
        self.name = " ".join(command[:4])
        self._output: IO[bytes] = log.open("ab")
        self.popen = subprocess.Popen(
            command,
            cwd=ROOT,
            env=_environment() | dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if answers else self._output,
            stderr=self._output,
            preexec_fn=lambda: _prepare(core_ids),  # noqa: PLW1509 - this process has one thread when it starts others
        )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(_END_LIMIT_S)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait(_END_LIMIT_S)
        for stream in (self.popen.stdin, self.popen.stdout, self._output):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def check_alive(self) -> None:
        """Raises: BenchmarkError: it has ended, with the end of its log."""
        if self.popen.poll() is not None:
            raise BenchmarkError(f"{self.name} ended with {self.popen.returncode}: {self.log.read_text()[-2000:]}")


class HttpProcess(Process):
    """A child that serves HTTP on `port`."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        port: int,
        core_ids: Collection[int] = (),
        *,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(command, log, core_ids, environment=environment)
        self.port = port

    def wait(self, path: str, every_s: float = 0.02, limit_s: float = _START_LIMIT_S) -> None:
        """Wait until a GET is answered with 200."""
        give_up = time.monotonic() + limit_s
        while time.monotonic() < give_up:
            with contextlib.suppress(OSError):
                if self.get(path)[0] == 200:
                    return
            self.check_alive()
            time.sleep(every_s)
        raise BenchmarkError(f"{path} was not answered within {limit_s:g} s: {self.log.read_text()[-2000:]}")

    def get(self, path: str) -> tuple[int, Any]:
        return self._call("GET", path)

    def post(self, path: str, limit_s: float = _START_LIMIT_S) -> Any:
        """Raises: BenchmarkError: the answer is not 200."""
        status, answer = self._call("POST", path, limit_s)
        if status != 200:
            raise BenchmarkError(f"POST {path} was answered with {status}: {answer}")
        return answer

    def _call(self, method: str, path: str, limit_s: float = _ANSWER_LIMIT_S) -> tuple[int, Any]:
        with contextlib.closing(http.client.HTTPConnection(HOST, self.port, timeout=limit_s)) as connection:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read()
        return answer.status, json.loads(body) if body[:1] in (b"{", b"[") else body


class Peer(Process):
    """A child from `benchmarks.peers` that answers each line of JSON it is sent with one."""

    def __init__(self, module: str, log: Path, *arguments: str) -> None:
        super().__init__([sys.executable, "-m", f"benchmarks.peers.{module}", *arguments], log, answers=True)
        self._read()

    def ask(self, **question: object) -> Any:
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps(question).encode() + b"\n")
        self.popen.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        """The next line; a peer that is stuck is ended by the time limit of the whole run."""
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        if not line:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(1)
            self.check_alive()
            raise BenchmarkError("a peer closed its output")
        return json.loads(line)


@contextlib.contextmanager
def engine(
    folder: Path, models: Path | None, core_ids: Collection[int] = (), *, grpc_port: int = 0
) -> Iterator[HttpProcess]:
    """`inference-engine serve` as a user starts it, ready, with the models of a folder (None: the built-in ones).

    gRPC is served on `grpc_port`, 0: not at all, whether its extra is installed or not.
    """
    with engine_starting(folder, models, core_ids, grpc_port=grpc_port) as server:
        server.wait("/health/ready")
        yield server


def engine_starting(
    folder: Path, models: Path | None, core_ids: Collection[int] = (), *, grpc_port: int = 0
) -> HttpProcess:
    """The same, not waited for."""
    port = free_port()
    command = [sys.executable, "-m", "inference_engine", "serve", "--host", HOST, "--port", str(port)]
    command += ["--grpc-port", str(grpc_port)]
    command += ["--no-cache"]  # equal requests are asked again and again here, and each is to be computed
    if models is not None:
        command += ["--models", str(models), "--no-builtin-models"]
    state = {"INFERENCE_ENGINE_STATE_DIR": str(folder / "state")}
    return HttpProcess(command, folder / "engine.log", port, core_ids, environment=state)


@contextlib.contextmanager
def bare_app(folder: Path, core_ids: Collection[int] = (), *sessions: Path) -> Iterator[HttpProcess]:
    """The bare Starlette peer, ready. `sessions` are ONNX files it serves under their names."""
    with bare_app_starting(folder, core_ids, *sessions) as server:
        server.wait("/health/live")
        yield server


@contextlib.contextmanager
def llama_http(folder: Path, file: Path, slots: int, context: int, threads: int) -> Iterator[HttpProcess]:
    """xllamacpp's own HTTP server with the model `llm`, ready."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.peers.llama_http", str(file)]
    command += [str(number) for number in (port, slots, context, threads)]
    with HttpProcess(command, folder / "llama_http.log", port) as server:
        server.wait("/health")
        yield server


def bare_app_starting(folder: Path, core_ids: Collection[int] = (), *sessions: Path) -> HttpProcess:
    """The same, not waited for."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.peers.bare_app", str(port), *map(str, sessions)]
    return HttpProcess(command, folder / "bare_app.log", port, core_ids)


def _environment() -> dict[str, str]:
    """This process's own, without settings of the server that would change what is measured."""
    return {name: value for name, value in os.environ.items() if not name.startswith("INFERENCE_ENGINE_")}


def _prepare(core_ids: Collection[int]) -> None:
    """Runs in the child before its program."""
    if core_ids and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, core_ids)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
