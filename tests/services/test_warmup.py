"""Warm-up requests: computed after the load, on every instance, before the model is ready."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from inference_engine.domain.errors import EngineError, InferenceFailed, InvalidManifest
from inference_engine.domain.model import Execution, ModelRef, Signature, TensorSpec, Warmup
from inference_engine.services.models import ModelService
from inference_engine.testing import FakeExecutor, FakeExecutors, FakeRepository, FakeRoutes, NullTelemetry, manifest

SIGNATURE = Signature((TensorSpec("x", "float32", (-1, -1, 3)), TensorSpec("t", "bytes", (-1,))))


async def warmed(*warmups: Warmup, instances: int = 1, signature: Signature | None = SIGNATURE) -> list[dict[str, Any]]:
    """What a model computes while it is loaded."""
    seen: list[dict[str, Any]] = []

    def compute(batch: Any) -> dict[str, Any]:
        seen.append(dict(batch))
        return {}

    executor = FakeExecutor(signature, compute=compute)
    model = manifest("m", signature=signature, execution=Execution(warmup=warmups, instances=instances))
    executors, routes = FakeExecutors({"m:1": executor}), FakeRoutes()
    models = ModelService(FakeRepository(model), executors, routes, NullTelemetry(), time.monotonic)
    await models.open()
    try:
        await models.load(ModelRef("m", "1"))
    finally:
        await models.close()
    return seen


async def test_zeros_with_open_sizes_of_one() -> None:
    (seen,) = await warmed(Warmup(rows=4))
    assert (seen["x"].shape, seen["x"].dtype) == ((4, 1, 3), np.float32)
    assert not seen["x"].any()
    assert seen["t"].tolist() == [b""] * 4


async def test_given_shapes_and_values_on_every_instance() -> None:
    seen = await warmed(Warmup(2, {"x": (5, 3)}, {"t": ["a", "ö"]}), instances=3)
    assert [batch["x"].shape for batch in seen] == [(2, 5, 3)] * 3
    assert seen[0]["t"].tolist() == [b"a", "ö".encode()]


@pytest.mark.parametrize(
    ("warmup", "says"),
    [
        (Warmup(1, inputs={"x": [[["a", "b", "c"]]]}), "is no float32 tensor"),
        (Warmup(1, inputs={"t": ["a", "b"]}), r"shape \[2\]"),
    ],
)
async def test_what_does_not_fit_is_refused(warmup: Warmup, says: str) -> None:
    with pytest.raises(InvalidManifest, match=says):
        await warmed(warmup)


async def test_a_model_without_a_signature_cannot_be_warmed_up() -> None:
    with pytest.raises(InvalidManifest, match="needs a signature"):
        await warmed(Warmup(), signature=None)


async def test_a_model_that_fails_on_it_is_not_ready() -> None:
    executor = FakeExecutor(SIGNATURE, fail=InferenceFailed("broken"))
    model = manifest("m", signature=SIGNATURE, execution=Execution(warmup=(Warmup(),)))
    models = ModelService(
        FakeRepository(model), FakeExecutors({"m:1": executor}), FakeRoutes(), NullTelemetry(), time.monotonic
    )
    await models.open()
    with pytest.raises(EngineError, match="broken"):
        await models.load(ModelRef("m", "1"))
    assert models.status(ModelRef("m", "1")).state == "failed"
    await models.close()
