"""Several instances of one model: they share the work, and the death of one does not stop the others."""

from __future__ import annotations

import asyncio
import os
import signal

import psutil

from inference_engine.infra.executors.instances import InstancesExecutor
from tests.executors.conftest import Start
from tests.executors.test_contract import DOUBLE, rows

PID = "def predict(self, inputs): time.sleep(0.05); return {'y': np.full_like(inputs['x'], os.getpid())}"


async def pids(executor: InstancesExecutor, count: int) -> set[int]:
    """Which processes answered `count` requests that were asked together."""
    results = await asyncio.gather(*(executor.run([rows(1)], [1]) for _ in range(count)))
    return {int(result.outputs[0]["y"][0, 0]) for result in results}


async def test_the_work_is_shared(start: Start) -> None:
    executor = await start("instances", PID)
    assert isinstance(executor, InstancesExecutor)
    assert executor.batches_in_flight == 4
    assert len(await pids(executor, 4)) == 2


async def test_one_instances_death_does_not_stop_the_others(start: Start) -> None:
    executor = await start("instances", DOUBLE)
    assert isinstance(executor, InstancesExecutor)
    pid = executor.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], 5)
    async with asyncio.timeout(10):
        results = await asyncio.gather(*(executor.run([rows(value)], [1]) for value in range(20)))
        assert [result.outputs[0]["y"][0, 0] for result in results] == [value * 2 for value in range(20)]
        assert executor.status().state == "ready"
        while executor.status().restarts != 1:
            await asyncio.sleep(0.05)
