"""When a model is computed on the event loop, and when it is sent back to its thread."""

from __future__ import annotations

import threading

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
