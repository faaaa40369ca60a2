"""When a model is computed on the event loop, and when it is sent back to its thread."""

from __future__ import annotations

import threading

import pytest

from inference_engine.domain.errors import InferenceFailed
from inference_engine.domain.ports import PromptExecutor
from inference_engine.infra.executors.thread import Pace
from tests.executors.conftest import Start
from tests.executors.test_contract import rows


def test_only_steady_quickness_counts_and_repeated_slowness_ends_it() -> None:
    pace = Pace()
    for _ in range(Pace.OBSERVED - 1):
        pace.note(0.00002)
    assert not pace.quick
    pace.note(0.02)
    assert pace.quick
    pace.note(0.0005)
    assert pace.quick
    pace.note(0.005)
    pace.note(0.00002)
    assert pace.quick
    for _ in range(3):
        pace.note(0.005)
    assert not pace.quick
    for _ in range(Pace.BANISHED - 1):
        pace.note(0.00002)
    assert not pace.quick
    pace.note(0.00002)
    assert pace.quick


def test_a_slow_model_stays_in_its_thread() -> None:
    pace = Pace()
    for _ in range(100):
        pace.note(0.0002)
    assert not pace.quick


async def test_a_quick_model_leaves_its_thread_and_gives_the_same_answers(start: Start) -> None:
    body = """
    def predict(self, inputs):
        import threading
        return {"y": inputs["x"] * 0 + (threading.current_thread() is threading.main_thread())}
    """
    executor = await start("thread", body)
    where = [(await executor.run([rows(1)], [1])).outputs[0]["y"].item() for _ in range(40)]
    assert threading.current_thread() is threading.main_thread()
    assert where[0] == 0
    assert where[-1] == 1


@pytest.mark.parametrize(("seconds", "instant"), [(0.000005, True), (0.00005, False), (0.0005, False)])
def test_only_the_quickest_are_instant(seconds: float, instant: bool) -> None:
    pace = Pace()
    for _ in range(Pace.OBSERVED):
        pace.note(seconds)
    assert pace.instant == instant
    for _ in range(3):
        pace.note(0.005)
    assert not pace.instant


async def test_an_instant_model_answers_and_fails_in_its_callers_turn(start: Start) -> None:
    body = """
    def predict(self, inputs):
        if inputs["x"][0, 0] < 0:
            raise ValueError("negative")
        return {"y": inputs["x"] * 0 + 1}
    """
    executor = await start("thread", body)
    assert isinstance(executor, PromptExecutor)
    assert executor.run_now(rows(1), 1) is None, "how quick it is must be seen first"
    for _ in range(5000):
        await executor.run([rows(1)], [1])
        answered = executor.run_now(rows(1), 1)
        if answered is not None:
            break
    assert answered is not None
    assert answered.outputs[0]["y"].item() == 1
    with pytest.raises(InferenceFailed, match="negative"):
        executor.run_now({"x": -rows(1)["x"] - 1}, 1)
    await executor.stop(1)
    assert executor.run_now(rows(1), 1) is None
