"""What the way through the server adds to one request that is alone, against a bare route calling ONNX Runtime.

Once with the MLP, which takes a fraction of a millisecond, and once with next to nothing to compute.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing

from benchmarks.compare import Result, Row, Target, interleaved, ratio_row
from benchmarks.load import Caller, check_equal, infer_post
from benchmarks.models import MLP_INPUTS, TINY_INPUTS, add_mlp
from benchmarks.plan import Plan
from benchmarks.processes import bare_app, engine

_TARGET = Target("at most", 1.4, 1.2)
_PART = 0.25  # of the time a throughput measurement takes: a median settles sooner


def measure(plan: Plan) -> Result:
    models = plan.folder / "latency"
    files = [
        add_mlp(models, f"{kind}-{executor}", executor, tiny=kind == "tiny")
        for kind in ("mlp", "tiny")
        for executor in ("runner", "thread")
    ]
    with ExitStack() as stack:
        ours = stack.enter_context(engine(plan.folder, models)).port
        bare = stack.enter_context(bare_app(plan.folder, (), *files)).port
        callers = {port: stack.enter_context(closing(Caller(port))) for port in (ours, bare)}

        def median_us(port: int, model: str) -> Callable[[], float]:
            post = infer_post(model, MLP_INPUTS if model.startswith("mlp") else TINY_INPUTS)
            check_equal((ours, bare), post)
            callers[port].median_s(post, plan.seconds * _PART)
            return lambda: callers[port].median_s(post, plan.seconds * _PART) * 1e6

        rows: list[Row] = []
        for kind, target in (("mlp", _TARGET), ("tiny", None)):
            found = interleaved(
                plan.rounds,
                {
                    "runner": median_us(ours, f"{kind}-runner"),
                    "peer": median_us(bare, f"{kind}-runner"),
                    "thread": median_us(ours, f"{kind}-thread"),
                },
            )
            rows += [
                ratio_row(
                    f"{kind} alone, {executor}", "µs p50", found[executor], found["peer"], "Starlette", target=target
                )
                for executor in ("runner", "thread")
            ]
    return Result(rows, ["One connection, one request at a time, one row as JSON, one compute thread."])
