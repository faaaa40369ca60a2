"""The cost of the server itself over gRPC: a model that gives back 16 floats, 64 calls outstanding, one core.

Our echo passes the whole path (checks, batching, statistics); the bare grpc.aio server has none of that.
"""

from __future__ import annotations

import sys

import numpy as np
import psutil

from benchmarks.compare import Result, Target, interleaved, ratio_row
from benchmarks.load_grpc import answer_of, generator, has_h2load, load, request_bytes
from benchmarks.models import ECHO_INPUTS, add_echo
from benchmarks.plan import Plan
from benchmarks.processes import BenchmarkError, Process, cores, engine, free_port

_OUTSTANDING = 64
_TARGET = Target("at least", 0.8, 1.0)
_CPU_TARGET = Target("at most", 1.25, 1.0)


def measure(plan: Plan) -> Result:
    models = plan.folder / "echo"
    add_echo(models, "echo", "thread")
    add_echo(models, "echo-runner", "runner")
    server_core, load_core = cores()[:1], cores()[-1:]
    ports = {"ours": free_port(), "bare": free_port()}
    bare_command = [sys.executable, "-m", "benchmarks.peers.bare_grpc", str(ports["bare"])]
    cpu_us: dict[tuple[str, str], list[float]] = {}
    with (
        engine(plan.folder, models, server_core, grpc_port=ports["ours"]) as ours,
        Process(bare_command, plan.folder / "bare_grpc.log", server_core) as bare,
    ):
        processes = {"ours": psutil.Process(ours.pid), "bare": psutil.Process(bare.pid)}

        def rate(side: str, model: str) -> float:
            process = processes[side]
            before = sum(process.cpu_times()[:2])
            request = request_bytes(model, ECHO_INPUTS)
            answers, seconds = load(plan.folder, ports[side], request, _OUTSTANDING, plan.seconds, load_core)
            used_s = sum(process.cpu_times()[:2]) - before
            cpu_us.setdefault((side, model), []).append(used_s / answers * 1e6)
            return answers / seconds

        _check_equal(ports)
        for side in ports:
            rate(side, "echo")
        cpu_us.clear()
        found = interleaved(
            plan.rounds,
            {
                "ours": lambda: rate("ours", "echo"),
                "bare": lambda: rate("bare", "echo"),
                "runner": lambda: rate("ours", "echo-runner"),
            },
        )
    peer = "grpc.aio"
    target = _TARGET if has_h2load() else None
    cpu_ours, cpu_bare = cpu_us["ours", "echo"], cpu_us["bare", "echo"]
    rows = [
        ratio_row(f"gRPC echo, {_OUTSTANDING} outstanding", "req/s", found["ours"], found["bare"], peer, target=target),
        ratio_row("its CPU time", "µs/req", cpu_ours, cpu_bare, peer, target=_CPU_TARGET),
        ratio_row("gRPC echo in a runner", "req/s", found["runner"], found["bare"], peer),
    ]
    return Result(rows, [f"Load from {generator()}. Each server on core {server_core}, the load on {load_core}."])


def _check_equal(ports: dict[str, int]) -> None:
    """Raises: BenchmarkError: the servers do not do the same work."""
    request = request_bytes("echo", ECHO_INPUTS)
    ours, bare = (answer_of(port, request)[0] for port in ports.values())
    if not np.array_equal(ours, bare):
        raise BenchmarkError(f"the answers differ: {ours}, {bare}")
