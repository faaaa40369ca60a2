"""What the way through the server adds to one large tensor: an image of 1 MB, binary, against a bare route.

The bare route reads the tensor, calls the same function on it and answers, all on its event loop.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack, closing

import numpy as np

from benchmarks.compare import Result, Target, interleaved, ratio_row
from benchmarks.load import Caller, Post, check_equal
from benchmarks.models import IMAGE_SHAPE, add_means
from benchmarks.plan import Plan
from benchmarks.processes import bare_app, engine

_EXECUTORS = ("thread", "runner")
_TARGET = Target("at most", 1.2, 1.05)
_PART = 0.5  # of the time a throughput measurement takes


def measure(plan: Plan) -> Result:
    models = plan.folder / "tensors"
    for executor in _EXECUTORS:
        add_means(models, f"means-{executor}", executor)
    with ExitStack() as stack:
        ours = stack.enter_context(engine(plan.folder, models)).port
        bare = stack.enter_context(bare_app(plan.folder)).port
        callers = {port: stack.enter_context(closing(Caller(port))) for port in (ours, bare)}

        def median_us(port: int, executor: str) -> Callable[[], float]:
            post = _post(f"means-{executor}", binary_answer=True)
            callers[port].median_s(post, plan.seconds * _PART)
            return lambda: callers[port].median_s(post, plan.seconds * _PART) * 1e6

        for executor in _EXECUTORS:
            check_equal((ours, bare), _post(f"means-{executor}", binary_answer=False))
        found = interleaved(
            plan.rounds,
            {
                "thread": median_us(ours, "thread"),
                "peer": median_us(bare, "thread"),
                "runner": median_us(ours, "runner"),
            },
        )
    rows = [
        ratio_row(f"1 MB image, {executor}", "µs p50", found[executor], found["peer"], "Starlette", target=_TARGET)
        for executor in _EXECUTORS
    ]
    return Result(rows, ["One connection, one request at a time; the model takes the mean of each channel."])


def _post(model: str, *, binary_answer: bool) -> Post:
    image = np.random.default_rng(1).random(IMAGE_SHAPE, np.float32)
    tensor = {"name": "x", "shape": image.shape, "datatype": "FP32", "parameters": {"binary_data_size": image.nbytes}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": binary_answer}}).encode()
    headers = (("Content-Type", "application/octet-stream"), ("Inference-Header-Content-Length", str(len(head))))
    return Post(f"/v2/models/{model}/infer", head + image.tobytes(), headers)
