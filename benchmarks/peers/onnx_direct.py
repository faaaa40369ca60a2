"""ONNX Runtime called in process: `python -m benchmarks.peers.onnx_direct FILE.onnx`.

Answers `{"batch": N, "seconds": S}` on stdin with `{"rows_per_s": R}`. One thread, the input made beforehand.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import onnxruntime


def _rows_per_s(session: Any, batch: int, seconds: float) -> float:
    feed = {node.name: _input(node, batch) for node in session.get_inputs()}
    session.run(None, feed)
    started = now = time.perf_counter()
    calls = 0
    while now - started < seconds:
        session.run(None, feed)
        calls += 1
        now = time.perf_counter()
    return calls * batch / (now - started)


def _input(node: Any, batch: int) -> Any:
    shape = [size if isinstance(size, int) else batch for size in node.shape]
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def main() -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        rate = _rows_per_s(session, question["batch"], question["seconds"])
        print(json.dumps({"rows_per_s": rate}), flush=True)


if __name__ == "__main__":
    main()
