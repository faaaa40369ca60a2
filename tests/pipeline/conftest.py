"""Pipelines as this project's own entry points make them, and executors of both kinds over an ONNX model."""

from __future__ import annotations

import time
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import msgspec
import pytest

from inference_engine.domain.model import Execution, Manifest, PipelineSpec, Signature, TensorSpec
from inference_engine.domain.pipeline import Step
from inference_engine.domain.ports import Executor, Loaded, StoredModel
from inference_engine.infra.choices_file import ChoicesFile
from inference_engine.infra.executors.factory import Executors
from inference_engine.infra.executors.runner import Supervision
from inference_engine.infra.pipeline.catalog import GROUP, StepCatalog
from inference_engine.infra.pipeline.runtime import create_runtime
from inference_engine.infra.runtimes.catalog import EntryPointCatalog

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
CATALOG = StepCatalog(EntryPoint(name, value, GROUP) for name, value in PROJECT["entry-points"][GROUP].items())
NO_FOLDER = Path("no-such-folder")
Start = Callable[[str, Manifest, Path], Awaitable[tuple[Executor, Loaded]]]


def step(use: str, folder: Path = NO_FOLDER, /, **options: Any) -> Step:
    """A step of this project, made as a manifest makes it."""
    entry = {"use": use, **options}
    kind = EntryPoint(use, PROJECT["entry-points"][GROUP][use], GROUP).load()
    is_pre = kind.side == "preprocess"
    pipeline = CATALOG.build(PipelineSpec((entry,), ()) if is_pre else PipelineSpec((), (entry,)), folder)
    (placed,) = pipeline.preprocess + pipeline.postprocess
    return placed.step


def spec(name: str, dtype: str, *shape: int) -> dict[str, TensorSpec]:
    return {name: TensorSpec(name, dtype, shape)}


def onnx_manifest(pipeline: PipelineSpec, signature: Signature | None = None, **execution: Any) -> Manifest:
    settings = msgspec.structs.replace(Execution(threads=1), **execution)
    return Manifest("m", "1", "onnx", "model.onnx", signature=signature, pipeline=pipeline, execution=settings)


@pytest.fixture(params=["runner", "thread"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts executors through the factory the server uses, and stops them after the test."""
    started: list[Executor] = []
    choices = ChoicesFile(tmp_path / "state")
    make = Executors(create_runtime, time.monotonic, lambda _: None, Supervision(), EntryPointCatalog(), choices)

    async def begin(kind: str, manifest: Manifest, folder: Path) -> tuple[Executor, Loaded]:
        execution = msgspec.structs.replace(manifest.execution, executor=kind)
        executor = make(StoredModel(msgspec.structs.replace(manifest, execution=execution), folder))
        started.append(executor)
        return executor, await executor.start()

    yield begin
    for executor in started:
        await executor.stop(2.0)
