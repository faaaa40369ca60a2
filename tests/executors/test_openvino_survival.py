"""An openvino model in a runner process: killed in the middle of a stream, heartbeats while it computes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from inference_engine.domain.model import Execution, Manifest
from inference_engine.domain.ports import StoredModel
from inference_engine.domain.requests import Chat, JsonSchema, Message, Sampling
from inference_engine.domain.results import Done
from inference_engine.infra.executors.runner import RunnerExecutor, Supervision
from tests.runtimes.conftest import GUIDE

pytest.importorskip("openvino_genai", reason="needs the extra openvino: pip install 'inference-engine[openvino]'")
pytestmark = pytest.mark.slow

QUESTION = (Message("user", "How do I add my own model?"),)
GREEDY = Sampling(max_tokens=40, temperature=0)


@pytest.fixture
async def executor() -> AsyncIterator[RunnerExecutor]:
    manifest = Manifest("guide", "1", "openvino", "guide.gguf", execution=Execution(threads=1), options={"parallel": 4})
    started = RunnerExecutor(StoredModel(manifest, Path(GUIDE)), time.monotonic, lambda: None, Supervision())
    await started.start()
    yield started
    await started.stop(2)


async def streamed(executor: RunnerExecutor, request: Chat, *, kill_after: int = 0) -> tuple[str, Done]:
    """The whole answer; the process is killed after so many deltas."""
    pieces: list[str] = []
    async with aclosing(executor.generate(request)) as deltas:
        async for delta in deltas:
            if isinstance(delta, Done):
                return "".join(pieces), delta
            pieces.append(delta.text)
            if len(pieces) == kill_after:
                pid = executor.status().pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
    raise AssertionError("no end came")


@pytest.mark.parametrize("bound", [False, True], ids=["free", "schema"])
async def test_a_killed_stream_goes_on_where_it_stopped(executor: RunnerExecutor, bound: bool) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 20}}, "required": ["a"]}
    request = Chat(QUESTION, GREEDY, constraint=JsonSchema(schema) if bound else None)
    whole = await streamed(executor, request)
    assert await streamed(executor, request, kill_after=5) == whole
    assert executor.status().restarts == 1


async def test_the_gauges_of_the_runtime_are_seen(executor: RunnerExecutor) -> None:
    await streamed(executor, Chat(QUESTION, GREEDY))
    assert "kv_cache_usage_ratio" in executor.status().gauges
