"""What only a runner process promises: crashes and hangs are noticed, work goes on, neighbours feel nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from inference_engine.domain.errors import ModelLoadFailed, RunnerLost
from inference_engine.domain.ports import Executor
from inference_engine.domain.results import TextDelta
from tests.executors.conftest import SUPERVISION, Start, build, python_model
from tests.executors.test_contract import COUNT, DOUBLE, count_to, rows


def pid_of(executor: Executor) -> int:
    pid = executor.status().pid
    assert pid is not None
    return pid


async def read(executor: Executor, n: int, after: int, act: signal.Signals) -> str:
    """The whole text of one generation, in which the runner gets `act` after some deltas."""
    text = ""
    async for delta in executor.generate(count_to(n)):
        if isinstance(delta, TextDelta):
            text += delta.text
            after -= 1
            if after == 0:
                os.kill(pid_of(executor), act)
        else:
            assert delta.usage.completion_tokens == n
    return text


@pytest.mark.parametrize("act", [signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV])
@pytest.mark.parametrize("after", [1, 25])
async def test_a_generation_goes_on_where_it_was_cut(start: Start, act: signal.Signals, after: int) -> None:
    executor = await start("runner", COUNT, None)
    assert await read(executor, 50, after, act) == "".join(f"{i} " for i in range(50))
    assert executor.status().restarts == 1


async def test_all_running_generations_survive_one_death(start: Start) -> None:
    executor = await start("runner", COUNT, None)
    texts = await asyncio.gather(
        read(executor, 60, 10, signal.SIGKILL),
        read(executor, 40, -1, signal.SIGKILL),
        read(executor, 70, -1, signal.SIGKILL),
    )
    assert texts == ["".join(f"{i} " for i in range(n)) for n in (60, 40, 70)]


async def test_a_batch_is_computed_again_after_a_death(start: Start, tmp_path: Path) -> None:
    body = f"""
    def predict(self, inputs):
        flag = pathlib.Path({str(tmp_path)!r}) / "died"
        if not flag.exists():
            flag.touch()
            os.kill(os.getpid(), 9)
        return {{"y": inputs["x"] * 2}}
    """
    executor = await start("runner", body)
    result = await executor.run([rows(1), rows(2)], [1, 1])
    assert [part["y"].tolist() for part in result.outputs] == [[[2]], [[4]]]


async def test_a_request_that_kills_every_runner_is_given_up(start: Start) -> None:
    body = """
    def predict(self, inputs):
        if inputs["x"][0, 0] < 0:
            os.kill(os.getpid(), 9)
        return {"y": inputs["x"]}
    """
    executor = await start("runner", body)
    with pytest.raises(RunnerLost, match="SIGKILL"):
        await executor.run([rows(-1)], [1])
    assert (await executor.run([rows(3)], [1])).outputs[0]["y"].tolist() == [[3]]


async def test_a_computation_nobody_wants_and_that_does_not_end_is_killed(start: Start) -> None:
    body = """
    def predict(self, inputs):
        while inputs["x"][0, 0] < 0:
            pass
        return {"y": inputs["x"]}
    """
    executor = await start("runner", body)
    before = pid_of(executor)
    stuck = asyncio.ensure_future(executor.run([rows(-1)], [1]))
    await asyncio.sleep(0.2)
    stuck.cancel()
    async with asyncio.timeout(15):
        assert (await executor.run([rows(3)], [1])).outputs[0]["y"].tolist() == [[3]]
    assert pid_of(executor) != before


async def test_leaving_after_all_was_computed_does_not_count_as_hanging(start: Start) -> None:
    executor = await start("runner", COUNT + "\n" + DOUBLE)
    before = pid_of(executor)
    generation = executor.generate(count_to(5))
    await anext(generation)
    await asyncio.sleep(0.3)  # the runner has long finished; nobody has read the rest
    await generation.aclose()
    running = asyncio.ensure_future(executor.run([rows(1)], [1]))
    while not running.done():
        running.cancel()
        await asyncio.sleep(0)
    await asyncio.sleep(SUPERVISION.cancel_grace_s + 4 * SUPERVISION.check_interval_s)
    assert pid_of(executor) == before


async def test_a_runner_over_its_memory_limit_is_ended(start: Start) -> None:
    body = """
    def predict(self, inputs):
        if inputs["x"][0, 0] < 0:
            self.ballast = np.ones(60_000_000)
            time.sleep(20)
        return {"y": inputs["x"]}
    """
    executor = await start("runner", body, memory_limit_mb=300)
    with pytest.raises(RunnerLost, match="memory_limit_mb of 300"):
        await executor.run([rows(-1)], [1])
    assert (await executor.run([rows(3)], [1])).outputs[0]["y"].tolist() == [[3]]


async def test_the_words_of_a_dying_runner_are_kept(tmp_path: Path) -> None:
    body = "def load(self, folder, options):\n    print('the disk is on fire', flush=True)\n    os._exit(7)\n" + DOUBLE
    executor = build("runner", python_model(tmp_path, body))
    with pytest.raises(ModelLoadFailed, match=r"exited with 7 while loading.*the disk is on fire"):
        await executor.start()


async def test_stopping_ends_the_process_and_its_memory_is_measured(start: Start) -> None:
    executor = await start("runner", "def load(self, folder, options): self.ballast = np.ones(8_000_000)\n" + DOUBLE)
    pid = pid_of(executor)
    assert executor.status().memory_bytes > 64_000_000
    await executor.stop(2.0)
    assert not psutil.pid_exists(pid)


async def test_secrets_of_the_server_are_not_in_the_runner(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "secret")
    monkeypatch.setenv("PLAIN_SETTING", "seen")
    body = """
    def predict(self, inputs):
        found = [float("MY_API_KEY" in os.environ), float("PLAIN_SETTING" in os.environ)]
        return {"y": np.array([found], np.float32)}
    """
    executor = await start("runner", body)
    assert (await executor.run([rows(1)], [1])).outputs[0]["y"].tolist() == [[0, 1]]


async def test_shared_memory_is_given_back(start: Start) -> None:
    executor = await start("runner", DOUBLE)
    array = np.ones((1, 5_000_000), np.float32)
    for _ in range(30):
        await executor.run([{"x": array}], [1])
    assert psutil.Process().memory_info().shared < 400_000_000


async def test_a_runner_dies_with_its_server(tmp_path: Path) -> None:
    python_model(tmp_path, "def predict(self, inputs):\n    time.sleep(60)\n    return {'y': inputs['x']}")
    script = f"""
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.executors.conftest import build, python_model
async def main():
    executor = build("runner", python_model(Path({str(tmp_path)!r}), {COUNT!r}, None))
    await executor.start()
    print(executor.status().pid, flush=True)
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    import subprocess
    import sys

    server = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    pid = int(server.stdout)
    give_up = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < give_up, "the runner outlived its server"
        await asyncio.sleep(0.05)
