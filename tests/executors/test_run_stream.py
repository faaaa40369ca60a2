"""Predictions with several responses: what every executor promises of `run_stream`."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest

from inference_engine.domain.errors import InferenceFailed, RunnerLost, UnsupportedTask
from tests.executors.conftest import Start

REPEAT = """
concurrency = 4
def load(self, folder, options):
    self.folder = folder
def predict_stream(self, inputs):
    count = int(inputs["x"].ravel()[0])
    try:
        for i in range(count):
            (self.folder / "made").write_text(str(i + 1))
            yield {"y": inputs["x"] + i}
        if count == 13:
            raise ValueError("thirteen")
    finally:
        (self.folder / "closed").write_text("yes")
"""
PID = """
def predict_stream(self, inputs):
    while True:
        yield {"y": np.full((1, 1), os.getpid(), np.float32)}
        time.sleep(0.02)
"""


def given(count: int, columns: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.full((1, columns), count, np.float32)}


async def written(file: Path) -> str:
    for _ in range(200):
        if file.exists():
            return file.read_text()
        await asyncio.sleep(0.02)
    raise AssertionError(f"{file} was never written")


@pytest.mark.parametrize("count", [0, 1, 40])
async def test_every_response_comes_in_order(kind: str, start: Start, count: int) -> None:
    executor = await start(kind, REPEAT)
    async with aclosing(executor.run_stream(given(count))) as responses:
        found = [float(outputs["y"][0, 0]) for outputs in [outputs async for outputs in responses]]
    assert found == [count + i for i in range(count)]


async def test_large_tensors_of_streams_side_by_side_do_not_mix(kind: str, start: Start) -> None:
    executor = await start(kind, REPEAT)

    async def one(count: int) -> list[float]:
        async with aclosing(executor.run_stream(given(count, 40_000))) as responses:
            return [float(outputs["y"].mean()) async for outputs in responses]

    found = await asyncio.gather(*(one(count) for count in (5, 9, 20, 7)))
    assert found == [[count + i for i in range(count)] for count in (5, 9, 20, 7)]


async def test_few_are_made_ahead_of_the_reader_and_closing_stops_the_generator(
    kind: str, start: Start, tmp_path: Path
) -> None:
    executor = await start(kind, REPEAT)
    responses = executor.run_stream(given(100_000))
    await anext(responses)
    await asyncio.sleep(0.3)
    assert int((tmp_path / "made").read_text()) < 15
    await responses.aclose()
    assert await written(tmp_path / "closed") == "yes"
    async with aclosing(executor.run_stream(given(2))) as again:
        assert len([outputs async for outputs in again]) == 2


async def test_a_failure_comes_after_what_was_made(kind: str, start: Start) -> None:
    executor = await start(kind, REPEAT)
    found = []
    with pytest.raises(InferenceFailed, match=r"thirteen.*line"):
        async with aclosing(executor.run_stream(given(13))) as responses:
            async for outputs in responses:
                found.append(outputs)
    assert len(found) == 13


async def test_a_model_without_it_says_so(kind: str, start: Start) -> None:
    executor = await start(kind, "def predict(self, inputs): return {'y': inputs['x']}")
    with pytest.raises(UnsupportedTask, match="predict_stream"):
        await anext(executor.run_stream(given(1)))


async def test_a_wrong_response_names_the_output(kind: str, start: Start) -> None:
    executor = await start(kind, "def predict_stream(self, inputs): yield {'z': inputs['x']}")
    with pytest.raises(InferenceFailed, match="'z'"):
        await anext(executor.run_stream(given(1)))


async def test_death_of_the_runner_ends_the_stream_and_the_next_one_is_served(start: Start) -> None:
    executor = await start("runner", PID)
    responses = executor.run_stream(given(1))
    first = int((await anext(responses))["y"][0, 0])
    pid = executor.status().pid
    assert pid is not None
    assert first == np.float32(pid)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RunnerLost, match="send the request again"):
        async for _ in responses:
            pass
    async with aclosing(executor.run_stream(given(1))) as again:
        assert int((await anext(again))["y"][0, 0]) != first
