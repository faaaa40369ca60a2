"""Answers that are put together from kept parts say what a message that is built for each would say."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing import shared_memory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from inference_engine.adapters.grpc.answers import Answers, head_of
from inference_engine.adapters.grpc.protocol import InferResponse
from inference_engine.adapters.grpc.tensors import Place, add_output
from inference_engine.adapters.shared_memory import Regions
from inference_engine.domain.errors import InferenceFailed
from inference_engine.domain.model import ModelRef
from inference_engine.domain.results import Prediction, Served

SERVED = Served(ModelRef("m", "2"), "m:latest", "alias")
ANSWERS = Answers(Regions(False, "grpc_shared_memory"))
OUTPUTS = st.dictionaries(
    st.text(min_size=1, max_size=12),
    arrays.arrays(
        st.sampled_from(["bool", "uint8", "int64", "float16", "float32", "float64"]),
        arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=12),
    )
    | st.lists(st.binary(max_size=300)).map(lambda items: np.array([*items, b"last"], object)),
    max_size=4,
)


@given(OUTPUTS, st.text(max_size=40))
def test_any_outputs(outputs: dict[str, Any], request_id: str) -> None:
    expected = head_of(SERVED)
    expected.id = request_id
    for name, array in outputs.items():
        add_output(expected, name, array, None, Regions(False, ""))
    encoded = ANSWERS.encoded(request_id, Prediction(outputs, SERVED), {})
    assert InferResponse.FromString(encoded) == expected


def test_large_outputs_have_long_lengths() -> None:
    for count in (126, 127, 128, 2**14 - 1, 2**14, 2**21 + 5):
        encoded = ANSWERS.encoded("", Prediction({"y": np.zeros(count, np.uint8)}, SERVED), {})
        assert len(InferResponse.FromString(encoded).raw_output_contents[0]) == count


def test_another_version_under_the_same_route_is_named() -> None:
    other = Served(ModelRef("m", "3"), SERVED.route, SERVED.rule)
    for served in (SERVED, other, SERVED):
        answer = InferResponse.FromString(ANSWERS.encoded("", Prediction({}, served), {}))
        assert answer.model_version == served.ref.version


def test_what_is_kept_is_bounded() -> None:
    answers = Answers(Regions(False, ""))
    for rows in range(3000):
        answers.encoded("", Prediction({"y": np.zeros((rows % 1500, 0))}, SERVED), {})
    assert len(answers._outputs) <= 1024


def test_an_output_without_a_datatype_of_the_protocol() -> None:
    with pytest.raises(InferenceFailed, match="complex"):
        ANSWERS.encoded("", Prediction({"y": np.zeros(2, np.complex64)}, SERVED), {})


@pytest.fixture
def region() -> Iterator[tuple[Regions, shared_memory.SharedMemory]]:
    memory = shared_memory.SharedMemory(create=True, size=64)
    regions = Regions(True, "grpc_shared_memory")
    regions.register("mine", memory.name, 0, 64)
    yield regions, memory
    regions.close()
    memory.close()
    memory.unlink()


def test_raw_contents_have_an_entry_for_every_output(region: tuple[Regions, shared_memory.SharedMemory]) -> None:
    """Triton's clients find the contents of an output by its place among all outputs."""
    regions, memory = region
    outputs = {"a": np.arange(4, dtype=np.float32), "b": np.arange(2, dtype=np.int64)}
    encoded = Answers(regions).encoded("", Prediction(outputs, SERVED), {"a": Place("mine", 16, 32)})
    answer = InferResponse.FromString(encoded)
    assert list(answer.raw_output_contents) == [b"", outputs["b"].tobytes()]
    assert answer.outputs[0].parameters["shared_memory_byte_size"].int64_param == 16
    assert bytes(memory.buf[16:32]) == outputs["a"].tobytes()
