"""Throughput of a model of 6.4 MFLOP per row behind 64 connections, against ONNX Runtime in process.

Both compute in one thread; ours has the second core for HTTP, and shares it with the load generator.
"""

from __future__ import annotations

from benchmarks.compare import Result, Target, interleaved, ratio_row
from benchmarks.load import Post, generator, infer_post, load
from benchmarks.models import MLP_INPUTS, add_mlp
from benchmarks.plan import Plan
from benchmarks.processes import Peer, engine

_CONNECTIONS = 64
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
_ROWS = 8
_TARGET = Target("at least", 0.7, 0.85)


def measure(plan: Plan) -> Result:
    models = plan.folder / "mlp"
    file = add_mlp(models, "mlp", "runner")
    posts = {
        "binary": infer_post("mlp", MLP_INPUTS, binary=True),
        "JSON": infer_post("mlp", MLP_INPUTS),
        "rows": infer_post("mlp", MLP_INPUTS, _ROWS, binary=True),
    }
    with engine(plan.folder, models) as ours, Peer("onnx_direct", plan.folder / "onnx.log", str(file)) as direct:

        def served(post: Post) -> float:
            return load(plan.folder, ours.port, post, _CONNECTIONS, plan.seconds).per_s

        def computed(batch: int, seconds: float) -> float:
            return float(direct.ask(batch=batch, seconds=seconds)["rows_per_s"])

        sweep = {batch: computed(batch, plan.seconds / 3) for batch in _BATCHES}
        best = max(sweep, key=lambda batch: sweep[batch])
        for post in posts.values():
            served(post)
        found = interleaved(
            plan.rounds,
            {
                "binary": lambda: served(posts["binary"]),
                "peer": lambda: computed(best, plan.seconds),
                "JSON": lambda: served(posts["JSON"]),
                "rows": lambda: served(posts["rows"]) * _ROWS,
            },
        )
    peer = f"ONNX Runtime, batch {best}"
    rows = [
        ratio_row("MLP, 64 connections, binary", "rows/s", found["binary"], found["peer"], peer, target=_TARGET),
        ratio_row("MLP, 64 connections, JSON", "rows/s", found["JSON"], found["peer"], peer, target=_TARGET),
        ratio_row(f"binary, {_ROWS} rows a request", "rows/s", found["rows"], found["peer"], peer),
    ]
    swept = ", ".join(f"{batch}: {rate:,.0f}" for batch, rate in sweep.items())
    return Result(rows, [f"Load from {generator()}. ONNX Runtime alone, rows/s by batch: {swept}."])
