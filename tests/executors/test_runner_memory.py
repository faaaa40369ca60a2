"""What a runner process keeps of its memory."""

from __future__ import annotations

import platform

import numpy as np
import pytest

from tests.executors.conftest import Start

FAULTS = """
def predict(self, inputs):
    import resource
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        first = np.ones((1 << 18,), np.float32)   # a megabyte: 256 pages
        second = first + first
        del first, second
    pages = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20
    return {"y": np.full_like(inputs["x"], pages)}
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
async def test_large_tensors_are_not_mapped_anew_for_each_batch(start: Start) -> None:
    executor = await start("runner", FAULTS)
    x = np.zeros((1, 1), np.float32)
    await executor.run([{"x": x}], [1])
    result = await executor.run([{"x": x}], [1])
    assert result.outputs[0]["y"][0, 0] < 50
