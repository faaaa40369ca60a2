"""Sequences over gRPC: whose they are, and what a model's configuration says of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from inference_engine.core.settings import Settings
from inference_engine.domain.model import Execution, Sequences, SequenceState, Signature, TensorSpec
from inference_engine.testing import FakeExecutor, manifest
from tests.grpc.conftest import serving
from tests.http.support import World

SIGNATURE = Signature(
    (TensorSpec("x", "float32", (-1, 1)), TensorSpec("s", "float32", (-1, 1))),
    (TensorSpec("y", "float32", (-1, 1)), TensorSpec("t", "float32", (-1, 1))),
)


def summed(batch: Any) -> dict[str, Any]:
    total = batch["x"] + batch["s"]
    return {"y": total, "t": total}


def keeping(settings: Settings) -> World:
    """A world with a model that adds up each sequence."""
    world = World(settings)
    execution = Execution(sequences=Sequences(max_sequences=5, states=(SequenceState("s", "t"),)))
    world.repository.models.append(manifest("sum", signature=SIGNATURE, execution=execution))
    world.executors.executors["sum:1"] = FakeExecutor(SIGNATURE, compute=summed)
    return world


def add(client: Any, value: float, key: str, **place: Any) -> float:
    given = triton.InferInput("x", [1, 1], "FP32")
    given.set_data_from_numpy(np.array([[value]], np.float32))
    answer = client.infer("sum", [given], headers={"x-api-key": key}, **place)
    return float(answer.as_numpy("y")[0, 0])


def test_clients_with_different_keys_never_share_a_sequence() -> None:
    world = keeping(Settings(api_keys=("first-key", "second-key")))
    with serving(world) as address, triton.InferenceServerClient(address) as client:
        assert add(client, 1, "first-key", sequence_id=7, sequence_start=True) == 1
        with pytest.raises(InferenceServerException, match="has no sequence 7"):
            add(client, 1, "second-key", sequence_id=7)
        assert add(client, 100, "second-key", sequence_id=7, sequence_start=True) == 100
        assert add(client, 1, "first-key", sequence_id=7, sequence_end=True) == 2
        assert add(client, 1, "second-key", sequence_id=7) == 101


def test_the_configuration_tells_of_sequences() -> None:
    with serving(keeping(Settings())) as address, triton.InferenceServerClient(address) as client:
        config = client.get_model_config("sum").config
        assert config.sequence_batching.oldest.max_candidate_sequences == 5
        assert config.sequence_batching.max_sequence_idle_microseconds == 60_000_000
        assert [tensor.name for tensor in config.input] == ["x"]
        assert [tensor.name for tensor in config.output] == ["y"]
