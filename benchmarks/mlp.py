"""Throughput of a model of 6.4 MFLOP per row behind 64 connections, against ONNX Runtime in process and MLServer.

All compute in one thread; the servers have the second core for HTTP, and share it with the load generator. MLServer
has the settings that are best on this machine, and is asked over REST or gRPC, whichever is better for it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from benchmarks import mlserver
from benchmarks.compare import Result, Target, interleaved, ratio_row
from benchmarks.load import Post, check_equal, generator, infer_post, load
from benchmarks.models import MLP_INPUTS, add_mlp
from benchmarks.plan import Plan
from benchmarks.processes import Peer, engine

_CONNECTIONS = 64
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
_ROWS = 8
_TARGET = Target("at least", 0.75, 0.9)
_MLSERVER_TARGET = Target("at least", 6, 9)


def measure(plan: Plan) -> Result:
    models = plan.folder / "mlp"
    file = add_mlp(models, "mlp", "runner")
    posts = {
        "binary": infer_post("mlp", MLP_INPUTS, binary=True),
        "JSON": infer_post("mlp", MLP_INPUTS),
        "rows": infer_post("mlp", MLP_INPUTS, _ROWS, binary=True),
    }
    missing = mlserver.why_missing()
    best_peer = None if missing else mlserver.tuned(plan, file, MLP_INPUTS, _CONNECTIONS)
    with ExitStack() as stack:
        ours = stack.enter_context(engine(plan.folder, models))
        direct = stack.enter_context(Peer("onnx_direct", plan.folder / "onnx.log", str(file)))

        def served(post: Post) -> float:
            return load(plan.folder, ours.port, post, _CONNECTIONS, plan.seconds).per_s

        def computed(batch: int, seconds: float) -> float:
            return float(direct.ask(batch=batch, seconds=seconds)["rows_per_s"])

        sweep = {batch: computed(batch, plan.seconds / 3) for batch in _BATCHES}
        best = max(sweep, key=lambda batch: sweep[batch])
        for post in posts.values():
            served(post)
        turns: dict[str, Callable[[], float]] = {
            "binary": lambda: served(posts["binary"]),
            "peer": lambda: computed(best, plan.seconds),
            "JSON": lambda: served(posts["JSON"]),
            "rows": lambda: served(posts["rows"]) * _ROWS,
        }
        if best_peer is not None:
            other = stack.enter_context(mlserver.mlserver(plan.folder, file, best_peer.settings))

            def peer_rate(seconds: float = plan.seconds) -> float:
                return mlserver.rate(plan, other, best_peer.over_grpc, file.stem, MLP_INPUTS, _CONNECTIONS, seconds)

            check_equal((ours.port, other[0].port), posts["JSON"])
            peer_rate()
            turns["mlserver"] = peer_rate
        found = interleaved(plan.rounds, turns)
    peer = f"ONNX Runtime, batch {best}"
    rows = [
        ratio_row("MLP, 64 connections, binary", "rows/s", found["binary"], found["peer"], peer, target=_TARGET),
        ratio_row("MLP, 64 connections, JSON", "rows/s", found["JSON"], found["peer"], peer, target=_TARGET),
        ratio_row(f"binary, {_ROWS} rows a request", "rows/s", found["rows"], found["peer"], peer),
    ]
    if best_peer is not None:
        rows += [
            ratio_row("binary", "rows/s", found["binary"], found["mlserver"], str(best_peer), target=_MLSERVER_TARGET),
            ratio_row("JSON", "rows/s", found["JSON"], found["mlserver"], str(best_peer)),
        ]
    swept = ", ".join(f"{batch}: {rate:,.0f}" for batch, rate in sweep.items())
    notes = [f"Load from {generator()}. ONNX Runtime alone, rows/s by batch: {swept}."]
    if best_peer is None:
        return Result(rows, [*notes, missing])
    return Result(rows, [*notes, f"MLServer had {best_peer.settings}. Rows/s tried: {best_peer.tried}."])
