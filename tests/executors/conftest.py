"""Small Python models whose behaviour the executor tests can steer, and one executor of each kind over them."""

from __future__ import annotations

import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from inference_engine.domain.model import Execution, Manifest, Signature, TensorSpec
from inference_engine.domain.ports import Executor, StoredModel
from inference_engine.infra.executors.instances import InstancesExecutor
from inference_engine.infra.executors.runner import RunnerExecutor, Supervision
from inference_engine.infra.executors.thread import ThreadExecutor
from inference_engine.infra.runtimes.catalog import EntryPointCatalog

SUPERVISION = Supervision(hung_after_s=1.5, check_interval_s=0.1, backoff_s=0.05, max_backoff_s=0.2, cancel_grace_s=1.0)
FLOATS = Signature((TensorSpec("x", "float32", (-1, -1)),), (TensorSpec("y", "float32", (-1, -1)),))

Start = Callable[..., Awaitable[Executor]]


def python_model(folder: Path, body: str, signature: Signature | None = FLOATS, **execution: object) -> StoredModel:
    """A model folder with one Python class, `Model`, whose methods are `body`."""
    source = "import os, time, pathlib\nimport numpy as np\n\nclass Model:\n" + textwrap.indent(
        textwrap.dedent(body), "    "
    )
    (folder / "model.py").write_text(source)
    manifest = Manifest(
        "probe",
        "1",
        "python",
        "model.py:Model",
        signature=signature,
        execution=Execution(**execution),  # type: ignore[arg-type]
    )
    return StoredModel(manifest, folder)


def build(kind: str, model: StoredModel, on_restart: Callable[[], None] = lambda: None) -> Executor:
    """An executor of that kind, not started."""
    if kind == "instances":
        return InstancesExecutor([build("runner", model, on_restart) for _ in range(2)])  # type: ignore[misc]
    if kind == "thread":
        return ThreadExecutor(model, EntryPointCatalog().create("python"))
    return RunnerExecutor(model, time.monotonic, on_restart, SUPERVISION)


@pytest.fixture(params=["runner", "thread", "instances"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts executors and stops them after the test."""
    started: list[Executor] = []

    async def begin(kind: str, body: str, signature: Signature | None = FLOATS, **execution: object) -> Executor:
        executor = build(kind, python_model(tmp_path, body, signature, **execution))
        await executor.start()
        started.append(executor)
        return executor

    yield begin
    for executor in started:
        await executor.stop(2.0)
