"""MLServer as a peer: its environment, its settings, and which of them are best on this machine.

Its dependencies exclude ours, so it lives in `build/mlserver`, which `make` fills when it is first asked for.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.load import infer_post, load
from benchmarks.load_grpc import load as load_grpc
from benchmarks.load_grpc import request_bytes
from benchmarks.plan import Plan
from benchmarks.processes import HOST, ROOT, HttpProcess, free_port

VERSION = "1.7"
_STAMP = "build/mlserver/bench.stamp"
_PROGRAM = ROOT / "build" / "mlserver" / "bin" / "mlserver"
_INSTALL_LIMIT_S = 600


class Settings(NamedTuple):
    """`workers` processes beside the server's own (0: none), and adaptive batches of at most `batch` rows."""

    workers: int
    batch: int
    delay_s: float

    def __str__(self) -> str:
        workers = f"{self.workers} workers" if self.workers != 1 else "1 worker"
        return f"{workers}, {f'batches of {self.batch} in {self.delay_s * 1000:g} ms' if self.batch else 'no batching'}"


_QUICK = (Settings(0, 64, 0.005), Settings(1, 64, 0.005), Settings(2, 16, 0.002))
_SWEEP = (
    *_QUICK,
    Settings(0, 0, 0),
    Settings(0, 16, 0.002),
    Settings(0, 32, 0.01),
    Settings(1, 16, 0.002),
    Settings(2, 8, 0.001),
    Settings(2, 32, 0.005),
    Settings(2, 64, 0.005),
)


class Best(NamedTuple):
    """The settings and the way in that gave most, and what all of them gave, in rows a second."""

    settings: Settings
    over_grpc: bool
    tried: str

    def __str__(self) -> str:
        return f"MLServer {VERSION}, {'gRPC' if self.over_grpc else 'REST'}"


def tuned(plan: Plan, file: Path, inputs: int, connections: int) -> Best:
    """Try the settings with `connections` requests outstanding, over REST and over gRPC."""
    found: dict[tuple[Settings, bool], float] = {}
    for settings in _QUICK if plan.quick else _SWEEP:
        with mlserver(plan.folder, file, settings) as server:
            for over_grpc in (False, True):
                rate(plan, server, over_grpc, file.stem, inputs, connections, plan.seconds / 3)
                found[settings, over_grpc] = rate(
                    plan, server, over_grpc, file.stem, inputs, connections, plan.seconds / 2
                )
    settings, over_grpc = max(found, key=lambda key: found[key])
    tried = "; ".join(
        f"{setting}: {found[setting, False]:,.0f} over REST, {found[setting, True]:,.0f} over gRPC"
        for setting in dict.fromkeys(key[0] for key in found)
    )
    return Best(settings, over_grpc, tried)


def rate(
    plan: Plan,
    server: tuple[HttpProcess, int],
    over_grpc: bool,
    model: str,
    inputs: int,
    connections: int,
    seconds: float,
) -> float:
    """Answers a second to requests of one row."""
    process, grpc_port = server
    if not over_grpc:
        return load(plan.folder, process.port, infer_post(model, inputs), connections, seconds).per_s
    answers, elapsed_s = load_grpc(plan.folder, grpc_port, request_bytes(model, inputs), connections, seconds, ())
    return answers / elapsed_s


def why_missing() -> str:
    """Install MLServer where it is not; why that cannot be done, empty where it is there."""
    try:
        done = subprocess.run(
            ["make", "--no-print-directory", _STAMP],
            check=False,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=_INSTALL_LIMIT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"MLServer {VERSION} could not be installed into build/mlserver: {error}"
    if done.returncode:
        return f"MLServer {VERSION} could not be installed into build/mlserver: {done.stderr.strip()[-300:]}"
    return ""


@contextlib.contextmanager
def mlserver(folder: Path, file: Path, settings: Settings) -> Iterator[tuple[HttpProcess, int]]:
    """MLServer with the ONNX model of `file` under the file's name, ready; and its gRPC port."""
    place = folder / f"mlserver-{settings.workers}-{settings.batch}-{settings.delay_s}"
    place.mkdir(exist_ok=True)
    port, grpc_port, metrics_port = free_port(), free_port(), free_port()
    server = {
        "host": HOST,
        "http_port": port,
        "grpc_port": grpc_port,
        "metrics_port": metrics_port,
        "debug": False,
        "parallel_workers": settings.workers,
    }
    model: dict[str, object] = {
        "name": file.stem,
        "implementation": "benchmarks.peers.mlserver_onnx.OnnxModel",
        "parameters": {"uri": str(file)},
    }
    if settings.batch:
        model |= {"max_batch_size": settings.batch, "max_batch_time": settings.delay_s}
    (place / "settings.json").write_text(json.dumps(server))
    (place / "model-settings.json").write_text(json.dumps(model))
    command = [str(_PROGRAM), "start", str(place)]
    log = folder / f"{place.name}.log"
    with HttpProcess(command, log, port, environment={"PYTHONPATH": str(ROOT)}) as process:
        process.wait(f"/v2/models/{file.stem}/ready", every_s=0.1)
        yield process, grpc_port
