"""The cost of the server itself: a model that gives back 16 floats, 64 connections, the server on one core.

Our echo passes the whole path (checks, batching, a thread for the model); the bare app has none of that.
"""

from __future__ import annotations

from benchmarks.compare import Result, Target, interleaved, ratio_row
from benchmarks.load import generator, infer_post, load
from benchmarks.models import ECHO_INPUTS, add_echo
from benchmarks.plan import Plan
from benchmarks.processes import HttpProcess, bare_app, cores, engine

_CONNECTIONS = 64
_TARGET = Target("at least", 0.9, 1.2)


def measure(plan: Plan) -> Result:
    models = plan.folder / "echo"
    add_echo(models, "echo", "thread")
    server_core, load_core = cores()[:1], cores()[-1:]
    with engine(plan.folder, models, server_core) as ours, bare_app(plan.folder, server_core) as bare:

        def rate(server: HttpProcess, model: str) -> float:
            post = infer_post(model, ECHO_INPUTS)
            return load(plan.folder, server.port, post, _CONNECTIONS, plan.seconds, core_ids=load_core).per_s

        rate(ours, "echo")
        rate(bare, "echo")
        found = interleaved(
            plan.rounds,
            {
                "ours": lambda: rate(ours, "echo"),
                "arrays": lambda: rate(bare, "echo"),
                "lists": lambda: rate(bare, "echo-lists"),
            },
        )
    rows = [
        ratio_row("echo, 64 connections", "req/s", found["ours"], found["arrays"], "Starlette, arrays", target=_TARGET),
        ratio_row("the same", "req/s", found["ours"], found["lists"], "Starlette, lists only"),
    ]
    return Result(rows, [f"Load from {generator()}. Each server on core {server_core}, the load on {load_core}."])
