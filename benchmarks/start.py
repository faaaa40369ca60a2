"""How soon the server answers after its process was started, and how much memory it holds when idle."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

from benchmarks.compare import Result, Target, interleaved, plain_row, ratio_row
from benchmarks.plan import Plan
from benchmarks.processes import HttpProcess, bare_app_starting, engine_starting

_POLL_S = 0.005
_SETTLE_S = 0.5
_START = Target("at most", 0.8, 0.5, "s")
_MEMORY = Target("at most", 130, 100, "MB")


def measure(plan: Plan) -> Result:
    memory: list[float] = []

    def ours() -> HttpProcess:
        return engine_starting(plan.folder, None)

    def start_s(start: Callable[[], HttpProcess], measured: list[float]) -> float:
        started = time.perf_counter()
        with start() as server:
            server.wait("/health/live", _POLL_S)
            elapsed = time.perf_counter() - started
            time.sleep(_SETTLE_S)
            measured.append(_resident_mb(server))
        return elapsed

    start_s(ours, [])
    found = interleaved(
        plan.rounds,
        {"ours": lambda: start_s(ours, memory), "bare": lambda: start_s(lambda: bare_app_starting(plan.folder), [])},
    )
    loaded, notes = _loaded(ours)
    rows = [
        plain_row("process start to live", "s", found["ours"], _START),
        ratio_row("the same", "s", found["ours"], found["bare"], "Starlette"),
        plain_row("idle memory of the server", "MB", memory, _MEMORY),
        *([plain_row("with the built-in models loaded", "MB", [loaded])] if loaded else []),
    ]
    return Result(rows, notes)


def _loaded(start: Callable[[], HttpProcess]) -> tuple[float, list[str]]:
    """The server's memory once every built-in model has been loaded, and the memory of its runners."""
    with start() as server:
        server.wait("/health/ready")
        models = server.get("/admin/models")[1]["models"]
        if not models:
            return 0.0, ["There were no built-in models."]
        for model in models:
            server.post(f"/admin/models/{model['name']}/{model['version']}/load")
        time.sleep(_SETTLE_S)
        runners = [
            f"{model['name']} {model['memory_bytes'] / 1e6:.0f} MB"
            for model in server.get("/admin/models")[1]["models"]
        ]
        return _resident_mb(server), [f"Memory of the runner processes beside it: {', '.join(runners)}."]


def _resident_mb(server: HttpProcess) -> float:
    return float(psutil.Process(server.pid).memory_info().rss / 1e6)
