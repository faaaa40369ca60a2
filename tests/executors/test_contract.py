"""What every executor promises, run on each kind with real runtimes and, for runners, real processes."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest

from inference_engine.domain.errors import EngineError, InferenceFailed, ModelLoadFailed, ModelNotReady, UnsupportedTask
from inference_engine.domain.model import Signature, TensorSpec
from inference_engine.domain.requests import Chat, Message, Sampling
from inference_engine.domain.results import Done, TextDelta
from tests.executors.conftest import Start, build, python_model

DOUBLE = "def predict(self, inputs): return {'y': inputs['x'] * 2}"
COUNT = """
deterministic_stream = True
concurrency = 4
def stream(self, messages, sampling):
    for i in range(int(messages[-1]["content"])):
        time.sleep(0.002)
        yield f"{i} "
"""


def count_to(n: int, **sampling: object) -> Chat:
    return Chat((Message("user", str(n)),), Sampling(**sampling))  # type: ignore[arg-type]


def rows(*values: float) -> dict[str, np.ndarray]:
    return {"x": np.array(values, np.float32).reshape(-1, 1)}


async def test_parts_are_computed_as_one_batch_and_split_again(kind: str, start: Start) -> None:
    executor = await start(kind, DOUBLE + "\nsizes = []")
    result = await executor.run([rows(1), rows(2, 3), rows(4)], [1, 2, 1])
    assert [part["y"].ravel().tolist() for part in result.outputs] == [[2], [4, 6], [8]]
    assert result.compute_s > 0


@pytest.mark.parametrize("columns", [1, 7, 70_000])
async def test_tensors_survive_the_way_whatever_their_size(kind: str, start: Start, columns: int) -> None:
    executor = await start(kind, DOUBLE)
    for _ in range(5):
        array = np.random.default_rng(columns).random((3, columns), np.float32)
        result = await executor.run([{"x": array[:1]}, {"x": array[1:]}], [1, 2])
        np.testing.assert_array_equal(np.concatenate([part["y"] for part in result.outputs]), array * 2)


async def test_overlapping_large_batches_do_not_mix(kind: str, start: Start) -> None:
    executor = await start(kind, DOUBLE)
    arrays = [np.full((1, 40_000), value, np.float32) for value in range(20)]
    results = await asyncio.gather(*(executor.run([{"x": array}], [1]) for array in arrays))
    for value, result in enumerate(results):
        assert (result.outputs[0]["y"] == value * 2).all()


async def test_strings_travel_too(kind: str, start: Start) -> None:
    signature = Signature((TensorSpec("x", "bytes", (-1,)),), (TensorSpec("y", "bytes", (-1,)),))
    body = "def predict(self, inputs): return {'y': np.array([t.upper() for t in inputs['x']], dtype=object)}"
    executor = await start(kind, body, signature)
    result = await executor.run([{"x": np.array([b"a", b"\xff\x00"], object)}], [2])
    assert result.outputs[0]["y"].tolist() == [b"A", b"\xff\x00"]


async def test_an_exception_of_the_model_is_an_error_of_that_batch_only(kind: str, start: Start) -> None:
    executor = await start(
        kind,
        """
        def predict(self, inputs):
            if inputs["x"][0, 0] < 0:
                raise ValueError("negative")
            return {"y": inputs["x"]}
        """,
    )
    with pytest.raises(InferenceFailed, match="negative"):
        await executor.run([rows(-1)], [1])
    assert (await executor.run([rows(1)], [1])).outputs[0]["y"].tolist() == [[1]]


async def test_outputs_that_cannot_be_split_are_refused(kind: str, start: Start) -> None:
    executor = await start(kind, "def predict(self, inputs): return {'y': inputs['x'].sum(keepdims=True)}")
    with pytest.raises(InferenceFailed, match="max_batch_size: 1"):
        await executor.run([rows(1), rows(2)], [1, 1])


async def test_a_generation_streams_and_ends_with_done(kind: str, start: Start) -> None:
    executor = await start(kind, COUNT, None)
    deltas = [delta async for delta in executor.generate(count_to(5))]
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == "0 1 2 3 4 "
    assert isinstance(deltas[-1], Done)
    assert deltas[-1].usage.completion_tokens == 5


async def test_generations_run_together(kind: str, start: Start) -> None:
    executor = await start(kind, COUNT, None)

    async def text(n: int) -> str:
        return "".join([delta.text async for delta in executor.generate(count_to(n)) if isinstance(delta, TextDelta)])

    expected = ["".join(f"{i} " for i in range(n)) for n in (3, 30, 17, 8)]
    assert await asyncio.gather(text(3), text(30), text(17), text(8)) == expected


async def test_closing_a_generation_stops_its_compute(kind: str, start: Start, tmp_path: Path) -> None:
    body = """
    def stream(self, messages, sampling):
        for i in range(100_000):
            pathlib.Path(messages[-1]["content"]).write_text(str(i))
            time.sleep(0.001)
            yield f"{i} "
    """
    executor = await start(kind, body, None)
    trace = tmp_path / "trace"
    async with aclosing(executor.generate(Chat((Message("user", str(trace)),)))) as deltas:
        async for _ in deltas:
            break
    reached = await settled(trace)
    assert int(reached) < 5_000


async def settled(trace: Path) -> str:
    """The content of a file once it has stopped changing."""
    last = ""
    while True:
        await asyncio.sleep(0.1)
        now = trace.read_text()
        if now and now == last:
            return now
        last = now


async def test_an_error_in_mid_stream_reaches_the_caller_after_the_text(kind: str, start: Start) -> None:
    executor = await start(
        kind,
        """
        def stream(self, messages, sampling):
            yield "half"
            raise RuntimeError("broken")
        """,
        None,
    )
    seen = []
    with pytest.raises(InferenceFailed, match="broken"):
        async for delta in executor.generate(count_to(1)):
            seen.append(delta)
    assert [delta.text for delta in seen if isinstance(delta, TextDelta)] == ["half"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("def load(self, folder, options): raise OSError('no such weights')", "no such weights"),
        ("def load(self, folder, options): return 1 / 0", "division by zero"),
    ],
)
async def test_a_model_that_cannot_load_says_why(kind: str, tmp_path: Path, body: str, words: str) -> None:
    executor = build(kind, python_model(tmp_path, body + "\n" + DOUBLE))
    with pytest.raises(ModelLoadFailed, match=words):
        await executor.start()


async def test_a_stopped_executor_refuses_work_and_can_be_stopped_again(kind: str, start: Start) -> None:
    executor = await start(kind, DOUBLE)
    await executor.stop(1.0)
    await executor.stop(1.0)
    assert executor.status().state == "stopped"
    with pytest.raises(ModelNotReady):
        await executor.run([rows(1)], [1])


async def test_stopping_ends_running_generations_with_an_error(kind: str, start: Start) -> None:
    executor = await start(kind, COUNT, None)
    generation = executor.generate(count_to(10_000))
    await anext(generation)
    async with asyncio.timeout(10):
        stopping = asyncio.create_task(executor.stop(2.0))
        with pytest.raises(EngineError):
            async for _ in generation:
                pass
        await stopping


async def test_a_prompt_is_tokenized_and_errors_come_through(kind: str, start: Start) -> None:
    executor = await start(kind, COUNT)
    with pytest.raises(UnsupportedTask, match="tokenize"):
        await executor.tokenize(count_to(1))
