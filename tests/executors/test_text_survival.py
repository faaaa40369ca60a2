"""A runner is killed in the middle of thoughts and tool calls: the answer goes on as if nothing had been."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from inference_engine.domain.model import Execution, Manifest
from inference_engine.domain.ports import StoredModel
from inference_engine.domain.requests import Chat, Message, Regex, Sampling
from inference_engine.domain.results import Delta, Done
from inference_engine.infra.executors.runner import RunnerExecutor
from tests.executors.conftest import SUPERVISION
from tests.fixtures.agent import AGENT, TOOLS

GREEDY = Sampling(max_tokens=160, temperature=0)
QUESTION = Message("user", "What is the weather in Rome and what time is it in Oslo?")
REQUESTS = {
    "tools": Chat((QUESTION,), GREEDY, tools=TOOLS),
    "bound": Chat((QUESTION,), GREEDY, constraint=Regex("[a-z ]{20,60}[.]")),
}


@pytest.fixture
async def executor() -> AsyncIterator[RunnerExecutor]:
    manifest = Manifest("agent", "1", "llama_cpp", AGENT.name, execution=Execution(threads=1), options={"parallel": 1})
    running = RunnerExecutor(StoredModel(manifest, Path(AGENT.parent)), time.monotonic, lambda: None, SUPERVISION)
    await running.start()
    yield running
    await running.stop(2.0)


async def written(executor: RunnerExecutor, request: Chat, kill_after: int | None = None) -> list[Delta]:
    """Every delta; the runner dies after so many."""
    deltas: list[Delta] = []
    async for delta in executor.generate(request):
        deltas.append(delta)
        if len(deltas) == kill_after:
            pid = executor.status().pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
    return deltas


def told(deltas: list[Delta]) -> list[tuple[str, ...]]:
    """What the deltas say, kinds and borders aside from ids that are drawn anew."""
    merged: list[tuple[str, ...]] = []
    for delta in deltas:
        if isinstance(delta, Done):
            usage = delta.usage
            merged.append(
                (delta.reason, str(usage.prompt_tokens), str(usage.completion_tokens), str(usage.reasoning_tokens))
            )
            continue
        key = (type(delta).__name__, str(getattr(delta, "call", "")))
        if merged and merged[-1][:2] == key:
            merged[-1] = (*key, merged[-1][2] + delta.text, merged[-1][3] + (delta.raw or delta.text))
        else:
            merged.append((*key, delta.text, delta.raw or delta.text))
    return merged


@pytest.mark.parametrize("name", REQUESTS)
async def test_an_answer_goes_on_where_its_runner_died(executor: RunnerExecutor, name: str) -> None:
    request = REQUESTS[name]
    whole = await written(executor, request)
    assert len(whole) > 20
    step = max(1, len(whole) // 3)
    for kill_after in range(1, len(whole), step):
        assert told(await written(executor, request, kill_after)) == told(whole)
    assert executor.status().restarts >= 1, "the last kill may come when all has been computed"
