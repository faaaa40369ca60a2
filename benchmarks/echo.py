"""The cost of the server itself: a model that gives back 16 floats, 64 connections, the server on one core.

Our echo passes the whole path (checks, batching, a thread for the model); the bare app has none of that.
"""

from __future__ import annotations

import psutil

from benchmarks.compare import Result, Target, interleaved, ratio_row
from benchmarks.load import check_equal, generator, infer_post, load
from benchmarks.models import ECHO_INPUTS, add_echo
from benchmarks.plan import Plan
from benchmarks.processes import HttpProcess, bare_app, cores, engine

_CONNECTIONS = 64
_TARGET = Target("at least", 1.0, 1.3)


def measure(plan: Plan) -> Result:
    models = plan.folder / "echo"
    add_echo(models, "echo", "thread")
    add_echo(models, "echo-runner", "runner")
    server_core, load_core = cores()[:1], cores()[-1:]
    cpu_us: dict[tuple[int, str], list[float]] = {}
    with engine(plan.folder, models, server_core) as ours, bare_app(plan.folder, server_core) as bare:

        def rate(server: HttpProcess, model: str) -> float:
            process, post = psutil.Process(server.pid), infer_post(model, ECHO_INPUTS)
            before = sum(process.cpu_times()[:2])
            found = load(plan.folder, server.port, post, _CONNECTIONS, plan.seconds, core_ids=load_core)
            used_s = sum(process.cpu_times()[:2]) - before
            cpu_us.setdefault((server.pid, model), []).append(used_s / found.answers * 1e6)
            return found.per_s

        check_equal((ours.port, bare.port), infer_post("echo", ECHO_INPUTS))
        rate(ours, "echo")
        rate(bare, "echo")
        cpu_us.clear()
        found = interleaved(
            plan.rounds,
            {
                "ours": lambda: rate(ours, "echo"),
                "arrays": lambda: rate(bare, "echo"),
                "lists": lambda: rate(bare, "echo-lists"),
                "runner": lambda: rate(ours, "echo-runner"),
            },
        )
        cpu_ours, cpu_bare = cpu_us[ours.pid, "echo"], cpu_us[bare.pid, "echo"]
    arrays = "Starlette, arrays"
    rows = [
        ratio_row("echo, 64 connections", "req/s", found["ours"], found["arrays"], arrays, target=_TARGET),
        ratio_row("its CPU time", "µs/req", cpu_ours, cpu_bare, arrays),
        ratio_row("against lists", "req/s", found["ours"], found["lists"], "Starlette, lists only"),
        ratio_row("echo in a runner", "req/s", found["runner"], found["arrays"], arrays),
    ]
    return Result(rows, [f"Load from {generator()}. Each server on core {server_core}, the load on {load_core}."])
